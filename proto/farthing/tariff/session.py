"""What a whole session costs that is described in words: what an operator tries before a tariff goes live.

Rule 1: the session is taken as it would be metered: power is even within a period and every reading that the tariff asks for is
there, so that everything is placed. Rule 2: what is missing, unknown or impossible is named; nothing is guessed and nothing costs 0
because it was left out. Rule 3: lines sum to the totals, to the micro.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from farthing.clock import SECOND_US, Instant
from farthing.money import MICROS
from farthing.tariff.compiling import session_plan
from farthing.tariff.decimals import read_json
from farthing.tariff.error import TariffError
from farthing.tariff.placing import Kind, Quantity, Stretch, Tally, lay
from farthing.tariff.pricing import Priced, amounts_of, due_of, priced_of, rounded_up, timetable_of
from farthing.tariff.tariff import Component, Dimension, PlacedPlan, Tariff
from farthing.tariff.timetable import instant_of
from farthing.tariff.zones import TIME_ZONE_DATA, zone

#: A year of quarters of an hour, and a year: longer ones are several sessions.
MAX_PERIODS = 40_000
MAX_DURATION_S = 366 * 86_400
MAX_SESSION_SIZE = 8 * 1024 * 1024
#: Years in which a session may start: instants count from the first, and one that lasts a year ends before the calendar does.
FIRST_YEAR, LAST_YEAR = 1970, 9998

_SESSION_KEYS = frozenset({"time_zone", "start_local", "periods"})
# What a worked example has beside its session.
_OTHER_KEYS = frozenset({"name", "note", "tariff", "total_excl_vat", "total_incl_vat"})
_PERIOD_KEYS = frozenset({"kind", "duration_s", "energy_wh", "units", "power_w", "current_a"})
_RESERVED = frozenset({Kind.RESERVATION, Kind.RESERVATION_EXPIRED})


class SessionError(ValueError):
    """A session that cannot be priced as it is described."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A part of a session. ``quantity`` is energy in Wh, or units where the tariff has UNIT; power in W, current in A."""

    kind: Kind
    duration_s: int
    quantity: Fraction
    power_w: Fraction | None
    current_a: Fraction | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session that can be priced; ``start`` is the instant at which its first period begins."""

    time_zone: ZoneInfo
    start: Instant
    periods: tuple[Period, ...]


class Line(NamedTuple):
    """What one component charges for one stretch, or what a step, a least or a greatest price adds or takes.

    ``element`` counts from 1 as in the tariff, 0 for none; ``quantity`` is in Wh, seconds, units or uses; amounts are micros before tax, or
    with it where the tariff's prices contain it.
    """

    what: str
    element: int
    dimension: str
    start: datetime | None
    end: datetime | None
    quantity: Fraction
    price: Fraction
    rate_ppm: int
    amount_micros: int

    @property
    def unit(self) -> str:
        """What ``quantity`` counts; empty for what is added or taken once."""
        return _UNITS.get(self.dimension, "")


_UNITS = {
    Dimension.ENERGY.value: "Wh",
    Dimension.TIME.value: "s",
    Dimension.PARKING_TIME.value: "s",
    Dimension.UNIT.value: "units",
    Dimension.FLAT.value: "use",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedSession:
    """The totals, by tax rate too, and the lines that make them up."""

    tariff: Tariff
    session: Session
    end: Instant
    priced: Priced
    lines: tuple[Line, ...]

    @property
    def start_local(self) -> datetime:
        """When it began, by the site's wall clock."""
        return _local(self.session.start, self.session.time_zone)

    @property
    def end_local(self) -> datetime:
        """When it ended, by the site's wall clock."""
        return _local(self.end, self.session.time_zone)

    @property
    def time_zone_data(self) -> str:
        """The edition of the time-zone data that the wall clock came from."""
        return TIME_ZONE_DATA


# Reading --------------------------------------------------------------------------------------------------------------


def parse_session(data: bytes, tariff: Tariff) -> Session:
    """The session that ``data`` (JSON) describes, for ``tariff``; raise ``SessionError`` naming what is wrong."""
    if len(data) > MAX_SESSION_SIZE:
        raise SessionError(f"a session has at most {MAX_SESSION_SIZE} bytes")
    try:
        document = read_json(data)
    except TariffError as err:
        raise SessionError(f"the session: {err}") from err
    except (ValueError, RecursionError) as err:
        raise SessionError("a session is one JSON object in UTF-8") from err
    if not isinstance(document, dict):
        raise SessionError("a session is an object with time_zone, start_local and periods")
    _only(document, _SESSION_KEYS | _OTHER_KEYS, "a session")
    missing = sorted(_SESSION_KEYS - set(document))
    if missing:
        raise SessionError(f"the session lacks {', '.join(missing)}")
    try:
        time_zone = zone(document["time_zone"] if isinstance(document["time_zone"], str) else "")
        start = _start(document["start_local"], time_zone)
    except TariffError as err:
        raise SessionError(str(err)) from err
    values = document["periods"]
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_PERIODS:
        raise SessionError(f"periods: 1 to {MAX_PERIODS} of them")
    counts_units = session_plan(tariff).counted is Dimension.UNIT
    periods = tuple(
        _period(value, f"period {number}", counts_units=counts_units) for number, value in enumerate(values, start=1)
    )
    for earlier, later in itertools.pairwise(periods):
        if later.kind in _RESERVED and earlier.kind not in _RESERVED:
            raise SessionError("a reservation comes before what was reserved")
    if sum(period.duration_s for period in periods) > MAX_DURATION_S:
        raise SessionError(f"a session lasts at most {MAX_DURATION_S} seconds")
    return Session(time_zone=time_zone, start=start, periods=periods)


def _only(members: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    unknown = sorted(set(members) - known)
    if unknown:
        raise SessionError(f"{what} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")


def _start(value: Any, time_zone: ZoneInfo) -> Instant:
    try:
        local = datetime.fromisoformat(value if isinstance(value, str) and "T" in value else "")
    except ValueError as err:
        raise SessionError(
            f"start_local is a wall clock's date and time like 2026-03-29T01:30, not {value!s:.40}"
        ) from err
    if not FIRST_YEAR <= local.year <= LAST_YEAR:
        raise SessionError(
            f"start_local: a session starts in a year from {FIRST_YEAR} to {LAST_YEAR}, not {local.year}"
        )
    if local.tzinfo is None:
        return instant_of(local, time_zone)
    if local.astimezone(time_zone).utcoffset() != local.utcoffset():
        raise SessionError(f"start_local: the wall clock of {time_zone.key} is not {value:.40} then")
    since = local - datetime(1970, 1, 1, tzinfo=UTC)
    return Instant(since // timedelta(microseconds=1))


def _period(value: Any, what: str, *, counts_units: bool) -> Period:
    if not isinstance(value, dict):
        raise SessionError(f"{what} is an object with kind, duration_s and energy_wh")
    _only(value, _PERIOD_KEYS, what)
    kinds = {kind.value: kind for kind in Kind}
    name = value.get("kind")
    if not isinstance(name, str) or name not in kinds:
        raise SessionError(f"{what}: kind is {', '.join(kinds)}, not {name!s:.40}")
    kind = kinds[name]
    duration = _number(value, "duration_s", what)
    if duration is None or duration.denominator != 1:
        raise SessionError(f"{what}: duration_s is a whole number of seconds")
    energy, units = _number(value, "energy_wh", what), _number(value, "units", what)
    quantity, key = (units, "units") if counts_units else (energy, "energy_wh")
    if quantity is None and kind is Kind.CHARGING:
        raise SessionError(f"{what} lacks {key}")
    if kind is not Kind.CHARGING and (energy or units):
        raise SessionError(f"{what}: {kind.value} uses nothing; what is used is charging")
    return Period(
        kind=kind,
        duration_s=int(duration),
        quantity=quantity or Fraction(0),
        power_w=_number(value, "power_w", what),
        current_a=_number(value, "current_a", what),
    )


def _number(members: Mapping[str, Any], key: str, what: str) -> Fraction | None:
    value = members.get(key)
    if value is None:
        return None
    if not isinstance(value, Decimal) or value < 0:
        raise SessionError(f"{what}: {key} is a number from 0 on")
    return Fraction(value)


# Pricing --------------------------------------------------------------------------------------------------------------


def price_session(tariff: Tariff, session: Session) -> PricedSession:
    """What ``session`` costs at its end; raise ``SessionError`` or ``TariffError`` where that cannot be said."""
    if not tariff.is_in_force(session.start):
        raise SessionError(f"tariff {tariff.id} is not in force when the session starts")
    plan = session_plan(tariff)
    table = timetable_of(plan, session.time_zone.key)
    asks_for_current = any(row.min_ampere is not None or row.max_ampere is not None for row in plan.rows)
    tally = Tally()
    # What was reserved begins when the reservation ends: its durations count from there.
    began = at = session.start
    units: Quantity = Fraction(0)
    for number, period in enumerate(session.periods, start=1):
        if number > 1 and session.periods[number - 2].kind in _RESERVED and period.kind not in _RESERVED:
            began = at
        if asks_for_current and period.current_a is None and period.kind is Kind.CHARGING:
            raise SessionError(f"period {number} lacks current_a: the tariff goes by current")
        stretch = _stretch(period, at, units)
        lay(plan, table, began, stretch, tally)
        at, units = Instant(stretch.end_at), stretch.end_units
    priced = priced_of(plan.rates, due_of(plan, tally, closing=True), None)
    return PricedSession(
        tariff=tariff, session=session, end=at, priced=priced, lines=_lines(tariff, plan, session, tally, priced)
    )


def _stretch(period: Period, start_at: Instant, start_units: Quantity) -> Stretch:
    length = period.duration_s * SECOND_US
    watt = period.power_w
    if watt is None and length:
        watt = period.quantity * 3_600 * SECOND_US / length
    return Stretch(
        kind=period.kind,
        start_at=start_at,
        end_at=start_at + length,
        start_units=start_units,
        end_units=start_units + period.quantity,
        watt=watt,
        # Nothing flows where nothing is used.
        ampere=Fraction(0) if period.current_a is None else period.current_a,
        is_even=bool(length and period.quantity),
        is_whole=False,
    )


# Lines ----------------------------------------------------------------------------------------------------------------


def _lines(tariff: Tariff, plan: PlacedPlan, session: Session, tally: Tally, priced: Priced) -> tuple[Line, ...]:
    merged: list[tuple[int, Quantity, int, int]] = []
    last: dict[Dimension, int] = {}
    for part in tally.parts:
        dimension = plan.slots[part.slot].dimension
        index = last.get(dimension)
        if index is not None and merged[index][0] == part.slot and merged[index][3] == part.start_at:
            slot, quantity, start, _ = merged[index]
            merged[index] = (slot, quantity + part.quantity, start, part.end_at)
        else:
            last[dimension] = len(merged)
            merged.append((part.slot, part.quantity, part.start_at, part.end_at))
    lines: list[tuple[int, Quantity, datetime | None, datetime | None]] = [
        (slot, quantity, _local(start, session.time_zone), _local(end, session.time_zone))
        for slot, quantity, start, end in merged
    ]
    for slot, total in rounded_up(plan, tally).items():
        extra = total - tally.quantities[slot]
        if extra:
            lines.append((slot, extra, None, None))
    return (*_priced_lines(tariff, plan, lines), *_bounding_lines(plan, tally, priced))


def _local(at: int, time_zone: ZoneInfo) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).astimezone(time_zone)


def _priced_lines(
    tariff: Tariff, plan: PlacedPlan, lines: Sequence[tuple[int, Quantity, datetime | None, datetime | None]]
) -> list[Line]:
    """Each line is the growth of its rate's rounded sum, so that they sum to it."""
    sums: list[Quantity] = [0] * len(plan.rates)
    priced = []
    for index, quantity, start, end in lines:
        slot = plan.slots[index]
        rate = plan.rates[slot.rate]
        before = int(sums[slot.rate] // rate.denominator)
        sums[slot.rate] += slot.price * quantity
        component, element = _component(tariff, slot.row, slot.dimension)
        clocked = slot.dimension in _HOURLY
        priced.append(
            Line(
                what="use" if start is not None else "step_size",
                element=element,
                dimension=slot.dimension.value,
                start=start,
                end=end,
                quantity=Fraction(quantity) / SECOND_US if clocked else Fraction(quantity),
                price=component.micros * _PER.get(slot.dimension, 1) / MICROS,
                rate_ppm=rate.rate_ppm,
                amount_micros=int(sums[slot.rate] // rate.denominator) - before,
            )
        )
    return priced


_HOURLY = frozenset({Dimension.TIME, Dimension.PARKING_TIME})
_PER = {Dimension.ENERGY: 1_000, Dimension.TIME: 3_600, Dimension.PARKING_TIME: 3_600}


def _component(tariff: Tariff, row: int, dimension: Dimension) -> tuple[Component, int]:
    number = row.bit_length()
    return next(c for c in tariff.elements[number - 1].components if c.dimension is dimension), number


def _bounding_lines(plan: PlacedPlan, tally: Tally, priced: Priced) -> list[Line]:
    """What the least price adds, or the greatest takes away, at each rate."""
    lines = []
    for rate, amount, part in zip(plan.rates, amounts_of(plan, rounded_up(plan, tally)), priced.parts, strict=True):
        billed = part.net_micros + part.tax_micros if plan.tax_included else part.net_micros
        if billed != amount:
            lines.append(
                Line(
                    what="min_price" if billed > amount else "max_price",
                    element=0,
                    dimension="",
                    start=None,
                    end=None,
                    quantity=Fraction(1),
                    price=Fraction(billed - amount, MICROS),
                    rate_ppm=rate.rate_ppm,
                    amount_micros=billed - amount,
                )
            )
    return lines
