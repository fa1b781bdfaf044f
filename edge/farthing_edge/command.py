"""``farthing-edge``: run a gateway, ask a running one, look into its journal, set up its broker.

What a command needs is imported when it is called: `status` answers before the daemon's libraries would be loaded.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from farthing_edge.config import ConfigError, EdgeConfig, load_config

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


@contextmanager
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
    from farthing_edge.gateway import StartError, run_gateway

    try:
        run_gateway(settings)
    except StartError as err:
        _fail(err)


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
    import shutil

    from farthing_edge.broker import BrokerError, write_broker

    settings = _config(config)
    with _token(settings) as (token, party):
        try:
            files = write_broker(token, party, listen=listen, directory=directory.absolute())
        except BrokerError as err:
            _fail(err)
    if shutil.which(files.command[0]) is None:
        print(
            f"farthing-edge: {files.command[0]} is not installed here (Debian: apt-get install mosquitto)",
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
    device: Annotated[str, typer.Option(help="The device's id.")],
    directory: Annotated[Path, typer.Option(help="Where its key, certificate and the site's CA are written.")],
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Before the first start: the journal knows no device yet.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Issue a day's key for a device's MQTT connection, for devices that the journal knows as active."""
    from farthing.ids import IdError
    from farthing_edge.broker import BrokerError, device_key

    settings = _config(config)
    if not unchecked:
        from farthing_edge.journal_view import JournalProblem, device_is_active

        try:
            known = device_is_active(settings, device)
        except JournalProblem as err:
            _fail(err)
        if not known:
            _fail(f"the journal knows no active device {device!r}: put it at this site with `farthing-admin`, or --unchecked")
    with _token(settings) as (token, party):
        try:
            key = device_key(token, party, device, directory=directory.absolute())
        except (BrokerError, IdError) as err:
            _fail(err)
    where = {
        "key_file": str(key.key_file),
        "certificate_file": str(key.certificate_file),
        "ca_file": str(key.ca_file),
        "not_after": key.not_after.isoformat(),
    }
    if as_json:
        print(json.dumps(where))
    else:
        for name, value in where.items():
            print(f"{name:<16}  {value}")


@journal_app.command("verify")
def journal_verify(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Check every entry's checksum, the positions, and that batches and directives chain; exit 1 at the first fault."""
    from farthing_edge.journal_view import JournalProblem, verify

    try:
        result: dict[str, Any] = verify(_config(config))
    except JournalProblem as err:
        _fail(err)
    print(json.dumps(result) if as_json else "  ".join(f"{name} {value}" for name, value in result.items()))
    if result["fault"]:
        raise typer.Exit(1)


@journal_app.command("show")
def journal_show(
    config: ConfigOption,
    first: Annotated[int, typer.Option("--from", help="The first position.")] = 1,
    limit: Annotated[int, typer.Option(help="At most this many entries.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Entries, one a line."""
    from farthing_edge.journal_view import JournalProblem, entries

    try:
        for entry in entries(_config(config), first=first, limit=limit):
            print(json.dumps(entry) if as_json else f"{entry['position']:>10}  {entry['at']}  {entry['kind']:<24} {entry['body']}")
    except JournalProblem as err:
        _fail(err)


@journal_app.command("export")
def journal_export(config: ConfigOption, out: Annotated[Path, typer.Option(help="The file to write.")]) -> None:
    """Write all entries, batches and directives as JSON lines, whole or not at all."""
    from farthing_edge.journal_view import JournalProblem, export

    try:
        count = export(_config(config), out)
    except JournalProblem as err:
        _fail(err)
    print(f"{count} lines in {out}")


if __name__ == "__main__":
    app()
