"""``farthing-firmware-sim``: devices that behave, and devices that attack."""

import asyncio
import json
import logging
import sys
import time
import uuid
from collections import Counter
from collections.abc import Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import structlog
import typer

from farthing.configuration import ConfigError
from farthing.hsm import HsmError
from farthing_firmware_sim.attempts import PATIENCE_US, Desk
from farthing_firmware_sim.config import Config, Mode, Pace, ReplayFormat, load
from farthing_firmware_sim.device.stored import StateError
from farthing_firmware_sim.element import GrantError
from farthing_firmware_sim.purpose import Purpose
from farthing_firmware_sim.store import StoreError, StoreInUse
from farthing_firmware_sim.traffic.files import FORMATS, ReplayError, Row, read
from farthing_firmware_sim.transport.coap import CoapKeyError

app = typer.Typer(
    help="Simulated devices. `run` behaves; `clone-attack`, `attempt` and `attack` do not, or only ask.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Option("--config", help="devices.toml; its keys are described in config.py.")]

Begin = Annotated[str | None, typer.Option("--from", help="First day or instant played, ISO 8601, UTC.")]
End = Annotated[str | None, typer.Option("--to", help="First day or instant not played.")]

T = TypeVar("T")

#: What stops a start, each with a message that says what to do.
_STOPS = (ConfigError, HsmError, StoreError, StateError, ReplayError, CoapKeyError, GrantError)
EXIT_WRONG = 2
EXIT_INCOMPLETE = 3


@app.command()
def run(config: ConfigFile) -> None:
    """Run the devices until told to finish (SIGUSR1, or a file `finish` in out_dir) or to stop (SIGTERM)."""
    _serve(_load(config), purpose=Purpose.SERVE)


@app.command(name="clone-attack")
def clone_attack(config: ConfigFile) -> None:
    """Spend with a copied element: begin with the original's counter and register, and end when `uses` are spent."""
    loaded = _load(config)
    if loaded.clone is None or any(device.uses is None for device in loaded.devices):
        _stop("clone-attack needs [clone] of_state_dir and `uses` for each device")
    _serve(loaded, purpose=Purpose.SPEND)


@app.command()
def replay(
    config: ConfigFile,
    file: Annotated[
        Path | None,
        typer.Option(help="ACN-Data JSON, Perth & Kinross CSV, Low Carbon London CSV or vending CSV; may be gzip."),
    ] = None,
    form: Annotated[ReplayFormat | None, typer.Option("--format", help="Left out: told by the file's content.")] = None,
    pace: Annotated[
        Pace,
        typer.Option(help="`answers`: as fast as gateways answer; `clock`: with the run's clock, at any rate it has."),
    ] = Pace.ANSWERS,
    begin: Begin = None,
    end: End = None,
    window_s: Annotated[int, typer.Option(help="Play a slice of this many seconds that the seed chooses; 0: all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Play the rows of a real file on the devices of the right kind, finish, and say what was played, what not, and why."""
    loaded = _load(config)
    where = file or loaded.traffic.file
    if where is None:
        _stop("which file? give --file, or [traffic] file in the configuration")
    try:
        given = loaded.traffic.model_dump() | {
            "mode": Mode.REPLAY,
            "file": where.absolute(),
            "format": form or loaded.traffic.format,
            "pace": pace,
            "from_s": _instant(begin),
            "to_s": _instant(end),
            "window_s": window_s,
        }
        traffic = type(loaded.traffic).model_validate(given)
    except ValueError as err:
        _stop(str(err))
    told = loaded.model_copy(update={"traffic": traffic})
    incomplete = None
    try:
        _serve(told, purpose=Purpose.REPLAY)
    except typer.Exit as exit_:
        incomplete = exit_
    summary = json.loads((told.out_dir / "summary.json").read_text())
    played = {"complete": summary["complete"], **(summary["replay"] or {})}
    if as_json:
        print(json.dumps(played))
    else:
        print(f"{played['file']} ({played['format']}): {played['rows']} rows, {played['played']} played")
        for reason, count in played["skipped"].items():
            print(f"{count:>9}  {reason}")
    if incomplete is not None:
        raise incomplete


@app.command()
def stations(
    file: Annotated[Path, typer.Argument(help="A file that `replay` plays.")],
    form: Annotated[ReplayFormat | None, typer.Option("--format", help="Left out: told by the file's content.")] = None,
    begin: Begin = None,
    end: End = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """List where a file's uses happened: a device named like a station plays that station's rows."""
    try:
        found, items = read(file, form)
        from_s, to_s = _instant(begin), _instant(end)
    except ValueError as err:
        _stop(str(err))
    rows: Counter[str] = Counter()
    quantities: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for item in items:
        if isinstance(item, Row) and (from_s or 0) <= item.begun_s and (to_s is None or item.begun_s < to_s):
            rows[item.station] += 1
            quantities[item.station] += item.quantity
            most[item.station] = max(most[item.station], item.per_hour)
    kind = FORMATS[found].kind
    if as_json:
        table = {
            name: {"rows": count, "quantity": quantities[name], "most_per_hour": most[name]}
            for name, count in sorted(rows.items())
        }
        print(json.dumps({"format": found.value, "kind": kind.value, "rows": len(items), "stations": table}))
        return
    print(
        f"{file} ({found.value}): {len(items)} rows, {rows.total()} of them for {len(rows)} stations of kind {kind.value}"
    )
    for name, count in sorted(rows.items()):
        print(f"{count:>9}  {quantities[name]:>12}  {most[name]:>9}/h  {name}")


def _instant(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as err:
        raise ValueError(
            f"--from and --to take a day or an instant of ISO 8601, like 2019-03-01, not {text!r}"
        ) from err
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


@app.command()
def attempt(
    config: ConfigFile,
    device: Annotated[str, typer.Option(help="Who asks.")],
    gateway: Annotated[str, typer.Option(help="Who is asked.")],
    token: Annotated[str | None, typer.Option(help="What is presented; left out: the device's first token.")] = None,
) -> None:
    """Make one intent and print the answer as JSON; through the running fleet if there is one."""
    from farthing_firmware_sim.fleet import Fleet

    _log_to_stderr()
    loaded = _load(config)
    found = next((each for each in loaded.devices if each.id == device), None)
    if found is None or gateway not in found.gateways or not found.tokens:
        _stop(f"{config} has no device {device} that serves payers at {gateway}")
    name = uuid.uuid4().hex
    desk = Desk(folder=loaded.out_dir / "attempts")
    desk.ask(name, device=device, gateway=gateway, token=token or found.tokens[0])
    until = time.monotonic() + 2 * PATIENCE_US / 1_000_000

    async def alone() -> None:
        only = loaded.model_copy(update={"devices": (found,), "clone": None})
        async with asyncio.timeout(until - time.monotonic()):
            await Fleet(only, purpose=Purpose.ATTEMPT).run()

    try:
        _run(alone())
    except StoreInUse:
        # The running fleet has the counters: it asks for us.
        while desk.answer(name) is None and time.monotonic() < until:
            time.sleep(0.05)
    except TimeoutError:
        pass
    except _STOPS as err:
        _stop(str(err))
    answer = desk.answer(name)
    if answer is None:
        desk.withdraw(name)
        _stop("no answer came")
    print(json.dumps(answer))


@app.command()
def attack(
    config: ConfigFile,
    device: Annotated[str, typer.Option(help="As whom; a session device, and not one of a running fleet.")],
    gateway: Annotated[str, typer.Option(help="Against whom.")],
) -> None:
    """Send bad input of every kind in the catalogue and print what the gateway said, as a JSON list."""
    from farthing_firmware_sim.fleet import attack_with

    _log_to_stderr()
    loaded = _load(config)
    found = next((each for each in loaded.devices if each.id == device), None)
    if found is None or gateway not in found.gateways or not found.tokens:
        _stop(f"{config} has no device {device} that serves payers at {gateway}")
    try:
        observed = _run(attack_with(loaded, device=found, gateway=gateway))
    except _STOPS as err:
        _stop(str(err))
    print(json.dumps([asdict(each) for each in observed], indent=1))
    if not all(each.right for each in observed):
        raise typer.Exit(EXIT_INCOMPLETE)


def _serve(config: Config, *, purpose: Purpose) -> None:
    from farthing_firmware_sim.fleet import Fleet, Outcome  # aiocoap and lakers load only where they are used

    async def fleet() -> Outcome:
        return await Fleet(config, purpose=purpose).run()

    _log_to_stderr()
    try:
        outcome = _run(fleet())
    except _STOPS as err:
        _stop(str(err))
    if not outcome.complete and not outcome.stopped:
        for name, what in outcome.missing.items():
            print(f"{name}: {what}", file=sys.stderr)
        raise typer.Exit(EXIT_INCOMPLETE)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns; what stops a start is raised as itself, also where it ended a group of tasks."""
    try:
        return asyncio.run(work)
    except ExceptionGroup as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if isinstance(cause, _STOPS):
            raise cause from group
        raise


def _load(file: Path) -> Config:
    try:
        return load(file)
    except ConfigError as err:
        _stop(str(err))


def _stop(why: str) -> NoReturn:
    print(f"farthing-firmware-sim: {why}", file=sys.stderr)
    raise typer.Exit(EXIT_WRONG)


def _log_to_stderr() -> None:
    logging.getLogger("coap").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
