"""Which rows of a file are played, and by whom: a seeded slice, or all of it; every row is accounted for.

Rows read = rows given to devices + rows skipped, by reason; what a device refuses at run time is added to the reasons then.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from farthing_firmware_sim.traffic.files import Item, ReplayError, Row

OUTSIDE_SLICE = "outside the slice"
DEVICE_BUSY = "its device is taken by another row"
ABOVE_RATING = "more power than its device is rated for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What is to be played: rows by device in order of time, where it begins in the file, and why the others are not."""

    by_device: Mapping[str, tuple[Row, ...]]
    rows_read: int
    skipped: Mapping[str, int]
    begins_s: int


def cut(
    items: Iterable[Item],
    *,
    devices: Sequence[str],
    seed: int,
    window_s: int | None,
    from_s: int | None = None,
    to_s: int | None = None,
    in_turn: bool = False,
    rated_per_hour: Mapping[str, int] | None = None,
) -> Slice:
    """What ``devices`` play of ``items``: rows that begin in ``from_s`` to ``to_s`` (seconds since 1970; None: no bound), and of these a
    window of ``window_s``, a seeded one among those at least half as full as the fullest (None: all).

    A station of the file that has the name of a device is played by it, the others are shared out. Where rows of two stations meet at
    one device, the later is skipped, or with ``in_turn`` played after the first. A row that needs more units per hour than its device
    is rated for (``rated_per_hour``; None: nobody has a limit) is skipped: played, less would be delivered than the file says.
    """
    skipped: Counter[str] = Counter()
    usable: list[Row] = []
    for item in items:
        if isinstance(item, str):
            skipped[item] += 1
        else:
            usable.append(item)
    rows_read = len(usable) + skipped.total()
    usable.sort(key=lambda row: (row.begun_s, row.station, row.name))
    inside = [
        row for row in usable if (from_s is None or row.begun_s >= from_s) and (to_s is None or row.begun_s < to_s)
    ]
    if not inside or not devices:
        raise ReplayError("no row to play, or no device of the kind that plays it")
    skipped[OUTSIDE_SLICE] += len(usable) - len(inside)
    rated = rated_per_hour or dict.fromkeys(devices, max(row.per_hour for row in inside))
    # What no device can play is out before the window is chosen: a window full of it is not worth playing.
    fit = [row for row in inside if row.per_hour <= max(rated.values())]
    skipped[ABOVE_RATING] += len(inside) - len(fit)
    inside = fit
    if not inside:
        raise ReplayError("every row needs more power than the devices are rated for (rated_per_hour)")
    if window_s is not None:
        counts = _rows_from_each(inside, window_s)
        full = [at for at, count in enumerate(counts) if count * 2 >= max(counts)]
        first = random.Random(seed).choice(full)  # noqa: S311  # reproducible input, nothing secret
        skipped[OUTSIDE_SLICE] += len(inside) - counts[first]
        inside = inside[first : first + counts[first]]
    place = _places(inside, devices)
    by_device: dict[str, list[Row]] = {device: [] for device in devices}
    for row in inside:
        played = by_device[place[row.station]]
        if row.per_hour > rated[place[row.station]]:
            skipped[ABOVE_RATING] += 1
        elif played and row.begun_s < played[-1].gone_s and not in_turn:
            skipped[DEVICE_BUSY] += 1
        else:
            played.append(row)
    return Slice(
        by_device={device: tuple(played) for device, played in by_device.items()},
        rows_read=rows_read,
        skipped={reason: count for reason, count in sorted(skipped.items()) if count},
        begins_s=inside[0].begun_s,
    )


def _places(rows: Sequence[Row], devices: Sequence[str]) -> Mapping[str, str]:
    """The device of each station."""
    stations = dict.fromkeys(row.station for row in rows)
    named = {station: station for station in stations if station in set(devices)}
    free = [device for device in devices if device not in named] or list(devices)
    others = [station for station in stations if station not in named]
    return {**named, **{station: free[at % len(free)] for at, station in enumerate(others)}}


def _rows_from_each(rows: Sequence[Row], window_s: int) -> list[int]:
    """For each row, how many begin within ``window_s`` from its begin on."""
    counts = []
    end = 0
    for at, row in enumerate(rows):
        while end < len(rows) and rows[end].begun_s < row.begun_s + window_s:
            end += 1
        counts.append(end - at)
    return counts
