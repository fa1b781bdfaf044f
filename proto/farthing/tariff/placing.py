"""Which component of a tariff each part of a use falls to, one stretch between two readings after the other.

Rule 1: a stretch is placed once, when its second reading is known, and stays: what is billed for it never falls again, whatever comes
late. Rule 2: what two readings do not place (units between readings on both sides of a change of price; time in which a
threshold of quantity is passed) falls to the cheapest component that it can be of, none at all included.
Rule 3: a stretch in which the register stands still is PARKING_TIME, else TIME; power is the average of a stretch.
Rule 4: FLAT is due once, at the first moment for which it is certain that an element with FLAT holds.
Rule 5: quantities are exact: whole units and µs for registers; a session described in words may have fractions.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, unique
from fractions import Fraction
from typing import NamedTuple

from farthing.clock import SECOND_US, Instant
from farthing.tariff.restricting import Reservation, Restrictions
from farthing.tariff.tariff import Dimension, PlacedPlan, Slot
from farthing.tariff.timetable import Timetable

#: Units or µs; a fraction only in sessions that are described in words.
Quantity = int | Fraction

_HOUR_US = 3_600 * SECOND_US
#: By as much a register that counts whole seconds may differ from the clock and still have run all the time.
_SECOND_TOLERANCE_US = SECOND_US


class Placed(NamedTuple):
    """A use so far, up to the instant ``at`` of its last reading (the latest, where a clock was set back).

    ``quantities`` are (slot, quantity) pairs, ascending by slot; ``counted`` and ``timed`` the slots that the last units and the last time
    fell to, -1 before the first: what closing rounds up.
    """

    at: Instant
    quantities: tuple[tuple[int, int], ...] = ()
    counted: int = -1
    timed: int = -1


@unique
class Kind(Enum):
    """What happens in a stretch."""

    CHARGING = "charging"
    PARKING = "parking"
    RESERVATION = "reservation"
    RESERVATION_EXPIRED = "reservation_expired"


class Stretch(NamedTuple):
    """What happened between two moments: units counted from the start of the use, power in W (None: unknown, and not asked for).

    ``is_even``: the units came evenly over the time, so that every moment has its count.
    """

    kind: Kind
    start_at: int
    end_at: int
    start_units: Quantity
    end_units: Quantity
    watt: Fraction | None = None
    ampere: Fraction | None = None
    is_even: bool = False
    #: Whole units only, as a register shows them.
    is_whole: bool = True


class Part(NamedTuple):
    """One part of a stretch that falls to a slot."""

    slot: int
    quantity: Quantity
    start_at: int
    end_at: int


class Tally:
    """Quantities while they are added up."""

    __slots__ = ("counted", "parts", "quantities", "reserved", "timed")

    def __init__(self, placed: Placed | None = None) -> None:
        self.quantities: dict[int, Quantity] = {} if placed is None else dict(placed.quantities)
        self.counted = -1 if placed is None else placed.counted
        self.timed = -1 if placed is None else placed.timed
        #: The slot that the last time of a reservation fell to.
        self.reserved = -1
        self.parts: list[Part] = []

    def add(self, slot: int, quantity: Quantity, start_at: int, end_at: int) -> None:
        """``quantity`` more falls to ``slot``."""
        if slot >= 0 and quantity:
            self.quantities[slot] = self.quantities.get(slot, 0) + quantity
            self.parts.append(Part(slot, quantity, start_at, end_at))

    def placed(self, at: Instant) -> Placed:
        """As it is journaled, up to ``at``; whole quantities only."""
        return Placed(
            at,
            tuple((slot, int(quantity)) for slot, quantity in sorted(self.quantities.items())),
            self.counted,
            self.timed,
        )


def stretch_of_register(plan: PlacedPlan, start_at: int, end_at: int, start_units: int, end_units: int) -> Stretch:
    """The stretch between two readings of one register, as far as it is known."""
    units, elapsed = end_units - start_units, end_at - start_at
    watt = None
    if plan.counted is Dimension.ENERGY and elapsed:
        watt = Fraction(units * _HOUR_US, elapsed)
    # A register that counted every second of the stretch shows where each of them lies.
    runs_with_the_clock = plan.counted is Dimension.TIME and abs(units * SECOND_US - elapsed) <= _SECOND_TOLERANCE_US
    return Stretch(
        kind=Kind.CHARGING if units else Kind.PARKING,
        start_at=start_at,
        end_at=end_at,
        start_units=start_units,
        end_units=end_units,
        watt=watt,
        is_even=runs_with_the_clock and elapsed > 0,
    )


def lay(plan: PlacedPlan, timetable: Timetable, started_at: int, stretch: Stretch, tally: Tally) -> None:
    """Place ``stretch``, the next of the use that began at ``started_at``."""
    still = _bits(plan.rows, lambda row: _holds_throughout(row, stretch))
    moments = [
        (start, end, bits & still & _held_after(plan, start - started_at))
        for start, end, bits in _cut(
            timetable.pieces(stretch.start_at, stretch.end_at),
            [started_at + bound * SECOND_US for bound in plan.duration_bounds_s],
        )
    ]
    counts = [
        (start, end, _held_from(plan, start))
        for start, end in _split(stretch.start_units, stretch.end_units, plan.unit_bounds)
    ]
    if stretch.is_even and (len(moments) > 1 or len(counts) > 1):
        _lay_evenly(plan, stretch, moments, counts, tally)
        return
    table = _table(plan, stretch.kind)
    _flat(plan, table, (moments[0][2] & counts[0][2], moments[-1][2] & counts[-1][2]), stretch, tally)
    for start, end, held in counts:
        slot = _cheapest(plan, table(plan.counted), [bits & held for _, _, bits in moments])
        tally.add(slot, end - start, stretch.start_at, stretch.end_at)
        tally.counted = slot if slot >= 0 and end > start else tally.counted
    if plan.counted is not Dimension.TIME:
        for start, end, bits in moments:
            slot = _cheapest(plan, table(_clocked(stretch.kind)), [bits & held for _, _, held in counts])
            _add_time(tally, stretch, slot, start, end)


def _lay_evenly(
    plan: PlacedPlan,
    stretch: Stretch,
    moments: Sequence[tuple[int, int, int]],
    counts: Sequence[tuple[Quantity, Quantity, int]],
    tally: Tally,
) -> None:
    """Every moment has its count, so both are cut where either changes."""
    units, elapsed = stretch.end_units - stretch.start_units, stretch.end_at - stretch.start_at
    table = _table(plan, stretch.kind)

    def count_at(moment: Quantity) -> Quantity:
        count = stretch.start_units + Fraction(units) * (Fraction(moment) - stretch.start_at) / elapsed
        return int(count) if stretch.is_whole else count

    def moment_at(count: Quantity) -> Quantity:
        return stretch.start_at + Fraction(elapsed) * (count - stretch.start_units) / units

    edges = sorted(
        {*(Fraction(start) for start, _, _ in moments), *(Fraction(moment_at(start)) for start, _, _ in counts[1:])}
    )
    for start, end in zip(edges, [*edges[1:], Fraction(stretch.end_at)], strict=True):
        if end <= start:
            continue
        bits = next(held for _, until, held in moments if start < until)
        # The count at an edge is where the next band of counts begins.
        middle = stretch.start_units + Fraction(units) * ((start + end) / 2 - stretch.start_at) / elapsed
        held = next((held for _, until, held in counts if middle < until), counts[-1][2])
        _flat(plan, table, (bits & held,), stretch, tally)
        slot = _cheapest(plan, table(plan.counted), [bits & held])
        quantity = count_at(end) - count_at(start)
        tally.add(slot, quantity, int(start), int(end))
        tally.counted = slot if slot >= 0 and quantity else tally.counted
        if plan.counted is not Dimension.TIME:
            slot = _cheapest(plan, table(_clocked(stretch.kind)), [bits & held])
            _add_time(tally, stretch, slot, start, end)


def _add_time(tally: Tally, stretch: Stretch, slot: int, start: Quantity, end: Quantity) -> None:
    length = end - start
    tally.add(slot, int(length) if length == int(length) else length, int(start), int(end))
    if slot >= 0 and length:
        if stretch.kind in _RESERVED:
            tally.reserved = slot
        else:
            tally.timed = slot


def _flat(
    plan: PlacedPlan,
    table: "Callable[[Dimension], tuple[int, ...]]",
    held_at: Iterable[int],
    stretch: Stretch,
    tally: Tally,
) -> None:
    slots = table(Dimension.FLAT)
    if any(slot in tally.quantities for slot in slots):
        return
    for held in held_at:
        slot = _first(plan, slots, held)
        if slot >= 0:
            tally.add(slot, 1, stretch.start_at, stretch.start_at)
            return


# Which component ------------------------------------------------------------------------------------------------------

_RESERVED = frozenset({Kind.RESERVATION, Kind.RESERVATION_EXPIRED})


def _clocked(kind: Kind) -> Dimension:
    return Dimension.PARKING_TIME if kind is Kind.PARKING else Dimension.TIME


def _table(plan: PlacedPlan, kind: Kind) -> "Callable[[Dimension], tuple[int, ...]]":
    """The slots of a dimension, in the order in which they are asked."""
    if kind not in _RESERVED:
        return lambda dimension: plan.by_dimension.get(dimension, ())

    def reserved(dimension: Dimension) -> tuple[int, ...]:
        slots = plan.by_reservation.get(dimension, ())
        if kind is Kind.RESERVATION:
            return tuple(slot for slot in slots if plan.slots[slot].reservation is Reservation.HELD)
        # What is said of expired ones goes before what is said of all (OCPI 2.2.1, section 11.4.5).
        return tuple(sorted(slots, key=lambda slot: plan.slots[slot].reservation is not Reservation.EXPIRED))

    return reserved


def _first(plan: PlacedPlan, slots: Sequence[int], held: int) -> int:
    for slot in slots:
        if plan.slots[slot].row & held:
            return slot
    return -1


def _cheapest(plan: PlacedPlan, slots: Sequence[int], possible: Sequence[int]) -> int:
    """Of all that may hold the slot that costs least with tax; -1 where it may cost nothing."""
    if not slots:
        return -1
    found = {_first(plan, slots, held) for held in possible}
    return -1 if -1 in found else min(found, key=lambda slot: (plan.slots[slot].gross_micros, slot))


# What holds -----------------------------------------------------------------------------------------------------------


def _bits(rows: Sequence[Restrictions], holds: Callable[[Restrictions], bool]) -> int:
    held = 0
    for index, row in enumerate(rows):
        if holds(row):
            held |= 1 << index
    return held


def _within(value: Quantity | None, least: Quantity | None, most: Quantity | None) -> bool:
    """Whether a value, None for one without end, is from ``least`` on and below ``most``."""
    if value is None:
        return most is None
    return (least is None or value >= least) and (most is None or value < most)


def _holds_throughout(row: Restrictions, stretch: Stretch) -> bool:
    """Whether power and current are within the row's."""
    # Units in no time at all have come with more power than any bound.
    watt = Fraction(0) if stretch.watt is None and stretch.end_units == stretch.start_units else stretch.watt
    if not _within(watt, row.min_watt, row.max_watt):
        return False
    return (row.min_ampere is None and row.max_ampere is None) or _within(
        stretch.ampere, row.min_ampere, row.max_ampere
    )


def _held_after(plan: PlacedPlan, elapsed_us: int) -> int:
    """The rows that hold so long after the start."""
    return _bits(
        plan.rows,
        lambda row: _within(
            elapsed_us,
            None if row.min_duration_s is None else row.min_duration_s * SECOND_US,
            None if row.max_duration_s is None else row.max_duration_s * SECOND_US,
        ),
    )


def _held_from(plan: PlacedPlan, count: Quantity) -> int:
    """The rows that hold from so many units on."""
    if plan.counted is Dimension.ENERGY:
        return _bits(plan.rows, lambda row: _within(count, row.min_wh, row.max_wh))
    return _bits(plan.rows, lambda row: _within(count, row.min_units, row.max_units))


# Cutting --------------------------------------------------------------------------------------------------------------


def _split(start: Quantity, end: Quantity, bounds: Sequence[Quantity]) -> list[tuple[Quantity, Quantity]]:
    edges = [start, *(bound for bound in bounds if start < bound < end), end]
    return list(itertools.pairwise(edges))


def _cut(pieces: Sequence[tuple[int, int, int]], bounds: Sequence[int]) -> list[tuple[int, int, int]]:
    if not bounds:
        return list(pieces)
    return [(int(begin), int(stop), bits) for start, end, bits in pieces for begin, stop in _split(start, end, bounds)]


# Ahead ----------------------------------------------------------------------------------------------------------------


def possible_slots(plan: PlacedPlan, timetable: Timetable, start: int, end: int) -> list[tuple[int, Slot]]:
    """Every slot of a use (not of a reservation) that the calendar allows at some moment from ``start`` to ``end``."""
    held = 0
    for _, _, bits in timetable.pieces(start, max(start, end)):
        held |= bits
    return [(index, slot) for index, slot in enumerate(plan.slots) if slot.row & held and slot.reservation is None]


def changes(plan: PlacedPlan, timetable: Timetable, started_at: int, after: int, until: int) -> list[int]:
    """Instants in (after, until] at which another element may begin to hold, because of the calendar or the duration."""
    found = {start for start, _, _ in timetable.pieces(after, until + 1) if start > after}
    found.update(at for bound in plan.duration_bounds_s if after < (at := started_at + bound * SECOND_US) <= until)
    return sorted(found)
