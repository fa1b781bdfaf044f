"""Which elements of a tariff hold by date, weekday and time of day at one site: instants, not wall clocks.

Rule 1: an element holds at an instant if the site's wall clock then shows a date, a weekday and a time within its restrictions. So
an hour that the clock skips prices nothing, and one that it repeats prices twice, as long as it lasts.
Rule 2: from its first minute to its last not included; a window that ends before it begins passes midnight, each side of it under its
own day's date and weekday.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from farthing.clock import SECOND_US, Instant, is_date
from farthing.tariff.error import TariffError
from farthing.tariff.restricting import Restrictions

_DAY_S = 86_400
_HOUR_S = 3_600
_EPOCH = date(1970, 1, 1)
#: Days whose pieces are remembered: a session touches one or two, a site's sessions the same ones.
_MAX_DAYS = 64


class Timetable:
    """The pieces of time within which the same elements hold, as bits (element 0 is bit 0)."""

    def __init__(self, rows: Sequence[Restrictions], zone: ZoneInfo | None) -> None:
        self._rows = tuple(rows)
        self._zone = zone
        self._always = sum(1 << index for index, row in enumerate(rows) if not row.by_calendar)
        self._minutes = sorted(
            {0}
            | {
                minute % (24 * 60)
                for row in rows
                for minute in (row.start_minute, row.end_minute)
                if minute is not None
            }
        )
        self._is_constant = not any(row.by_calendar for row in rows)
        # UTC day → (starts in seconds since 1970, bits), both ascending in time.
        self._days: dict[int, tuple[list[int], list[int]]] = {}

    def pieces(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """(from, to, bits) in µs, ascending, that fill ``start`` to ``end``; one of no length where they are the same."""
        if self._is_constant:
            return [(start, end, self._always)]
        pieces: list[tuple[int, int, int]] = []
        at = start
        while True:
            starts, bits = self._day(at // (_DAY_S * SECOND_US))
            index = bisect_right(starts, at // SECOND_US) - 1
            until = starts[index + 1] if index + 1 < len(starts) else (at // (_DAY_S * SECOND_US) + 1) * _DAY_S
            to = min(until * SECOND_US, end)
            if pieces and pieces[-1][2] == bits[index]:
                pieces[-1] = (pieces[-1][0], to, bits[index])
            else:
                pieces.append((at, to, bits[index]))
            if to >= end:
                return pieces
            at = to

    def _day(self, day: int) -> tuple[list[int], list[int]]:
        known = self._days.get(day)
        if known is None:
            if len(self._days) >= _MAX_DAYS:
                self._days.clear()
            known = self._days[day] = self._worked_out(day)
        return known

    def _worked_out(self, day: int) -> tuple[list[int], list[int]]:
        first = day * _DAY_S
        if not is_date(first * SECOND_US):
            raise TariffError("an instant that no calendar has")
        edges = [first, *self._transitions(first), first + _DAY_S]
        starts: list[int] = []
        bits: list[int] = []
        for begin, stop in itertools.pairwise(edges):
            offset = self._offset(begin)
            local = begin + offset
            midnight = local // _DAY_S * _DAY_S
            marks = [begin]
            for start_of_day in (midnight, midnight + _DAY_S):
                marks += [start_of_day + minute * 60 - offset for minute in self._minutes]
            for at in sorted({mark for mark in marks if begin <= mark < stop}):
                held = self._bits(at + offset)
                if not bits or bits[-1] != held:
                    starts.append(at)
                    bits.append(held)
        return starts, bits

    def _offset(self, at_s: int) -> int:
        assert self._zone is not None  # a calendar without a zone is refused before a timetable is made
        offset = datetime.fromtimestamp(at_s, UTC).astimezone(self._zone).utcoffset()
        assert offset is not None  # every zone of the data has one
        return int(offset.total_seconds())

    def _transitions(self, first: int) -> list[int]:
        """Where the offset changes within a UTC day, to the second."""
        found = []
        for hour in range(24):
            low, high = first + hour * _HOUR_S, first + (hour + 1) * _HOUR_S
            before = self._offset(low)
            if self._offset(high) == before:
                continue
            while high - low > 1:
                middle = (low + high) // 2
                if self._offset(middle) == before:
                    low = middle
                else:
                    high = middle
            if high < first + _DAY_S:
                found.append(high)
        return found

    def _bits(self, local_s: int) -> int:
        """Which elements hold when the wall clock shows this many seconds since 1970."""
        days, second = divmod(local_s, _DAY_S)
        today, minute = _EPOCH + timedelta(days=days), second // 60
        held = 0
        for index, row in enumerate(self._rows):
            if _holds(row, today, minute):
                held |= 1 << index
        return held


def _holds(row: Restrictions, today: date, minute: int) -> bool:
    if row.weekdays and today.weekday() not in row.weekdays:
        return False
    if row.start_date is not None and today < row.start_date:
        return False
    if row.end_date is not None and today >= row.end_date:
        return False
    start = 0 if row.start_minute is None else row.start_minute
    end = 24 * 60 if row.end_minute is None else row.end_minute
    if start < end:
        return start <= minute < end
    return minute >= start or minute < end


def instant_of(local: datetime, zone: ZoneInfo) -> Instant:
    """The instant at which the wall clock of ``zone`` shows ``local`` (the first, if twice); raise ``TariffError`` if never."""
    at = local.replace(tzinfo=zone, fold=0)
    since = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    if at.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local.replace(tzinfo=None):
        raise TariffError(f"the wall clock of {zone.key} never shows {local.isoformat()}: it is put forward then")
    return Instant((since.days * _DAY_S + since.seconds) * SECOND_US + since.microseconds)
