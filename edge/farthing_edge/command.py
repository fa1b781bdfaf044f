"""``farthing-edge``: run a gateway, ask a running one, look into its journal, set up its broker.

What a command needs is imported when it is called: `status` answers before the daemon's libraries would be loaded.
"""

import contextlib
import gc
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from farthing.configuration import ConfigError
from farthing_edge.config import EdgeConfig, load_config

if TYPE_CHECKING:
    from farthing.hsm import Party, Token

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
journal_app = typer.Typer(no_args_is_help=True, help="Look into the journal, beside a running gateway or without one.")
app.add_typer(journal_app, name="journal")

ConfigOption = Annotated[Path, typer.Option("--config", help="edge.toml")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


def _fail(message: object) -> NoReturn:
    print(f"farthing-edge: {message}", file=sys.stderr)
    raise typer.Exit(1)


def _config(path: Path) -> EdgeConfig:
    try:
        return load_config(path)
    except ConfigError as err:
        _fail(err)


@contextlib.contextmanager
def _token(config: EdgeConfig) -> Iterator[tuple["Token", "Party"]]:
    from farthing.hsm import Hsm, HsmError, load_party

    try:
        party = load_party(config.party)
        with Hsm.of(party) as hsm:
            yield hsm.attach(party), party
    except HsmError as err:
        _fail(err)


@app.command()
def run(config: ConfigOption) -> None:
    """Run the gateway until SIGTERM."""
    settings = _config(config)
    # What a dead line means is said by us, once an outage; gRPC would write lines of its own at each attempt.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # A hundred thousand objects that all stay: the gateway sets the collector up when they are there.
    gc.disable()
    # First: it knows what of structlog is not needed.
    import farthing_edge.log  # noqa: F401  # for what its import does
    from farthing_edge.gateway import StartError, run_gateway

    code = 0
    try:
        run_gateway(settings)
    except StartError as err:
        print(f"farthing-edge: {err}", file=sys.stderr)
        code = 1
    except BaseException:  # noqa: BLE001  # a bug: said whole, and whoever watches this process starts it again
        traceback.print_exc()
        code = 1
    # Everything is closed. gRPC keeps a thread that is no daemon for as long as anything, a traceback included, refers to
    # credentials with a signer of ours, and an ordinary exit would wait for it for ever.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@app.command()
def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """What a running gateway says of itself."""
    settings = _config(config)
    from farthing_edge.status import StatusError, fetch, lines

    try:
        page = fetch(settings)
    except StatusError as err:
        _fail(err)
    if as_json:
        print(json.dumps(page, indent=2))
        return
    width = max(len(name) for name, _ in lines(page))
    for name, value in lines(page):
        print(f"{name:<{width}}  {value}")


@app.command("parked")
def show_parked(config: ConfigOption, as_json: JsonOption = False) -> None:
    """What waits for people: parked statements that nobody has decided about, uses set aside, commands that failed.

    `farthing-admin devices close-use`, `believe` and `dismiss` decide.
    """
    from farthing_edge.gateway import core_settings
    from farthing_edge.journal.errors import JournalError
    from farthing_edge.journal.inspection import parked

    settings = _config(config)
    try:
        for row in parked(settings.journal_file, core_settings(settings)):
            if as_json:
                print(json.dumps(row))
            else:
                print("  ".join(f"{name}={_short(value)}" for name, value in row.items()))
    except JournalError as err:
        _fail(err)


@app.command()
def doctor(config: ConfigOption, as_json: JsonOption = False) -> None:
    """What this gateway's set-up protects against, and what it does not. Exit 1 when something it relies on does not hold."""
    settings = _config(config)
    from farthing.hsm import HsmError, load_party
    from farthing_edge.doctor import examine

    try:
        party = load_party(settings.party)
    except HsmError as err:
        _fail(err)
    findings = examine(settings, party)
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.verdict:<5}  {finding.what}")
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


@app.command()
def broker(
    config: ConfigOption,
    listen: Annotated[str, typer.Option(help='"host:port" of the broker')],
    directory: Annotated[Path, typer.Option(help="Where its configuration, rules and data are kept.")],
    as_json: JsonOption = False,
) -> None:
    """Write the site's Mosquitto configuration, rules and day's key; print how to start it.

    Run it again within the day to renew the key, and send the broker SIGHUP.
    """
    import shlex

    from farthing_edge.broker import MOSQUITTO, BrokerError, find_mosquitto, write_broker

    settings = _config(config)
    with _token(settings) as (token, party):
        try:
            files = write_broker(
                token,
                party,
                listen=listen,
                directory=directory.absolute(),
                socket=None if settings.mqtt is None else settings.mqtt.socket,
            )
        except BrokerError as err:
            _fail(err)
    if find_mosquitto() is None:
        print(
            f"farthing-edge: {MOSQUITTO} is not installed here (Debian: apt-get install mosquitto)",
            file=sys.stderr,
        )
    if as_json:
        print(
            json.dumps(
                {
                    "command": list(files.command),
                    "configuration": str(files.configuration),
                    "ca_file": str(files.anchor),
                    "key_not_after": files.transport_key.not_after.isoformat(),
                }
            )
        )
    else:
        print(shlex.join(files.command))


@app.command("client-certificate")
def client_certificate(
    config: ConfigOption,
    device: Annotated[list[str], typer.Option(help="The device's id; may be given many times.")],
    directory: Annotated[
        Path,
        typer.Option(
            help="Where key, certificate and the site's CA are written; of several devices, each in a folder of its name."
        ),
    ],
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Before the first start: the journal knows no device yet.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Issue a day's key for devices' MQTT connections, for devices that the journal knows as active."""
    from farthing.ids import IdError
    from farthing_edge.broker import BrokerError, device_key

    settings = _config(config)
    for each in device:
        if not unchecked and not _is_active(settings, each):
            _fail(
                f"the journal knows no active device {each!r}: put it at this site with `farthing-admin`, or --unchecked"
            )
    written: dict[str, dict[str, str]] = {}
    with _token(settings) as (token, party):
        for each in device:
            folder = directory.absolute() if len(device) == 1 else directory.absolute() / each
            try:
                key = device_key(token, party, each, directory=folder)
            except (BrokerError, IdError) as err:
                _fail(err)
            written[each] = {
                "key_file": str(key.key_file),
                "certificate_file": str(key.certificate_file),
                "ca_file": str(key.ca_file),
                "not_after": key.not_after.isoformat(),
            }
    if as_json:
        print(json.dumps(written[device[0]] if len(device) == 1 else written))
        return
    for name, where in written.items():
        if len(device) > 1:
            print(name)
        for what, value in where.items():
            print(f"{what:<16}  {value}")


def _is_active(config: EdgeConfig, device: str) -> bool:
    from farthing.v1 import directive_pb2
    from farthing_edge.journal.errors import JournalError
    from farthing_edge.journal.store import connect_to_read

    try:
        with contextlib.closing(connect_to_read(config.journal_file)) as journal:
            row = journal.execute("SELECT status FROM devices WHERE device_id = ?", (device,)).fetchone()
    except JournalError as err:
        _fail(err)
    return row is not None and row[0] == directive_pb2.DEVICE_STATUS_ACTIVE


@journal_app.command("verify")
def journal_verify(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Check every entry's hash, that batches and directives chain, and replay it all; exit 1 at the first fault."""
    from dataclasses import asdict

    from farthing_edge.gateway import core_settings
    from farthing_edge.journal.errors import JournalError
    from farthing_edge.journal.inspection import verify

    settings = _config(config)
    try:
        report = verify(settings.journal_file, core_settings(settings))
    except JournalError as err:
        _fail(err)
    found = asdict(report)
    if as_json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            if name != "fault":
                print(f"{name:<20}  {value}")
    if report.fault is not None:
        _fail(f"at position {report.fault.position}: {report.fault.what}; keep the file, and salvage it")


@journal_app.command("show")
def journal_show(
    config: ConfigOption,
    first: Annotated[int, typer.Option("--from", min=1, help="The first position.")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="At most this many entries.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Entries, one a line."""
    from farthing_edge.journal.errors import JournalError
    from farthing_edge.journal.inspection import show

    try:
        for entry in show(_config(config).journal_file, from_position=first, limit=limit):
            if as_json:
                print(json.dumps(entry))
                continue
            rest = " ".join(f"{name}={_short(value)}" for name, value in entry.items() if name not in _ENTRY_HEAD)
            print(f"{entry['position']:>10}  {entry['at_us']}  {entry['kind']:<20} {rest}")
    except JournalError as err:
        _fail(err)


_ENTRY_HEAD = ("position", "at_us", "kind")
#: Statements and batches are for --json.
_SHOWN_LENGTH = 40


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


@journal_app.command("salvage")
def journal_salvage(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Put together what a damaged journal still says, of a stopped gateway; the damaged files are moved aside and kept."""
    from dataclasses import asdict

    from farthing_edge.gateway import core_settings
    from farthing_edge.journal.errors import JournalError
    from farthing_edge.journal.salvage import salvage

    settings = _config(config)
    clock = settings.clock.clock()
    try:
        done = salvage(settings.journal_file, core_settings(settings, clock), at=clock.now())
    except (JournalError, OSError) as err:
        _fail(err)
    if as_json:
        print(json.dumps({**asdict(done), "aside": str(done.aside)}))
        return
    print(f"recovered   up to position {done.recovered_to}")
    print(f"beyond      {done.beyond} entries after the damage, in {done.aside}/beyond.jsonl")
    for first, last in done.lost:
        print(f"lost        {first} to {last}")
    print(f"set aside   {done.aside}")
    print("The gateway meters and closes, and authorizes again when the cloud has given it a new incarnation.")


@journal_app.command("export")
def journal_export(
    config: ConfigOption,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    batches: Annotated[
        bool,
        typer.Option("--batches", help="Signed batches without a receipt, with their detail, for `ledger import`."),
    ] = False,
    everything: Annotated[bool, typer.Option("--everything", help="With --batches: those with a receipt too.")] = False,
) -> None:
    """Write every entry as a line of JSON, whole or not at all; with --batches what the ledger takes by hand."""
    from farthing_edge.journal.errors import JournalError

    if everything and not batches:
        _fail("--everything is about batches: say --batches too")
    if out.is_dir():
        _fail(f"--out: {out} is a folder: name the file to write")
    scratch = out.with_name(f".{out.name}.new")
    read = _config(config)
    try:
        if batches:
            from farthing_edge.engine.parcels import export_batches

            with scratch.open("wb") as opened:
                count, bare = export_batches(read.journal_file, read.gateway, opened, everything=everything)
            said = f"{count} batches in {out}" + (f", {bare} without their detail" if bare else "")
        else:
            from farthing_edge.journal.inspection import export

            with scratch.open("w", encoding="utf-8") as lines:
                said = f"{export(read.journal_file, lines)} entries in {out}"
        scratch.replace(out)
    except JournalError as err:
        scratch.unlink(missing_ok=True)
        _fail(err)
    except OSError as err:
        with contextlib.suppress(OSError):
            scratch.unlink()
        _fail(f"--out: {out} cannot be written: {err.strerror}")
    print(said)


if __name__ == "__main__":
    app()
