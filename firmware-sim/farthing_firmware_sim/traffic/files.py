"""Read the public files that can be replayed: each line becomes a :class:`Row`, or a named reason why not.

Rule 1: a reader yields exactly one item for each line of the file, so that lines read = rows + reasons.
Rule 2: what cannot be true (287 kWh, an end before its start) is named and left out, never mended.
Rule 3: quantities are whole units by decimal arithmetic; where a meter's values have parts of a unit, the part is carried to its next
line, so that the sum of the rows is the sum of the file, rounded down once.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

from farthing_firmware_sim.config import Kind, ReplayFormat
from farthing_firmware_sim.traffic.measure import MAX_SESSION_WH, acn_time

#: Larger than ACN-Data's whole Caltech export (30,000 sessions); a file beyond it is not one of these.
MAX_FILE_BYTES = 512 * 1024 * 1024
#: What the largest charger on sale gives. A mean above it is a defect of the row's times.
MAX_POWER_W = 400_000
#: What a machine that sells snacks takes for one sale: a thousand. More is a defect, and no count that a device can say.
MAX_SALE_CENTS = 100_000
HALF_HOUR_S = 1_800
_MINUTE_S = 60
_HOUR_S = 3_600
_DAY_S = 86_400

NOT_AN_OBJECT = "not an object"
FIELD_MISSING = "a field is missing or of another kind"
NO_ENERGY = "no energy"
ENERGY_IMPOSSIBLE = "more energy than a car holds"
POWER_IMPOSSIBLE = "more power than a charger gives"
ENDS_BEFORE_START = "ends before it starts"
PAID_IN_CASH = "paid in cash"
NOT_PROCESSED = "not processed"
NO_AMOUNT = "no amount"
AMOUNT_IMPOSSIBLE = "more than a machine takes"
ANOTHER_LINE = "another line of a transaction"
TIME_TWICE = "its half hour was read before"


class ReplayError(ValueError):
    """A file that is not of the format it is said to be, or that nothing can be played from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One use of a file: when it began, how long it drew, when it was over (seconds since 1970), and how many units.

    ``station`` is where it happened, by the file's name for it; units are Wh, or cents for what is sold at once.
    """

    name: str
    station: str
    begun_s: int
    done_s: int
    gone_s: int
    quantity: int

    @property
    def per_hour(self) -> int:
        """Units per hour that deliver it in its time, rounded up; 0 for what is sold at once."""
        lasted_s = self.done_s - self.begun_s
        return -(-self.quantity * _HOUR_S // lasted_s) if lasted_s else 0


Item: TypeAlias = Row | str
# Of a field that is not there, no number or date, or a number beyond all numbers.
_UNREADABLE = (KeyError, TypeError, ValueError, ArithmeticError)
Reader: TypeAlias = Callable[[bytes], Iterator[Item]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a file is told and read, and which devices play it."""

    kind: Kind
    reader: Reader
    #: Columns (or keys) that the beginning of such a file names, and no other does.
    marks: tuple[str, ...]


def read_bytes(file: Path) -> bytes:
    """The file's content, unpacked if it is gzip; ``ReplayError`` if it cannot be read or is too large."""
    try:
        with file.open("rb") as probe:
            packed = probe.read(2) == b"\x1f\x8b"
        with gzip.open(file, "rb") if packed else file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise ReplayError(f"cannot read {file}") from err
    if len(data) > MAX_FILE_BYTES:
        raise ReplayError(f"{file} is larger than {MAX_FILE_BYTES} bytes unpacked")
    return data


def format_of(data: bytes) -> ReplayFormat:
    """Which format ``data`` is of, by what its beginning names."""
    head = data[:4096].decode("utf-8", "replace")
    for name, form in FORMATS.items():
        if all(mark in head for mark in form.marks):
            return name
    known = ", ".join(name.value for name in FORMATS)
    raise ReplayError(f"the file is none of {known}: it begins with {head[:60]!r}")


def read_acn(data: bytes) -> Iterator[Item]:
    """ACN-Data JSON as its API gives it (``_items``)."""
    try:
        # Energies as Decimal: 5.814 kWh are 5814 Wh, not 5813.
        content = json.loads(data, parse_float=Decimal)
        items = content["_items"]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise ReplayError("it is not ACN-Data JSON: it has no _items") from err
    if not isinstance(items, list):
        raise ReplayError("it is not ACN-Data JSON: _items is not a list")
    yield from map(_acn_row, items)


def _acn_row(item: object) -> Item:
    if not isinstance(item, dict):
        return NOT_AN_OBJECT
    try:
        begun_s, gone_s = acn_time(item["connectionTime"]), acn_time(item["disconnectTime"])
        done = item.get("doneChargingTime")
        done_s = gone_s if done is None else acn_time(done)
        energy_wh = int(Decimal(item["kWhDelivered"]) * 1000)
        name, station = str(item["sessionID"]), str(item["stationID"])
    except _UNREADABLE:
        return FIELD_MISSING
    if not begun_s < done_s <= gone_s:
        # doneChargingTime after disconnect or before connect: a known defect of the source; the stay is what counts.
        done_s = gone_s
    return _charged(name=name, station=station, begun_s=begun_s, done_s=done_s, gone_s=gone_s, energy_wh=energy_wh)


def _charged(*, name: str, station: str, begun_s: int, done_s: int, gone_s: int, energy_wh: int) -> Item:
    if energy_wh <= 0:
        return NO_ENERGY
    if energy_wh > MAX_SESSION_WH:
        return ENERGY_IMPOSSIBLE
    if gone_s <= begun_s:
        return ENDS_BEFORE_START
    if energy_wh * 3600 > MAX_POWER_W * (done_s - begun_s):
        return POWER_IMPOSSIBLE
    return Row(name=name, station=station, begun_s=begun_s, done_s=done_s, gone_s=gone_s, quantity=energy_wh)


def read_perth(data: bytes) -> Iterator[Item]:
    """Perth & Kinross Council's CSV; a station is a connector of a charge point. Its times are whole minutes, taken as UTC."""
    for number, line in _lines(data):
        try:
            begun_s = _seconds(f"{line['Start Date']} {line['Start Time']}", "%d/%m/%Y %H:%M")
            gone_s = _seconds(f"{line['End Date']} {line['End Time']}", "%d/%m/%Y %H:%M")
            energy_wh = int(Decimal(line["Total kWh"]) * 1000)
            station = f"{line['CP ID']}-{line['Connector']}"
        except _UNREADABLE:
            yield FIELD_MISSING
            continue
        if gone_s == begun_s:
            # Begun and over within one minute: it lasted a part of that minute.
            gone_s += _MINUTE_S
        yield _charged(
            name=str(number), station=station, begun_s=begun_s, done_s=gone_s, gone_s=gone_s, energy_wh=energy_wh
        )


def read_london(data: bytes) -> Iterator[Item]:
    """Low Carbon London's half hours; a station is a household's meter. A half hour without use is a row of 0 Wh."""
    carried: dict[str, Decimal] = {}
    read: set[tuple[str, int]] = set()
    for number, line in _lines(data):
        try:
            begun_s = _seconds(line["datetime"], "%Y-%m-%d %H:%M:%S")
            station = line["mac"]
            exact_wh = Decimal(line["kwhh"]) * 1000 + carried.get(station, Decimal(0))
            quantity = int(exact_wh)
        except _UNREADABLE:
            yield FIELD_MISSING
            continue
        if exact_wh < 0:
            yield NO_ENERGY
            continue
        if quantity > MAX_POWER_W // 2:
            yield POWER_IMPOSSIBLE
            continue
        if (station, begun_s) in read:
            yield TIME_TWICE
            continue
        read.add((station, begun_s))
        carried[station] = exact_wh - quantity
        over_s = begun_s + HALF_HOUR_S
        yield Row(name=str(number), station=station, begun_s=begun_s, done_s=over_s, gone_s=over_s, quantity=quantity)


def read_vending(data: bytes) -> Iterator[Item]:
    """Card-reader vending machines: one row for each card transaction, at its total in cents.

    The file knows days, not hours: a machine's transactions of a day are spread over it in the order of their numbers.
    """
    lines = list(_lines(data))
    first: dict[str, int] = {}
    by_day: dict[tuple[str, int], list[str]] = {}
    found: dict[int, tuple[str, str, int, int]] = {}
    reasons: dict[int, str] = {}
    for number, line in lines:
        try:
            day_s = _seconds(line["TransDate"], "%A, %B %d, %Y")
            name, station = line["Transaction"], line["Device ID"]
            exact = Decimal(line["TransTotal"]) * 100
            cents = int(exact)
            status, how = line["Status"], line["Type"]
        except _UNREADABLE:
            reasons[number] = FIELD_MISSING
            continue
        if status != "Processed":
            reasons[number] = NOT_PROCESSED
        elif how != "Credit":
            reasons[number] = PAID_IN_CASH
        elif name in first:
            reasons[number] = ANOTHER_LINE
        elif cents != exact or cents <= 0:
            reasons[number] = NO_AMOUNT
        elif cents > MAX_SALE_CENTS:
            reasons[number] = AMOUNT_IMPOSSIBLE
        else:
            first[name] = number
            by_day.setdefault((station, day_s), []).append(name)
            found[number] = (name, station, day_s, cents)
    at: dict[str, int] = {}
    for (_, day_s), names in by_day.items():
        names.sort(key=lambda each: (len(each), each))
        for place, name in enumerate(names):
            at[name] = day_s + (place + 1) * _DAY_S // (len(names) + 1)
    for number, _ in lines:
        if number in reasons:
            yield reasons[number]
        else:
            name, station, _, cents_of = found[number]
            yield Row(name=name, station=station, begun_s=at[name], done_s=at[name], gone_s=at[name], quantity=cents_of)


FORMATS: Mapping[ReplayFormat, Format] = {
    ReplayFormat.ACN_JSON: Format(kind=Kind.CHARGER, reader=read_acn, marks=('"_items"',)),
    ReplayFormat.PERTH_CSV: Format(kind=Kind.CHARGER, reader=read_perth, marks=("CP ID", "Connector", "Total kWh")),
    ReplayFormat.LONDON_CSV: Format(kind=Kind.SMART_METER, reader=read_london, marks=("mac", "datetime", "kwhh")),
    ReplayFormat.VENDING_CSV: Format(
        kind=Kind.VENDING, reader=read_vending, marks=("Device ID", "Transaction", "TransTotal")
    ),
}


def read(file: Path, form: ReplayFormat | None) -> tuple[ReplayFormat, Sequence[Item]]:
    """The format of ``file`` (told by its content where ``form`` is None) and its items; ``ReplayError`` says what is wrong."""
    data = read_bytes(file)
    try:
        found = form or format_of(data)
        return found, tuple(FORMATS[found].reader(data))
    except ReplayError as err:
        raise ReplayError(f"{file}: {err}") from err


def _lines(data: bytes) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line number, fields) of a CSV with a head; the first line after it is 2."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ReplayError("it is not UTF-8") from err
    try:
        yield from enumerate(csv.DictReader(io.StringIO(text, newline="")), 2)
    except csv.Error as err:
        raise ReplayError(f"it is no CSV: {err}") from err


def _seconds(text: str, pattern: str) -> int:
    return int(datetime.strptime(text, pattern).replace(tzinfo=UTC).timestamp())
