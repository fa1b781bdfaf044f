"""A tariff's elements, worked out before any use is known: one plan for each measure that the tariff fits.

Rule 1: a plan without placing (``Plan``) is for what depends on the width alone; everything else is placed (``PlacedPlan``): by the
calendar, by power, by how much or how long so far, and where charging and parking cost differently.
Rule 2: a device's register shows energy or units, and when; where a price needs what it does not show (current; power of a register
that counts no energy), the tariff does not fit it, with the reason. A session that is described in full (:func:`session_plan`)
can still be priced.
Rule 3: time in which the register stands still is PARKING_TIME, never TIME (OCPI: "time not charging"). A register that counts
seconds *is* the time.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from farthing.clock import SECOND_US
from farthing.money import MAX_AMOUNT_MICROS, PPM, net_of_gross_micros, tax_micros
from farthing.tariff.error import TariffError
from farthing.tariff.restricting import Restrictions
from farthing.tariff.tariff import (
    COUNTED,
    Amount,
    Bound,
    Component,
    Dimension,
    Element,
    Least,
    Limits,
    Measure,
    PlacedPlan,
    Plan,
    RatePlan,
    Slot,
    SlotRate,
    Tariff,
)

_TIMES = frozenset({Dimension.TIME, Dimension.PARKING_TIME})
_FITS: Mapping[Measure, frozenset[Dimension]] = {
    Measure.ENERGY: frozenset({Dimension.FLAT, Dimension.ENERGY}) | _TIMES,
    Measure.TIME: frozenset({Dimension.FLAT, Dimension.TIME}),
    Measure.UNIT: frozenset({Dimension.FLAT, Dimension.UNIT}) | _TIMES,
}


def compile_plans(
    elements: Sequence[Element], *, tax_included: bool, min_price: Bound | None, max_price: Bound | None
) -> tuple[dict[Measure, Plan | PlacedPlan], dict[Measure, str]]:
    """The plan of each measure that the tariff fits, and why it does not fit the others; raise ``TariffError``."""
    dimensions = {component.dimension for element in elements for component in element.components}
    if {Dimension.ENERGY, Dimension.UNIT} <= dimensions:
        raise TariffError("ENERGY and UNIT components in one tariff: no register counts both")
    _refuse_crossed(min_price, max_price)
    # Nobody reserves a register: what is for reservations never holds there.
    effective = _effective([element for element in elements if element.restrictions.reservation is None])
    plans: dict[Measure, Plan | PlacedPlan] = {}
    unfit: dict[Measure, str] = {}
    for measure in Measure:
        reason = _why_not(measure, effective)
        if reason:
            unfit[measure] = reason
        elif _is_placed(measure, effective):
            plans[measure] = _placed_plan(
                COUNTED[measure], effective, tax_included=tax_included, min_price=min_price, max_price=max_price
            )
        else:
            plans[measure] = _plan(
                measure, _counting(effective), tax_included=tax_included, min_price=min_price, max_price=max_price
            )
    return plans, unfit


def session_plan(tariff: Tariff) -> PlacedPlan:
    """The plan of a session that is described in full: reservations and currents included."""
    counts_units = any(c.dimension is Dimension.UNIT for element in tariff.elements for c in element.components)
    return _placed_plan(
        Dimension.UNIT if counts_units else Dimension.ENERGY,
        tariff.elements,
        tax_included=tariff.tax_included,
        min_price=tariff.min_price,
        max_price=tariff.max_price,
    )


# What counts ----------------------------------------------------------------------------------------------------------


def _effective(elements: Iterable[Element]) -> tuple[Element, ...]:
    """Elements without the components that never count, because an earlier element without restrictions has their dimension."""
    settled: set[Dimension] = set()
    effective = []
    for element in elements:
        components = tuple(component for component in element.components if component.dimension not in settled)
        if components:
            effective.append(replace(element, components=components))
        if element.restrictions == Restrictions():
            settled.update(component.dimension for component in element.components)
    return tuple(effective)


def _why_not(measure: Measure, effective: Sequence[Element]) -> str:
    if not effective:
        return "it prices reservations only"
    for element in effective:
        for component in element.components:
            if component.dimension not in _FITS[measure]:
                return f"a register that counts {measure} shows no {component.dimension}"
        restrictions = element.restrictions
        if restrictions.min_ampere is not None or restrictions.max_ampere is not None:
            return "no register shows a current, and an element is restricted by it"
        energy = (restrictions.min_wh, restrictions.max_wh, restrictions.min_watt, restrictions.max_watt)
        if measure is not Measure.ENERGY and any(bound is not None for bound in energy):
            return f"a register that counts {measure} shows neither kWh nor power, and an element is restricted by them"
        if measure is Measure.ENERGY and (restrictions.min_units, restrictions.max_units) != (None, None):
            return (
                "min_units and max_units are for registers that count no energy; min_kwh and max_kwh are for this one"
            )
    return ""


def _is_placed(measure: Measure, effective: Sequence[Element]) -> bool:
    """Whether a price depends on more than the width."""
    return any(
        element.restrictions != Restrictions()
        or (measure is not Measure.TIME and any(component.dimension in _TIMES for component in element.components))
        for element in effective
    )


def _counting(elements: Iterable[Element]) -> dict[Dimension, Component]:
    """Of each dimension the component that counts: the first, as no element is restricted."""
    counting: dict[Dimension, Component] = {}
    for element in elements:
        for component in element.components:
            counting.setdefault(component.dimension, component)
    return counting


# Plans from the width alone -------------------------------------------------------------------------------------------


def _plan(
    measure: Measure,
    counting: Mapping[Dimension, Component],
    *,
    tax_included: bool,
    min_price: Bound | None,
    max_price: Bound | None,
) -> Plan:
    counted = counting.get(COUNTED[measure])
    by_rate: defaultdict[int, dict[str, Fraction]] = defaultdict(dict)
    for name, component in (("flat", counting.get(Dimension.FLAT)), ("per_unit", counted)):
        if component is not None:
            by_rate[component.rate_ppm][name] = component.micros
    rates = []
    for rate_ppm, terms in sorted(by_rate.items()):
        denominator = math.lcm(*(term.denominator for term in terms.values()))
        flat, per_unit = (int(terms.get(name, Fraction()) * denominator) for name in ("flat", "per_unit"))
        rates.append(RatePlan(rate_ppm=rate_ppm, denominator=denominator, flat=flat, per_unit=per_unit, cap=None))
    most = [None if rate.per_unit > 0 else Fraction(rate.flat, rate.denominator) for rate in rates]
    caps, limits = _limits(
        [rate.rate_ppm for rate in rates], most, tax_included=tax_included, min_price=min_price, max_price=max_price
    )
    return Plan(
        rates=tuple(replace(rate, cap=cap) for rate, cap in zip(rates, caps, strict=True)),
        tax_included=tax_included,
        unit_step=1 if counted is None else counted.step,
        limits=limits,
    )


# Plans that place -----------------------------------------------------------------------------------------------------


def _placed_plan(
    counted: Dimension,
    elements: Sequence[Element],
    *,
    tax_included: bool,
    min_price: Bound | None,
    max_price: Bound | None,
) -> PlacedPlan:
    # A register that counts seconds is the time; else the clock is, in µs.
    scales = {dimension: Fraction(1, SECOND_US) for dimension in _TIMES if dimension is not counted}
    by_rate: defaultdict[int, list[Fraction]] = defaultdict(list)
    flats: defaultdict[int, Fraction] = defaultdict(Fraction)
    growing: set[int] = set()
    for element in elements:
        for component in element.components:
            by_rate[component.rate_ppm].append(component.micros * scales.get(component.dimension, 1))
            if component.dimension is Dimension.FLAT:
                flats[component.rate_ppm] += component.micros
            elif component.micros:
                growing.add(component.rate_ppm)
    rate_ppms = sorted(by_rate)
    denominators = [math.lcm(*(price.denominator for price in by_rate[rate_ppm])) for rate_ppm in rate_ppms]
    slots: list[Slot] = []
    by_dimension: defaultdict[Dimension, list[int]] = defaultdict(list)
    by_reservation: defaultdict[Dimension, list[int]] = defaultdict(list)
    for row, element in enumerate(elements):
        reservation = element.restrictions.reservation
        for component in element.components:
            (by_dimension if reservation is None else by_reservation)[component.dimension].append(len(slots))
            rate = rate_ppms.index(component.rate_ppm)
            scale = scales.get(component.dimension, Fraction(1))
            price = component.micros * scale
            slots.append(
                Slot(
                    dimension=component.dimension,
                    rate=rate,
                    price=int(price * denominators[rate]),
                    gross_micros=price if tax_included else price * (PPM + component.rate_ppm) / PPM,
                    step=component.step * scale.denominator,
                    row=1 << row,
                    reservation=reservation,
                )
            )
    rows = tuple(element.restrictions for element in elements)
    most = [None if rate_ppm in growing else flats[rate_ppm] for rate_ppm in rate_ppms]
    caps, limits = _limits(rate_ppms, most, tax_included=tax_included, min_price=min_price, max_price=max_price)
    return PlacedPlan(
        rates=tuple(
            SlotRate(rate_ppm=rate_ppm, denominator=denominator, cap=cap)
            for rate_ppm, denominator, cap in zip(rate_ppms, denominators, caps, strict=True)
        ),
        slots=tuple(slots),
        tax_included=tax_included,
        counted=counted,
        unit_step=next((slot.step for slot in slots if slot.dimension is counted), 1),
        rows=rows,
        by_dimension={dimension: tuple(indices) for dimension, indices in by_dimension.items()},
        by_reservation={dimension: tuple(indices) for dimension, indices in by_reservation.items()},
        unit_bounds=_bounds(
            (row.min_wh, row.max_wh) if counted is Dimension.ENERGY else (row.min_units, row.max_units) for row in rows
        ),
        duration_bounds_s=_bounds((row.min_duration_s, row.max_duration_s) for row in rows),
        by_calendar=any(row.by_calendar for row in rows),
        is_restricted=any(row != Restrictions() for row in rows),
        limits=limits,
    )


def _bounds(pairs: Iterable[tuple[int | None, int | None]]) -> tuple[int, ...]:
    return tuple(sorted({bound for pair in pairs for bound in pair if bound}))


# The least and the greatest price -------------------------------------------------------------------------------------


def _limits(
    rate_ppms: Sequence[int],
    most: Sequence[Fraction | None],
    *,
    tax_included: bool,
    min_price: Bound | None,
    max_price: Bound | None,
) -> tuple[list[Amount | None], Limits]:
    """The cap of each rate (``most`` is what can be due at it; None grows without end), and what holds over all of them."""
    caps: list[Amount | None] = [None] * len(rate_ppms)
    cap_net = cap_gross = None
    if max_price is not None:
        filled, cap_gross = _caps(rate_ppms, most, max_price, tax_included=tax_included)
        caps, cap_net = list(filled), max_price.net_micros
    least = _least(rate_ppms, min_price, max_price)
    return caps, Limits(most=max_price, cap_net_micros=cap_net, cap_gross_micros=cap_gross, least=least)


def _caps(
    rate_ppms: Sequence[int], most: Sequence[Fraction | None], max_price: Bound, *, tax_included: bool
) -> tuple[list[Amount], int]:
    """What each tax rate bears once the greatest price is reached: the lowest rate fills first, to the payer's good.

    OCPI says how much, not at which tax. A constant at the top keeps a longer use from ever being cheaper.
    """
    unbounded = 2 * MAX_AMOUNT_MICROS
    net_room = unbounded if max_price.net_micros is None else max_price.net_micros
    gross_room = unbounded if max_price.gross_micros is None else max_price.gross_micros
    caps = []
    reached_net = reached_gross = 0
    for rate_ppm, bound in zip(rate_ppms, most, strict=True):
        amount = unbounded if bound is None else int(bound)
        net = net_of_gross_micros(amount, rate_ppm) if tax_included else amount
        tax = amount - net if tax_included else tax_micros(net, rate_ppm)
        net, tax = fitted(net, tax, rate_ppm, net_room - reached_net, gross_room - reached_gross)
        reached_net += net
        reached_gross += net + tax
        caps.append(Amount(net_micros=net, tax_micros=tax))
    return caps, min(gross_room, reached_gross)


def fitted(net: int, tax: int, rate_ppm: int, net_room: int, gross_room: int) -> tuple[int, int]:
    """As much of (net, tax) at one rate as two rooms have place for."""
    if net > net_room:
        net = net_room
        tax = tax_micros(net, rate_ppm)
    if net + tax > gross_room:
        gross = gross_room
        net = net_of_gross_micros(gross, rate_ppm)
        tax = gross - net
    return net, tax


def _least(rate_ppms: Sequence[int], min_price: Bound | None, max_price: Bound | None) -> Least | None:
    """The least closing price: both sides of ``min_price`` are reached, with a single rate the larger exactly."""
    if min_price is None:
        return None
    if len(rate_ppms) > 1:
        return Least(bound=min_price, fixed=None)
    rate_ppm = rate_ppms[0]
    net = min_price.net_micros or 0
    tax = tax_micros(net, rate_ppm)
    gross = min_price.gross_micros or 0
    if net + tax < gross:
        net = net_of_gross_micros(gross, rate_ppm)
        tax = gross - net
    if max_price is not None and (
        (max_price.net_micros is not None and net > max_price.net_micros)
        or (max_price.gross_micros is not None and net + tax > max_price.gross_micros)
    ):
        raise TariffError("min_price is above max_price")
    return Least(bound=min_price, fixed=Amount(net_micros=net, tax_micros=tax))


def _refuse_crossed(min_price: Bound | None, max_price: Bound | None) -> None:
    if min_price is None or max_price is None:
        return
    for least, most in ((min_price.net_micros, max_price.net_micros), (min_price.gross_micros, max_price.gross_micros)):
        if least is not None and most is not None and least > most:
            raise TariffError("min_price is above max_price")
