"""OCPI 2.2.1 tariff objects (section 11) in JSON, compiled.

Rule 1: numbers are decimals from the first character; no float is ever made.
Rule 2: what changes a price and is not understood (a restriction, a dimension, a key) refuses the whole tariff, by name.
Rule 3: ours beside OCPI: the component type ``UNIT`` (per unit of the register, e.g. a passage) and ``"tax_included": true``
(prices contain their tax).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from farthing.clock import SECOND_US, Instant
from farthing.ids import IdError, TariffId, parse_id
from farthing.money import (
    MAX_AMOUNT_MICROS,
    MAX_TAX_RATE_PPM,
    MICROS,
    Currency,
    MoneyError,
    parse_currency,
)
from farthing.tariff.compiling import compile_plans
from farthing.tariff.decimals import read_json
from farthing.tariff.error import TariffError
from farthing.tariff.restricting import UNRESTRICTED, parse_restrictions
from farthing.tariff.tariff import (
    Bound,
    Component,
    Dimension,
    Element,
    Tariff,
)

#: OCPI's largest examples have 3 kB; a gateway keeps a few hundred tariffs in memory.
MAX_TARIFF_SIZE = 64 * 1024
#: One element for each band of the day and week, with room.
MAX_ELEMENTS = 256
#: A day. A longer step would round every use up to something nobody used.
MAX_STEP = 86_400

_KNOWN_KEYS = frozenset(
    {
        *("id", "currency", "elements", "min_price", "max_price", "tax_included"),
        *("start_date_time", "end_date_time"),
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
    Dimension.PARKING_TIME: Fraction(MICROS, 3_600),
}
# OCPI's DateTime is UTC with or without a "Z" (OCPI 2.2.1, section 16.2).
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z?\Z")


def parse(ocpi_json: bytes) -> Tariff:
    """Compile an OCPI 2.2.1 tariff object; raise ``TariffError`` naming what cannot be priced."""
    if len(ocpi_json) > MAX_TARIFF_SIZE:
        raise TariffError(f"a tariff has at most {MAX_TARIFF_SIZE} bytes")
    try:
        document = read_json(ocpi_json)
    except TariffError:
        raise
    except (ValueError, RecursionError) as err:
        raise TariffError("a tariff is one JSON object in UTF-8") from err
    return _tariff(_object(document, "a tariff"))


# JSON -----------------------------------------------------------------------------------------------------------------


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
        raise TariffError(f"{what} {', '.join(unknown)} cannot be priced")


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
    valid_from, valid_until = (_instant(document.get(key), key) for key in ("start_date_time", "end_date_time"))
    if valid_from is not None and valid_until is not None and valid_from >= valid_until:
        raise TariffError("start_date_time and end_date_time leave nothing between them")
    plans, unfit = compile_plans(elements, tax_included=tax_included, min_price=min_price, max_price=max_price)
    return Tariff(
        id=tariff_id,
        currency=currency,
        tax_included=tax_included,
        elements=elements,
        min_price=min_price,
        max_price=max_price,
        valid_from=valid_from,
        valid_until=valid_until,
        plans=plans,
        unfit=unfit,
    )


def _instant(value: Any, what: str) -> Instant | None:
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(_matching(value).removesuffix("Z")).replace(tzinfo=UTC)
    except ValueError as err:
        raise TariffError(f"{what} is an instant like 2026-01-31T00:00:00Z, not {value!s:.40}") from err
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    at_us = (since.days * 86_400 + since.seconds) * SECOND_US + since.microseconds
    if at_us < 0:
        raise TariffError(f"{what} is before 1970")
    return Instant(at_us)


def _matching(value: Any) -> str:
    if not isinstance(value, str) or not _DATE_TIME.match(value):
        raise ValueError("not an OCPI DateTime")
    return value


def _none() -> Currency:
    raise MoneyError("a tariff names its currency")


def _element(value: Any) -> Element:
    members = _object(value, "an element")
    restrictions = members.get("restrictions")
    _refuse_unknown(members, frozenset({"price_components", "restrictions"}), "an element with")
    components = tuple(
        _component(item) for item in _list(members.get("price_components"), "price_components", len(Dimension))
    )
    if len({component.dimension for component in components}) != len(components):
        raise TariffError("an element has two components of one type")
    return Element(
        components=components,
        restrictions=UNRESTRICTED
        if restrictions is None
        else parse_restrictions(_object(restrictions, "restrictions")),
    )


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
