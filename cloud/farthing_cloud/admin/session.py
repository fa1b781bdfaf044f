"""What every command of ``farthing-admin`` has in common: reach the back office, say what came of it, to people or to programs.

Rule 1: a row's names end in their unit, and the unit says how a value is written: ``_micros`` as an exact amount, ``_us`` as a
UTC time; as JSON both stay integers.
Rule 2: amounts are typed as decimal text and read exactly; what has more than six decimals is refused, never rounded.
Rule 3: a no of a service is one sentence on stderr and exit status 1.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, NoReturn, TypeAlias

import grpc
import typer
from rich.console import Console
from rich.table import Table

from farthing.clock import SECOND_US
from farthing.money import MAX_AMOUNT_MICROS, MICROS, PPM, format_micros

#: ``typer.Context.obj``: opens the channel to the back office at the first call; the root command closes it.
ChannelSource: TypeAlias = Callable[[], grpc.Channel]
#: What stands in a field of a row.
Cell: TypeAlias = str | int | bool | bytes | Sequence[str]
Row: TypeAlias = Mapping[str, Cell]

#: How gRPC begins to say that nobody listens, or that the peers do not accept each other's certificates.
_NO_LINE = "failed to connect to all addresses"
#: A person waits at most this long for one answer.
CALL_TIMEOUT_S = 60.0
#: Back to the line's beginning, and nothing on it.
_WIPED = "\r\x1b[K"
#: SHA-256, bytes.
HASH_SIZE = 32
#: Where output is no terminal nothing is folded: programs and files have no width.
UNFOLDED_WIDTH = 400

Json = Annotated[
    bool, typer.Option("--json", help="One JSON document; amounts in integer micros, times in integer µs.")
]
Operator = Annotated[str, typer.Option("--operator", envvar="FARTHING_ADMIN_OPERATOR", help="The operator's id.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, change nothing.")]


@contextmanager
def back_office(ctx: typer.Context) -> Iterator[grpc.Channel]:
    """The channel to the back office; a refusal or a dead line ends the command with a sentence and status 1."""
    source: ChannelSource = ctx.find_root().obj
    try:
        yield source()
    except grpc.RpcError as err:
        fail(_sentence(err))


def _sentence(err: grpc.RpcError) -> str:
    details = err.details() or ""
    if err.code() == grpc.StatusCode.UNAVAILABLE and details.startswith(_NO_LINE):
        return f"the back office does not answer: start it with `farthing-cloud serve`, or correct address in admin.toml ({details})"
    return f"{err.code().name.lower().replace('_', ' ')}: {details}"


def fail(sentence: str) -> NoReturn:
    """Say why not, and end with status 1."""
    typer.echo(sentence, err=True)
    raise typer.Exit(1)


@contextmanager
def same_line() -> Iterator[Callable[[str], None]]:
    """Says how far something is, on one line of the terminal, and wipes it at the end; nothing where stderr is none."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    try:
        yield lambda text: typer.echo(f"{_WIPED}{text}", err=True, nl=False)
    finally:
        typer.echo(_WIPED, err=True, nl=False)


def amount_micros(text: str) -> int:
    """An exact decimal such as "10.00" in micros; raise ``typer.BadParameter`` for anything else."""
    value = _exact(text, MICROS)
    if value is None or not 0 <= value <= MAX_AMOUNT_MICROS:
        raise typer.BadParameter(
            f"{text!r} is not an amount: write for example 12.50, at most six decimals, not negative, at most {format_micros(MAX_AMOUNT_MICROS)}"
        )
    return value


def content_hash_of(text: str) -> bytes:
    """The SHA-256 that somebody approves, as ``--content-hash`` names it."""
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != HASH_SIZE:
        fail("--content-hash is 64 hexadecimal digits")
    return digest


def share_ppm(text: str) -> int:
    """A percentage such as "60" or "33.3333" in parts per million; raise ``typer.BadParameter`` for anything else."""
    value = _exact(text.removesuffix("%"), PPM // 100)
    if value is None or not 0 < value <= PPM:
        raise typer.BadParameter(f"{text!r} is not a share: write a percentage with at most four decimals")
    return value


def instant_us(text: str) -> int:
    """An instant such as "2026-03-01T00:00:00+01:00" in µs since 1970; raise ``typer.BadParameter`` for anything else."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as err:
        raise typer.BadParameter(f"{text!r} is not a time: write for example 2026-03-01T00:00:00+01:00") from err
    if at.tzinfo is None:
        raise typer.BadParameter(f"{text!r} names no time zone: add Z, or an offset such as +01:00")
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * SECOND_US + since.microseconds


def _exact(text: str, units: int) -> int | None:
    try:
        value = Decimal(text.strip()) * units
        whole = int(value)
    except (InvalidOperation, OverflowError, ValueError):
        return None
    return whole if value == whole else None


def show(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool) -> None:
    """Print ``rows``: a table with these columns, or a JSON array of objects with all that the rows have."""
    if as_json:
        print_json([_plain(row) for row in rows])
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(_heading(column), justify="right" if column.endswith("_micros") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(column, row[column]) for column in columns))
    _console().print(table)
    if not rows:
        typer.echo("none")


def show_one(row: Row, *, as_json: bool) -> None:
    """Print one thing: a line for each field, or a JSON object."""
    if as_json:
        print_json(_plain(row))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in row.items():
        table.add_row(_heading(name), _text(name, value))
    _console().print(table)


def _console() -> Console:
    width = None if sys.stdout.isatty() else UNFOLDED_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def print_json(document: object) -> None:
    """One JSON document for programs."""
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def _plain(row: Row) -> dict[str, object]:
    return {
        name: value.hex() if isinstance(value, bytes) else list(value) if isinstance(value, (list, tuple)) else value
        for name, value in row.items()
    }


def _heading(name: str) -> str:
    return name.removesuffix("_micros").removesuffix("_us").replace("_", " ")


def _text(name: str, value: Cell) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int() if name.endswith("_micros"):
            return format_micros(value)
        case int() if name.endswith("_us"):
            return _time(value)
        case bytes():
            return value.hex()
        case str() | int():
            return str(value)
        case _:
            return ", ".join(value)


def _time(at_us: int) -> str:
    if not at_us:
        return "-"
    seconds, rest_us = divmod(at_us, SECOND_US)
    try:
        at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_us)
    except (OverflowError, ValueError, OSError):
        return f"{at_us} µs"
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
