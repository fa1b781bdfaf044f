"""OCPI 2.2.1 tariff objects (section 11) in JSON, compiled.

Rule 1: numbers are decimals from the first character; no float is ever made.
Rule 2: what changes a price and is not understood (a restriction, a dimension, a key) refuses the whole tariff, by name.
Rule 3: ours beside OCPI: the component type ``UNIT`` (per unit of the register, e.g. a passage) and ``"tax_included": true``
(prices contain their tax).
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from farthing.clock import SECOND_US
from farthing.ids import IdError, TariffId, parse_id
from farthing.money import (
    MAX_AMOUNT_MICROS,
    MAX_TAX_RATE_PPM,
    MICROS,
    Currency,
    MoneyError,
    net_of_gross_micros,
    parse_currency,
    tax_micros,
)
from farthing.tariff.tariff import (
    Amount,
    Bound,
    Component,
    Dimension,
    Element,
    Measure,
    Plan,
    RatePlan,
    Tariff,
    TariffError,
)

#: OCPI's largest examples have 3 kB; a gateway keeps a few hundred tariffs in memory.
MAX_TARIFF_SIZE = 64 * 1024
#: One element for each band of the day and week, with room.
MAX_ELEMENTS = 256
#: A day. A longer step would round every use up to something nobody used.
MAX_STEP = 86_400
#: More digits than any price has; bounds what exact arithmetic has to carry.
MAX_DIGITS = 15

_KNOWN_KEYS = frozenset(
    {
        *("id", "currency", "elements", "min_price", "max_price", "tax_included"),
        # These say who, when and why, and never what it costs.
        *("country_code", "party_id", "type", "tariff_alt_text", "tariff_alt_url", "energy_mix", "last_updated"),
    }
)
_COMPONENT_KEYS = frozenset({"type", "price", "vat", "step_size"})

# OCPI prices energy per kWh, time per hour.
_MICROS_PER: Mapping[Dimension, Fraction] = {
    Dimension.FLAT: Fraction(MICROS),
    Dimension.UNIT: Fraction(MICROS),
    Dimension.ENERGY: Fraction(MICROS, 1_000),
    Dimension.TIME: Fraction(MICROS, 3_600),
}
_FITS: Mapping[Measure, frozenset[Dimension]] = {
    Measure.ENERGY: frozenset({Dimension.FLAT, Dimension.TIME, Dimension.ENERGY}),
    Measure.TIME: frozenset({Dimension.FLAT, Dimension.TIME}),
    Measure.UNIT: frozenset({Dimension.FLAT, Dimension.TIME, Dimension.UNIT}),
}
_COUNTED = {Measure.ENERGY: Dimension.ENERGY, Measure.TIME: Dimension.TIME, Measure.UNIT: Dimension.UNIT}


def parse(ocpi_json: bytes) -> Tariff:
    """Compile an OCPI 2.2.1 tariff object; raise ``TariffError`` naming what cannot be priced."""
    if len(ocpi_json) > MAX_TARIFF_SIZE:
        raise TariffError(f"a tariff has at most {MAX_TARIFF_SIZE} bytes")
    try:
        document = json.loads(
            ocpi_json.decode(),
            parse_float=_decimal,
            parse_int=_decimal,
            parse_constant=_no_constant,
            object_pairs_hook=_no_second_key,
        )
    except TariffError:
        raise
    except (ValueError, RecursionError) as err:
        raise TariffError("a tariff is one JSON object in UTF-8") from err
    return _tariff(_object(document, "a tariff"))


# JSON -----------------------------------------------------------------------------------------------------------------


def _decimal(text: str) -> Decimal:
    if len(text) > 2 * MAX_DIGITS:
        raise TariffError(f"a number has at most {MAX_DIGITS} digits on each side of the point")
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    # An exponent can promise more digits than there is memory.
    if not isinstance(exponent, int) or exponent < -MAX_DIGITS or number.adjusted() > MAX_DIGITS:
        raise TariffError(f"a number has at most {MAX_DIGITS} digits on each side of the point")
    return number


def _no_constant(name: str) -> Any:
    raise TariffError(f"{name} is not a number")


def _no_second_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise TariffError("a key stands twice in one object")
    return members


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TariffError(f"{what} is an object")
    return value


def _list(value: Any, what: str, most: int) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise TariffError(f"{what}: 1 to {most} of them")
    return value


def _number(value: Any, what: str) -> Decimal:
    if not isinstance(value, Decimal) or value < 0:
        raise TariffError(f"{what} is a number from 0 on")
    return value


def _refuse_unknown(members: dict[str, Any], known: frozenset[str], what: str) -> None:
    unknown = sorted(set(members) - known)
    if unknown:
        raise TariffError(f"{what} cannot be priced: {', '.join(unknown)}")


# OCPI -----------------------------------------------------------------------------------------------------------------


def _tariff(document: dict[str, Any]) -> Tariff:
    _refuse_unknown(document, _KNOWN_KEYS, "a tariff with")
    try:
        tariff_id = TariffId(parse_id(document.get("id")))
        currency: Currency = (
            parse_currency(document["currency"]) if isinstance(document.get("currency"), str) else _none()
        )
    except (IdError, MoneyError) as err:
        raise TariffError(str(err)) from err
    tax_included = document.get("tax_included", False)
    if not isinstance(tax_included, bool):
        raise TariffError("tax_included is true or false")
    elements = tuple(_element(value) for value in _list(document.get("elements"), "elements", MAX_ELEMENTS))
    min_price = _bound(document.get("min_price"), "min_price")
    max_price = _bound(document.get("max_price"), "max_price")
    counting = _counting(elements)
    plans = {
        measure: _plan(measure, counting, tax_included=tax_included, min_price=min_price, max_price=max_price)
        for measure in Measure
        if counting.keys() <= _FITS[measure]
    }
    if not plans:
        raise TariffError("ENERGY and UNIT components in one tariff: no register counts both")
    return Tariff(
        id=tariff_id,
        currency=currency,
        tax_included=tax_included,
        elements=elements,
        min_price=min_price,
        max_price=max_price,
        plans=plans,
    )


def _none() -> Currency:
    raise MoneyError("a tariff names its currency")


def _element(value: Any) -> Element:
    members = _object(value, "an element")
    restrictions = members.get("restrictions")
    if restrictions is not None:
        # A restriction that is ignored prices uses it excludes.
        _refuse_unknown(_object(restrictions, "restrictions"), frozenset(), "an element restricted by")
    _refuse_unknown(members, frozenset({"price_components", "restrictions"}), "an element with")
    components = tuple(
        _component(item) for item in _list(members.get("price_components"), "price_components", len(Dimension))
    )
    if len({component.dimension for component in components}) != len(components):
        raise TariffError("an element has two components of one type")
    return Element(components=components)


def _component(value: Any) -> Component:
    members = _object(value, "a price component")
    _refuse_unknown(members, _COMPONENT_KEYS, "a price component with")
    name = members.get("type")
    if not isinstance(name, str) or name not in Dimension.__members__:
        raise TariffError(f"a price component cannot be priced: type {name!s:.40}")
    dimension = Dimension(name)
    price = _number(members.get("price"), "a price")
    if price * MICROS > MAX_AMOUNT_MICROS:
        raise TariffError("a price is larger than an amount may be")
    step = _number(members.get("step_size", Decimal(1)), "a step_size")
    if step != int(step) or not 1 <= step <= MAX_STEP:
        raise TariffError(f"a step_size is a whole number from 1 to {MAX_STEP}")
    rate = _number(members["vat"], "vat") * 10_000 if members.get("vat") is not None else Decimal(0)
    if rate != int(rate) or rate > MAX_TAX_RATE_PPM:
        raise TariffError("vat is a percentage from 0 to 100 with at most four decimals")
    return Component(
        dimension=dimension,
        micros=Fraction(price) * _MICROS_PER[dimension],
        step=int(step),
        rate_ppm=int(rate),
    )


def _bound(value: Any, what: str) -> Bound | None:
    if value is None:
        return None
    members = _object(value, what)
    _refuse_unknown(members, frozenset({"excl_vat", "incl_vat"}), f"{what} with")
    net, gross = (
        None if members.get(key) is None else _micros(_number(members[key], f"{what}.{key}"), what)
        for key in ("excl_vat", "incl_vat")
    )
    if net is None and gross is None:
        raise TariffError(f"{what} says neither excl_vat nor incl_vat")
    return Bound(net_micros=net, gross_micros=gross)


def _micros(amount: Decimal, what: str) -> int:
    micros = amount * MICROS
    if micros != int(micros) or micros > MAX_AMOUNT_MICROS:
        raise TariffError(f"{what} has at most six decimals and is at most one amount")
    return int(micros)


# Compiling ------------------------------------------------------------------------------------------------------------


def _counting(elements: Iterable[Element]) -> dict[Dimension, Component]:
    """Of each dimension the component that counts: the first, as no element is restricted."""
    counting: dict[Dimension, Component] = {}
    for element in elements:
        for component in element.components:
            counting.setdefault(component.dimension, component)
    return counting


def _plan(
    measure: Measure,
    counting: Mapping[Dimension, Component],
    *,
    tax_included: bool,
    min_price: Bound | None,
    max_price: Bound | None,
) -> Plan:
    counted = counting.get(_COUNTED[measure])
    clocked = None if measure is Measure.TIME else counting.get(Dimension.TIME)
    by_rate: defaultdict[int, dict[str, Fraction]] = defaultdict(dict)
    for name, component, scale in (
        ("flat", counting.get(Dimension.FLAT), 1),
        ("per_unit", counted, 1),
        ("per_us", clocked, SECOND_US),
    ):
        if component is not None:
            by_rate[component.rate_ppm][name] = component.micros / scale
    rates = []
    for rate_ppm, terms in sorted(by_rate.items()):
        denominator = math.lcm(*(term.denominator for term in terms.values()))
        flat, per_unit, per_us = (
            int(terms.get(name, Fraction()) * denominator) for name in ("flat", "per_unit", "per_us")
        )
        rates.append(
            RatePlan(rate_ppm=rate_ppm, denominator=denominator, flat=flat, per_unit=per_unit, per_us=per_us, cap=None)
        )
    capped, cap_net, cap_gross = _with_caps(rates, max_price, tax_included=tax_included)
    minimum = _minimum(capped, min_price)
    if minimum is not None and max_price is not None and _exceeds(minimum, max_price):
        raise TariffError("min_price is above max_price")
    return Plan(
        rates=capped,
        tax_included=tax_included,
        unit_step=1 if counted is None else counted.step,
        time_step_us=SECOND_US if clocked is None else clocked.step * SECOND_US,
        cap_net_micros=cap_net,
        cap_gross_micros=cap_gross,
        minimum=minimum,
    )


def _with_caps(
    rates: list[RatePlan], max_price: Bound | None, *, tax_included: bool
) -> tuple[tuple[RatePlan, ...], int | None, int | None]:
    """Fix what each tax rate bears once the greatest price is reached: the lowest rate fills first, to the payer's good.

    OCPI says how much, not at which tax. A constant at the top keeps a longer use from ever being cheaper.
    """
    if max_price is None:
        return tuple(rates), None, None
    unbounded = 2 * MAX_AMOUNT_MICROS
    net_room = unbounded if max_price.net_micros is None else max_price.net_micros
    gross_room = unbounded if max_price.gross_micros is None else max_price.gross_micros
    capped = []
    reached_net = reached_gross = 0
    for rate in rates:
        grows = rate.per_unit > 0 or rate.per_us > 0
        amount = unbounded if grows else rate.flat // rate.denominator
        net = net_of_gross_micros(amount, rate.rate_ppm) if tax_included else amount
        tax = amount - net if tax_included else tax_micros(net, rate.rate_ppm)
        if net > net_room - reached_net:
            net = net_room - reached_net
            tax = tax_micros(net, rate.rate_ppm)
        if net + tax > gross_room - reached_gross:
            gross = gross_room - reached_gross
            net = net_of_gross_micros(gross, rate.rate_ppm)
            tax = gross - net
        reached_net += net
        reached_gross += net + tax
        capped.append(
            RatePlan(
                rate_ppm=rate.rate_ppm,
                denominator=rate.denominator,
                flat=rate.flat,
                per_unit=rate.per_unit,
                per_us=rate.per_us,
                cap=Amount(net_micros=net, tax_micros=tax),
            )
        )
    return tuple(capped), max_price.net_micros, min(gross_room, reached_gross)


def _minimum(rates: tuple[RatePlan, ...], min_price: Bound | None) -> Amount | None:
    """The least closing price: both sides of ``min_price`` are reached, the larger exactly."""
    if min_price is None:
        return None
    if len(rates) > 1:
        raise TariffError("min_price over several tax rates does not say which tax it bears")
    rate_ppm = rates[0].rate_ppm
    net = min_price.net_micros or 0
    tax = tax_micros(net, rate_ppm)
    gross = min_price.gross_micros or 0
    if net + tax < gross:
        net = net_of_gross_micros(gross, rate_ppm)
        tax = gross - net
    return Amount(net_micros=net, tax_micros=tax)


def _exceeds(amount: Amount, bound: Bound) -> bool:
    gross_micros = amount.net_micros + amount.tax_micros
    return (bound.net_micros is not None and amount.net_micros > bound.net_micros) or (
        bound.gross_micros is not None and gross_micros > bound.gross_micros
    )
