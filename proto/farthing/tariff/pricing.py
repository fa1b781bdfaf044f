"""What a use costs so far, what it costs in the end, and how far a sum of money goes.

Rule 1: a price is a function of cumulative quantities and signed readings; amounts are floored once per tax rate, and
tax is the floor of rate × net *so far*, so that what a record bills is a difference.
Rule 2: interim, a lower bound that never falls: no step, no minimum, the cheapest price for what is not placed in time, and of what a
greatest price may later push to another tax rate, only the part that stays. FLAT is due with the first width.
Rule 3: at closing, all of it: quantities rounded up to the step of the last component that they fell to (once for what the register
counts, once for time), then the least or the greatest price.
Rule 4: a use without width costs nothing, however long it took: it is an intent that was cancelled.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from farthing.clock import SECOND_US, Instant
from farthing.money import MAX_AMOUNT_MICROS, PPM, net_of_gross_micros, tax_micros
from farthing.tariff.compiling import fitted
from farthing.tariff.error import TariffError
from farthing.tariff.placing import Placed, Quantity, Tally, changes, lay, possible_slots, stretch_of_register
from farthing.tariff.tariff import (
    Amount,
    Bound,
    Dimension,
    Least,
    Limits,
    PlacedPlan,
    Plan,
    RatePlan,
    Slot,
    SlotRate,
    Tariff,
    measure_of,
)
from farthing.tariff.timetable import Timetable
from farthing.tariff.zones import zone


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One authorization so far.

    A register that counts ``unit`` ("Wh" feeds ENERGY, "s" feeds TIME, any other UNIT) from ``start`` to ``end``, unrolled: a
    count that returned to 0 has its modulus added. For units other than "s", TIME runs from ``started_at`` to ``ended_at``. Where the
    tariff places (``Tariff.plans``), ``placed`` is what came of the readings up to the one before, which said ``placed_to``; None if there
    was none; ``time_zone`` is the site's.
    """

    unit: str
    start: int
    end: int
    started_at: Instant
    ended_at: Instant
    placed: Placed | None = None
    placed_to: int = 0
    time_zone: str = ""


def one_shot_use(unit: str, start: int, quantity: int, at: Instant, time_zone: str) -> Use:
    """A use of ``quantity`` at the moment of yes; seconds that are bought begin then."""
    lasts_us = quantity * SECOND_US if unit == "s" else 0
    return Use(
        unit=unit,
        start=start,
        end=start + quantity,
        started_at=at,
        ended_at=Instant(at + lasts_us),
        time_zone=time_zone,
    )


class Part(NamedTuple):
    """What is due at one tax rate. (A tuple, as ``Priced``: made several times for each reading.)"""

    rate_ppm: int
    net_micros: int
    tax_micros: int


class Priced(NamedTuple):
    """What is due in all; ``parts`` has each tax rate of the tariff, ascending, those with nothing due too.

    ``placed`` is where the use stands now, for tariffs that place.
    """

    parts: tuple[Part, ...]
    net_micros: int
    tax_micros: int
    placed: Placed | None = None

    @property
    def gross_micros(self) -> int:
        """Net and tax, in micros."""
        return self.net_micros + self.tax_micros


def price(tariff: Tariff, use: Use, *, closing: bool) -> Priced:
    """The price of ``use``: interim a lower bound that never falls, at closing all of it.

    Raise ``TariffError`` when the register's unit does not fit the tariff, its time zone is needed and unknown, or the price is more
    than one amount may be.
    """
    plan = _plan_for(tariff, use.unit)
    # A register that went back has been refused or unrolled long before anybody asks for its price.
    assert use.end >= use.start
    if isinstance(plan, PlacedPlan):
        tally = _place(plan, use)
        due = due_of(plan, tally, closing=closing) if use.end > use.start else [(0, 0)] * len(plan.rates)
        at = use.started_at if use.placed is None else use.placed.at
        return priced_of(plan.rates, due, tally.placed(max(at, use.ended_at)))
    return priced_of(plan.rates, _due(plan, use.end - use.start, closing=closing), None)


def price_of_width(tariff: Tariff, unit: str, most: int) -> tuple[Priced, int] | None:
    """What ``most`` units cost at closing where only the width counts, and how far that sum goes (to a whole step); None where the tariff places.

    What :func:`price` and :func:`limit` say of them, without a use. Raise ``TariffError`` as :func:`price`.
    """
    plan = _plan_for(tariff, unit)
    if isinstance(plan, PlacedPlan):
        return None
    step = plan.unit_step
    return priced_of(plan.rates, _due(plan, most, closing=True), None), -(-most // step) * step


def priced_of(rates: Sequence[RatePlan | SlotRate], due: Iterable[tuple[int, int]], placed: Placed | None) -> Priced:
    """What is due at each rate, summed; raise ``TariffError`` where it is more than one amount may be."""
    net = tax = 0
    parts = []
    for rate, (part_net, part_tax) in zip(rates, due, strict=True):
        net += part_net
        tax += part_tax
        parts.append(Part(rate.rate_ppm, part_net, part_tax))
    if net + tax > MAX_AMOUNT_MICROS:
        raise TariffError("a price larger than one amount may be")
    return Priced(tuple(parts), net, tax, placed)


def is_placed(tariff: Tariff, unit: str) -> bool:
    """Whether the price depends on more than the width, so that every reading has to be kept."""
    return isinstance(tariff.plans.get(measure_of(unit)), PlacedPlan)


def is_by_calendar(tariff: Tariff, unit: str) -> bool:
    """Whether dates, weekdays or times of day decide the price of what a register of ``unit`` counts."""
    plan = tariff.plans.get(measure_of(unit))
    return isinstance(plan, PlacedPlan) and plan.by_calendar


def ceiling(tariff: Tariff, use: Use, *, most: int, until: Instant) -> int:
    """The most that closing can cost, in micros with tax, if ``use`` goes on to ``most`` units from its start, by ``until``.

    Exactly the closing price where only the width counts; else a bound over everything that can become of it. Raise ``TariffError`` as
    :func:`price`.
    """
    return _closing_cost(_plan_for(tariff, use.unit), use, until)(most)


def limit(tariff: Tariff, use: Use, *, most: int, until: Instant, budget_micros: int) -> int:
    """How far ``budget_micros`` goes: the largest quantity beyond ``use.start`` whose closing price by ``until`` is within it.

    Where only the width counts it is a multiple of the step, as closing rounds up to it anyway, from 0 to ``most`` rounded up to the step:
    who may use 925 Wh in steps of 100 is covered up to 1000; ``use.end`` and ``use.ended_at`` do not matter. Where the tariff places, it
    is what :func:`ceiling` allows, from 0 to ``most``. Raise ``TariffError`` as :func:`price`.
    """
    plan = _plan_for(tariff, use.unit)
    cost = _closing_cost(plan, use, until)
    if isinstance(cost, _Outlook):
        return cost.reach(most, budget_micros)
    step = plan.unit_step

    def covered(steps: int) -> bool:
        return cost(steps * step) <= budget_micros

    steps = -(-most // step)
    if covered(steps):
        return steps * step
    # Closing prices never fall with the quantity: halve between what is covered and what is not.
    enough, too_much = 0, steps
    while too_much - enough > 1:
        middle = (enough + too_much) // 2
        if covered(middle):
            enough = middle
        else:
            too_much = middle
    return enough * step


def _closing_cost(plan: Plan | PlacedPlan, use: Use, until: Instant) -> Callable[[int], int]:
    """Units from the start → the most that closing can cost by ``until``, in micros with tax; it never falls."""
    if isinstance(plan, Plan):
        return lambda units: sum(net + tax for net, tax in _due(plan, units, closing=True))
    if plan.is_restricted or Dimension.PARKING_TIME in plan.by_dimension:
        return _Outlook(plan, use, until)
    so_far = use.end - use.start

    def cost(units: int) -> int:
        # Nothing costs more than to go on all the time.
        if units <= 0:
            return 0
        further = replace(use, end=use.start + max(units, so_far), ended_at=max(until, use.ended_at))
        return sum(net + tax for net, tax in due_of(plan, _place(plan, further), closing=True))

    return cost


def readings_due(tariff: Tariff, use: Use, *, after: Instant, until: Instant, most: int) -> tuple[Instant, ...]:
    """The first ``most`` instants in (after, until] at which a reading is due because the price may change there."""
    plan = _plan_for(tariff, use.unit)
    if not isinstance(plan, PlacedPlan):
        return ()
    found = changes(plan, timetable_of(plan, use.time_zone), use.started_at, after, until)
    return tuple(Instant(at) for at in found[:most])


def _plan_for(tariff: Tariff, unit: str) -> Plan | PlacedPlan:
    plan = tariff.plans.get(measure_of(unit))
    if plan is None:
        raise TariffError(
            f"tariff {tariff.id} does not price a register that counts {unit!r:.40}: {tariff.why_not(unit)}"
        )
    return plan


# From the width alone -------------------------------------------------------------------------------------------------


def _due(plan: Plan, units: int, *, closing: bool) -> list[tuple[int, int]]:
    """(net, tax) for each rate of the plan, in its order."""
    if units <= 0:
        return [(0, 0)] * len(plan.rates)
    if closing:
        step = plan.unit_step
        units = -(-units // step) * step
    due = []
    for rate in plan.rates:
        amount = (rate.flat + rate.per_unit * units) // rate.denominator
        if plan.tax_included:
            net = amount * PPM // (PPM + rate.rate_ppm)
            due.append((net, amount - net))
        else:
            due.append((amount, amount * rate.rate_ppm // PPM))
    limits = plan.limits
    if limits.cap_gross_micros is None and (limits.least is None or not closing):
        return due
    return _limited(plan.rates, limits, due, closing=closing)


# Placed ---------------------------------------------------------------------------------------------------------------


def timetable_of(plan: PlacedPlan, time_zone: str) -> Timetable:
    """The plan's timetable at a site; each is worked out once."""
    known = plan.timetables.get(time_zone)
    if known is None:
        if plan.by_calendar and not time_zone:
            raise TariffError("this tariff goes by the wall clock, and the site's time zone is not known")
        known = Timetable(plan.rows, zone(time_zone) if plan.by_calendar else None)
        plan.timetables[time_zone] = known
    return known


def _place(plan: PlacedPlan, use: Use) -> Tally:
    """Everything up to the last reading, placed."""
    if use.placed is not None and use.placed.quantities and use.placed.quantities[-1][0] >= len(plan.slots):
        raise TariffError("a use that fell to a component that the tariff does not have")
    tally = Tally(use.placed)
    last_at, last_value = (use.started_at, use.start) if use.placed is None else (use.placed.at, use.placed_to)
    # A device whose clock was set back has used no negative time.
    ended_at = max(last_at, use.ended_at)
    if ended_at > last_at or use.end > last_value:
        assert use.end >= last_value
        stretch = stretch_of_register(plan, last_at, ended_at, last_value - use.start, use.end - use.start)
        lay(plan, timetable_of(plan, use.time_zone), use.started_at, stretch, tally)
    return tally


def due_of(plan: PlacedPlan, tally: Tally, *, closing: bool) -> list[tuple[int, int]]:
    """(net, tax) for each rate of the plan, in its order."""
    due = []
    for rate, amount in zip(
        plan.rates, amounts_of(plan, rounded_up(plan, tally) if closing else tally.quantities), strict=True
    ):
        net = net_of_gross_micros(amount, rate.rate_ppm) if plan.tax_included else amount
        due.append((net, amount - net if plan.tax_included else tax_micros(net, rate.rate_ppm)))
    if closing and plan.is_restricted:
        # Not every component may have come to hold: what was used fills the greatest price, not what could have been.
        if plan.limits.most is not None:
            due = _filled(plan, plan.limits.most, due)
        return due if plan.limits.least is None else _lifted(plan.rates, plan.limits.least, due)
    return _limited(plan.rates, plan.limits, due, closing=closing)


def rounded_up(plan: PlacedPlan, tally: Tally) -> dict[int, Quantity]:
    """Quantities by slot as closing bills them: what the last component of each kind counted is rounded up to its step."""
    rounded = dict(tally.quantities)
    for last in (tally.counted, tally.timed, tally.reserved):
        if last >= 0:
            rounded[last] += _step_extra(plan.slots, tally.quantities, plan.slots[last])
    return rounded


def amounts_of(plan: PlacedPlan, quantities: Mapping[int, Quantity]) -> list[int]:
    """What quantities by slot come to at each rate, in micros: before tax, or with it where prices contain it."""
    sums: list[Quantity] = [0] * len(plan.rates)
    for index, quantity in quantities.items():
        slot = plan.slots[index]
        sums[slot.rate] += slot.price * quantity
    return [int(total // rate.denominator) for rate, total in zip(plan.rates, sums, strict=True)]


def _step_extra(slots: Sequence[Slot], quantities: Mapping[int, Quantity], last: Slot) -> Quantity:
    """What rounding up adds: all that fell to the last component's dimension is rounded to that component's step.

    Reservations are rounded for themselves (OCPI 2.2.1, section 11.4.4.1 PriceComponent, step_size).
    """
    total = sum(
        quantity
        for index, quantity in quantities.items()
        if slots[index].dimension is last.dimension and (slots[index].reservation is None) == (last.reservation is None)
    )
    return -(-total // last.step) * last.step - total


def _filled(plan: PlacedPlan, most: Bound, due: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is due under a greatest price: the lowest rate first, as in the caps of plans without restrictions."""
    unbounded = 2 * MAX_AMOUNT_MICROS
    net_room = unbounded if most.net_micros is None else most.net_micros
    gross_room = unbounded if most.gross_micros is None else most.gross_micros
    filled = []
    for rate, (net, tax) in zip(plan.rates, due, strict=True):
        part = fitted(net, tax, rate.rate_ppm, net_room, gross_room)
        net_room -= part[0]
        gross_room -= sum(part)
        filled.append(part)
    return filled


#: How far net and tax, each lifted to a least price, can together go beyond both the least price and what was due: each is rounded down once.
LIFTED_BEYOND_MICROS = 1


class _Outlook:
    """The most a placed use can come to cost: a fixed sum, and so much for each further unit. Called, it says so in micros."""

    def __init__(self, plan: PlacedPlan, use: Use, until: Instant) -> None:
        self._plan = plan
        self._units = use.end - use.start
        tally = _place(plan, use)
        at = max(use.started_at if use.placed is None else use.placed.at, use.ended_at)
        ahead = possible_slots(plan, timetable_of(plan, use.time_zone), at, until)
        counted = [slot for _, slot in ahead if slot.dimension is plan.counted]
        clocked = [slot for _, slot in ahead if slot.dimension in _CLOCKED and slot.dimension is not plan.counted]
        flats = [slot for _, slot in ahead if slot.dimension is Dimension.FLAT]
        fixed = Fraction(0)
        flat_is_due = False
        for index, quantity in tally.quantities.items():
            slot = plan.slots[index]
            fixed += slot.gross_micros * quantity
            flat_is_due = flat_is_due or slot.dimension is Dimension.FLAT
        if not flat_is_due:
            fixed += max((slot.gross_micros for slot in flats), default=Fraction(0))
        fixed += max((slot.gross_micros for slot in clocked), default=Fraction(0)) * max(0, until - at)
        for last, coming in ((tally.counted, counted), (tally.timed, clocked)):
            steps = [*coming, plan.slots[last]] if last >= 0 else coming
            fixed += max((slot.gross_micros * (slot.step - 1) for slot in steps), default=Fraction(0))
        self._fixed = fixed
        self._per_unit = max((slot.gross_micros for slot in counted), default=Fraction(0))

    def __call__(self, units: int) -> int:
        """With ``units`` from the start, in micros with tax."""
        if units <= 0:
            return 0
        return self._bounded(int(self._fixed + self._per_unit * max(0, units - self._units)))

    def reach(self, most: int, budget_micros: int) -> int:
        """The units from the start that ``budget_micros`` covers, at most ``most``."""
        if self(most) <= budget_micros:
            return most
        if self._per_unit == 0 or self._bounded(int(self._fixed)) > budget_micros:
            return min(self._units, most)
        beyond = 0 if self._plan.limits.least is None else LIFTED_BEYOND_MICROS
        further = int((budget_micros - beyond - self._fixed) / self._per_unit)
        return min(most, self._units + max(0, further))

    def _bounded(self, gross_micros: int) -> int:
        limits = self._plan.limits
        if limits.most is not None:
            gross_micros = min(gross_micros, _most_filled(self._plan.rates, limits.most))
        if limits.least is not None:
            gross_micros = max(gross_micros + LIFTED_BEYOND_MICROS, _most_lifted(self._plan.rates, limits.least))
        return gross_micros


_CLOCKED = frozenset({Dimension.TIME, Dimension.PARKING_TIME})


# The least and the greatest price -------------------------------------------------------------------------------------


def _limited(
    rates: Sequence[RatePlan | SlotRate], limits: Limits, due: list[tuple[int, int]], *, closing: bool
) -> list[tuple[int, int]]:
    if limits.cap_gross_micros is not None:
        due = _capped(rates, limits, limits.cap_gross_micros, due, closing=closing)
    if closing and limits.least is not None:
        due = _lifted(rates, limits.least, due)
    return due


def _capped(
    rates: Sequence[RatePlan | SlotRate],
    limits: Limits,
    cap_gross_micros: int,
    due: list[tuple[int, int]],
    *,
    closing: bool,
) -> list[tuple[int, int]]:
    caps = [_pair(rate.cap) for rate in rates if rate.cap is not None]
    if not closing:
        return [(min(net, cap[0]), min(tax, cap[1])) for (net, tax), cap in zip(due, caps, strict=True)]
    net = sum(part[0] for part in due)
    gross = net + sum(part[1] for part in due)
    if gross >= cap_gross_micros or (limits.cap_net_micros is not None and net >= limits.cap_net_micros):
        return caps
    return due


def _lifted(rates: Sequence[RatePlan | SlotRate], least: Least, due: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is lacking to the least price is borne by the lowest rate; what it says with tax decides how much tax that is.

    With one rate each of net and tax is at least the least price's, and never below what was due without it: an interim record has
    billed that, and tax is rounded otherwise in a sum that contains it than on top of one.
    """
    if least.fixed is not None:
        return [(max(due[0][0], least.fixed.net_micros), max(due[0][1], least.fixed.tax_micros))]
    net = sum(part[0] for part in due)
    gross = net + sum(part[1] for part in due)
    lacking_net = max(0, (least.bound.net_micros or 0) - net)
    if least.bound.gross_micros is None:
        lacking_tax = tax_micros(lacking_net, rates[0].rate_ppm)
    elif least.bound.net_micros is None:
        lacking = max(0, least.bound.gross_micros - gross)
        lacking_net = net_of_gross_micros(lacking, rates[0].rate_ppm)
        lacking_tax = lacking - lacking_net
    else:
        lacking_tax = max(0, least.bound.gross_micros - gross - lacking_net)
    (first_net, first_tax), *others = due
    return [(first_net + lacking_net, first_tax + lacking_tax), *others]


def _most_filled(rates: Sequence[SlotRate], most: Bound) -> int:
    """The most that can be due under a greatest price, in micros with tax."""
    if most.gross_micros is not None:
        return most.gross_micros
    net = most.net_micros or 0
    return net + tax_micros(net, rates[-1].rate_ppm) + 1


def _most_lifted(rates: Sequence[SlotRate], least: Least) -> int:
    """The most that a least price lifts any sum to, in micros with tax."""
    if least.fixed is not None:
        return sum(_pair(least.fixed)) + LIFTED_BEYOND_MICROS
    net = least.bound.net_micros or 0
    # What is lacking is never more than what net and the highest tax on it come to.
    return max(least.bound.gross_micros or 0, net + tax_micros(net, rates[-1].rate_ppm) + 1)


def _pair(amount: Amount) -> tuple[int, int]:
    return amount.net_micros, amount.tax_micros
