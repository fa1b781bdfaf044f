"""Play a seeded slice of a real file: its rows become uses of our chargers, and every row is accounted for.

Rule 1: a reader turns a file of one format into :class:`Row` or a named reason why not; formats are listed in ``READERS``.
Rule 2: rows read = rows played + rows skipped, by reason; what a device refuses at run time is added to the reasons then.
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeAlias

from farthing_firmware_sim.config import ReplayFormat
from farthing_firmware_sim.traffic.measure import MAX_SESSION_WH, acn_time

#: Larger than ACN-Data's whole Caltech export (30,000 sessions); a file beyond it is not one of these.
MAX_FILE_BYTES = 512 * 1024 * 1024
NOT_AN_OBJECT = "not an object"
FIELD_MISSING = "a field is missing or of another kind"
NO_ENERGY = "no energy"
ENERGY_IMPOSSIBLE = "more energy than a car holds"
ENDS_BEFORE_START = "ends before it starts"
OUTSIDE_SLICE = "outside the slice"
CHARGER_BUSY = "its charger is taken by another row"


class ReplayError(ValueError):
    """A file that is not of the format it is said to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One session of a file: when it was plugged in, how long it drew power, when it left; seconds since 1970."""

    name: str
    station: str
    begun_s: int
    done_s: int
    gone_s: int
    energy_wh: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What is to be played: rows by charger in order of time, with begin at 0 s, and why the others are not."""

    by_charger: Mapping[str, tuple[Row, ...]]
    rows_read: int
    skipped: Mapping[str, int]
    begins_s: int


Reader: TypeAlias = Callable[[Path], Iterator[Row | str]]


def read_acn(file: Path) -> Iterator[Row | str]:
    """ACN-Data JSON as its API gives it (``_items``), plain or gzip; raise ``ReplayError`` if it is not that."""
    try:
        with file.open("rb") as probe:
            packed = probe.read(2) == b"\x1f\x8b"
        with gzip.open(file, "rb") if packed else file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as err:
        raise ReplayError(f"cannot read {file}") from err
    if len(data) > MAX_FILE_BYTES:
        raise ReplayError(f"{file} is larger than {MAX_FILE_BYTES} bytes unpacked")
    try:
        # Energies as Decimal: 5.814 kWh are 5814 Wh, not 5813.
        content = json.loads(data, parse_float=Decimal)
        items = content["_items"]
    except (ValueError, KeyError, TypeError) as err:
        raise ReplayError(f"{file} is not ACN-Data JSON: it has no _items") from err
    if not isinstance(items, list):
        raise ReplayError(f"{file} is not ACN-Data JSON: _items is not a list")
    yield from map(_acn_row, items)


def _acn_row(item: object) -> Row | str:
    if not isinstance(item, dict):
        return NOT_AN_OBJECT
    try:
        begun_s, gone_s = acn_time(item["connectionTime"]), acn_time(item["disconnectTime"])
        done = item.get("doneChargingTime")
        done_s = gone_s if done is None else acn_time(done)
        energy_wh = int(Decimal(item["kWhDelivered"]) * 1000)
        name, station = str(item["sessionID"]), str(item["stationID"])
    except (KeyError, TypeError, ValueError, InvalidOperation):
        return FIELD_MISSING
    if energy_wh <= 0:
        return NO_ENERGY
    if energy_wh > MAX_SESSION_WH:
        return ENERGY_IMPOSSIBLE
    if gone_s <= begun_s:
        return ENDS_BEFORE_START
    if not begun_s < done_s <= gone_s:
        # doneChargingTime after disconnect or before connect: a known defect of the source; the stay is what counts.
        done_s = gone_s
    return Row(name=name, station=station, begun_s=begun_s, done_s=done_s, gone_s=gone_s, energy_wh=energy_wh)


READERS: Mapping[ReplayFormat, Reader] = {ReplayFormat.ACN_JSON: read_acn}


def cut(rows: Iterator[Row | str], *, chargers: Sequence[str], window_s: int, seed: int) -> Slice:
    """A slice of ``window_s`` seconds for ``chargers``: of the windows at least half as full as the fullest, a seeded one."""
    skipped: Counter[str] = Counter()
    usable: list[Row] = []
    for row in rows:
        if isinstance(row, str):
            skipped[row] += 1
        else:
            usable.append(row)
    rows_read = len(usable) + skipped.total()
    if not usable or not chargers:
        raise ReplayError("no row to play, or no charger to play it on")
    usable.sort(key=lambda row: (row.begun_s, row.name))
    counts = _rows_from_each(usable, window_s)
    full = [at for at, count in enumerate(counts) if count * 2 >= max(counts)]
    first = random.Random(seed).choice(full)  # noqa: S311  # reproducible input, nothing secret
    begins_s = usable[first].begun_s
    chosen = usable[first : first + counts[first]]
    skipped[OUTSIDE_SLICE] += len(usable) - len(chosen)
    stations = list(dict.fromkeys(row.station for row in chosen))
    place = {station: chargers[at % len(chargers)] for at, station in enumerate(stations)}
    by_charger: dict[str, list[Row]] = {charger: [] for charger in chargers}
    for row in chosen:
        played = by_charger[place[row.station]]
        if played and row.begun_s < played[-1].gone_s:
            skipped[CHARGER_BUSY] += 1
        else:
            played.append(row)
    return Slice(
        by_charger={charger: tuple(played) for charger, played in by_charger.items()},
        rows_read=rows_read,
        skipped={reason: count for reason, count in sorted(skipped.items()) if count},
        begins_s=begins_s,
    )


def _rows_from_each(rows: Sequence[Row], window_s: int) -> list[int]:
    """For each row, how many begin within ``window_s`` from its begin on."""
    counts = []
    end = 0
    for at, row in enumerate(rows):
        while end < len(rows) and rows[end].begun_s < row.begun_s + window_s:
            end += 1
        counts.append(end - at)
    return counts
