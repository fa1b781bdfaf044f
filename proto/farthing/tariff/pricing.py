"""What a use costs so far, what it costs in the end, and how far a sum of money goes.

Rule 1: a price is a function of cumulative quantities and boundary instants; amounts are floored once per tax rate, and
tax is the floor of rate × net *so far*, so that what a record bills is a difference.
Rule 2: interim, a lower bound that never falls: no step, no minimum, and of what a greatest price may later push to another
tax rate, only the part that stays. FLAT is due with the first width.
Rule 3: at closing, all of it: quantities rounded up to their step, then the least or the greatest price.
Rule 4: a use without width costs nothing, however long it took: it is an intent that was cancelled.
"""

from dataclasses import dataclass

from farthing.clock import Instant
from farthing.money import MAX_AMOUNT_MICROS, PPM
from farthing.tariff.tariff import Amount, Plan, Tariff, TariffError, measure_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One authorization so far.

    A register that counts ``unit`` ("Wh" feeds ENERGY, "s" feeds TIME, any other UNIT) from ``start`` to ``end``, unrolled: a
    count that returned to 0 has its modulus added. For units other than "s", TIME runs from ``started_at`` to ``ended_at``.
    """

    unit: str
    start: int
    end: int
    started_at: Instant
    ended_at: Instant


@dataclass(frozen=True, slots=True)
class Part:
    """What is due at one tax rate."""

    rate_ppm: int
    net_micros: int
    tax_micros: int


@dataclass(frozen=True, slots=True)
class Priced:
    """What is due in all; ``parts`` has each tax rate of the tariff, ascending, those with nothing due too."""

    parts: tuple[Part, ...]
    net_micros: int
    tax_micros: int

    @property
    def gross_micros(self) -> int:
        """Net and tax, in micros."""
        return self.net_micros + self.tax_micros


def price(tariff: Tariff, use: Use, *, closing: bool) -> Priced:
    """The price of ``use``: interim a lower bound that never falls, at closing all of it.

    Raise ``TariffError`` when the register's unit does not fit the tariff, or the price is more than one amount may be.
    """
    plan = _plan_for(tariff, use.unit)
    # A register that went back has been refused or unrolled long before anybody asks for its price.
    assert use.end >= use.start
    due = _due(plan, use.end - use.start, use.ended_at - use.started_at, closing=closing)
    net = tax = 0
    parts = []
    for rate, (part_net, part_tax) in zip(plan.rates, due, strict=True):
        net += part_net
        tax += part_tax
        parts.append(Part(rate.rate_ppm, part_net, part_tax))
    if net + tax > MAX_AMOUNT_MICROS:
        raise TariffError("a price larger than one amount may be")
    return Priced(tuple(parts), net, tax)


def limit(tariff: Tariff, use: Use, *, most: int, until: Instant, budget_micros: int) -> int:
    """How far ``budget_micros`` goes: the largest quantity beyond ``use.start`` whose closing price by ``until`` is within it.

    It is a multiple of the step, as closing rounds up to it anyway, from 0 to ``most`` rounded up to the step: who may use 925 Wh in
    steps of 100 is covered up to 1000. ``use.end`` and ``use.ended_at`` do not matter. Raise ``TariffError`` as :func:`price`.
    """
    plan = _plan_for(tariff, use.unit)
    step = plan.unit_step
    elapsed_us = until - use.started_at

    def covered(steps: int) -> bool:
        due = _due(plan, steps * step, elapsed_us, closing=True)
        return sum(net + tax for net, tax in due) <= budget_micros

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


def _plan_for(tariff: Tariff, unit: str) -> Plan:
    plan = tariff.plans.get(measure_of(unit))
    if plan is None:
        raise TariffError(f"tariff {tariff.id} does not price a register that counts {unit!r:.40}")
    return plan


def _due(plan: Plan, units: int, elapsed_us: int, *, closing: bool) -> list[tuple[int, int]]:
    """(net, tax) for each rate of the plan, in its order."""
    if units <= 0:
        return [(0, 0)] * len(plan.rates)
    # A device whose clock was set back has used no negative time.
    elapsed_us = max(elapsed_us, 0)
    if closing:
        step = plan.unit_step
        units = -(-units // step) * step
        step = plan.time_step_us
        elapsed_us = -(-elapsed_us // step) * step
    due = []
    for rate in plan.rates:
        amount = (rate.flat + rate.per_unit * units + rate.per_us * elapsed_us) // rate.denominator
        if plan.tax_included:
            net = amount * PPM // (PPM + rate.rate_ppm)
            due.append((net, amount - net))
        else:
            due.append((amount, amount * rate.rate_ppm // PPM))
    if plan.cap_gross_micros is not None:
        due = _capped(plan, plan.cap_gross_micros, due, closing=closing)
    if closing and plan.minimum is not None and sum(due[0]) < sum(_pair(plan.minimum)):
        return [_pair(plan.minimum)]
    return due


def _capped(plan: Plan, cap_gross_micros: int, due: list[tuple[int, int]], *, closing: bool) -> list[tuple[int, int]]:
    caps = [_pair(rate.cap) for rate in plan.rates if rate.cap is not None]
    if not closing:
        return [(min(net, cap[0]), min(tax, cap[1])) for (net, tax), cap in zip(due, caps, strict=True)]
    net = sum(part[0] for part in due)
    gross = net + sum(part[1] for part in due)
    if gross >= cap_gross_micros or (plan.cap_net_micros is not None and net >= plan.cap_net_micros):
        return caps
    return due


def _pair(amount: Amount) -> tuple[int, int]:
    return amount.net_micros, amount.tax_micros
