"""Laws that every price keeps, over tariffs of every kind that parses; and what does not parse."""

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.clock import SECOND_US, Instant
from farthing.tariff import Tariff, TariffError, Use, is_placed, limit, parse, price, price_of_width

UNITS = {"Wh": "ENERGY", "s": "TIME", "passage": "UNIT"}
_prices = st.sampled_from([0, 0.000001, 0.01, 0.25, 0.333333, 1.2, 3, 7.77, 120])
_vats = st.sampled_from([None, 0, 5.5, 7, 10, 20, 100])
_steps = st.sampled_from([1, 7, 60, 100, 900])


def build(**changes: object) -> Tariff:
    document = {
        "id": "t",
        "currency": "EUR",
        "elements": [{"price_components": [{"type": "ENERGY", "price": 0.25, "vat": 20, "step_size": 100}]}],
    }
    return parse(json.dumps(document | changes).encode())


@st.composite
def tariffs_and_units(draw: st.DrawFn, *, bounded: bool = True) -> tuple[Tariff, str]:
    unit = draw(st.sampled_from(sorted(UNITS)))
    kinds = draw(
        st.sampled_from([["FLAT"], ["TIME"], [UNITS[unit]], ["FLAT", UNITS[unit]], ["FLAT", "TIME", UNITS[unit]]])
    )
    one_rate = draw(st.booleans())
    vats = [draw(_vats)] * 3 if one_rate else [draw(_vats) for _ in range(3)]
    elements = []
    for kind, vat in zip(dict.fromkeys(kinds), vats, strict=False):
        component: dict[str, object] = {"type": kind, "price": draw(_prices), "step_size": draw(_steps)}
        if vat is not None:
            component["vat"] = vat
        elements.append({"price_components": [component]})
    document: dict[str, object] = {
        "id": "t",
        "currency": "EUR",
        "elements": elements,
        "tax_included": draw(st.booleans()),
    }
    if bounded:
        # A minimum is for one tax rate, and below any maximum.
        for key, amounts in (("min_price", [0.000003, 0.5, 1.111111]), ("max_price", [9, 10, 11.5])):
            sides = draw(st.sampled_from([(), ("excl_vat",), ("incl_vat",), ("excl_vat", "incl_vat")]))
            if sides and (one_rate or key == "max_price"):
                document[key] = {side: draw(st.sampled_from(amounts)) for side in sides}
    return parse(json.dumps(document).encode()), unit


_widths = st.one_of(st.integers(0, 300), st.integers(0, 5_000_000))
_times = st.one_of(st.integers(0, 10), st.integers(0, 10**11))


def use_of(unit: str, width: int, elapsed_us: int) -> Use:
    return Use(unit=unit, start=17, end=17 + width, started_at=Instant(10**9), ended_at=Instant(10**9 + elapsed_us))


@settings(max_examples=200, deadline=None)
@given(tariffs_and_units(), _widths, _widths, _times, _times)
def test_interim_never_falls_and_never_exceeds_closing(
    pair: tuple[Tariff, str], width: int, more: int, elapsed: int, later: int
) -> None:
    tariff, unit = pair
    before = price(tariff, use_of(unit, width, elapsed), closing=False)
    after = price(tariff, use_of(unit, width + more, elapsed + later), closing=False)
    end = price(tariff, use_of(unit, width + more, elapsed + later), closing=True)
    for low, middle, high in zip(before.parts, after.parts, end.parts, strict=True):
        assert low.rate_ppm == middle.rate_ppm == high.rate_ppm
        assert low.net_micros <= middle.net_micros <= high.net_micros
        assert low.tax_micros <= middle.tax_micros <= high.tax_micros


def test_a_least_price_without_tax_takes_no_tax_away_that_an_interim_record_billed() -> None:
    # A millionth with 5.5 % in it is all tax, once the net is rounded down; three millionths without tax have none.
    flat = {"price_components": [{"type": "FLAT", "price": 0.000001, "vat": 5.5, "step_size": 1}]}
    tariff = build(tax_included=True, elements=[flat], min_price={"excl_vat": 0.000003})
    interim = price(tariff, use_of("Wh", 1, 0), closing=False)
    closing = price(tariff, use_of("Wh", 1, 0), closing=True)
    assert [(part.net_micros, part.tax_micros) for part in (*interim.parts, *closing.parts)] == [(0, 1), (3, 1)]


@settings(max_examples=200, deadline=None)
@given(tariffs_and_units(), _widths, _widths, _times, _times)
def test_closing_never_falls(pair: tuple[Tariff, str], width: int, more: int, elapsed: int, later: int) -> None:
    tariff, unit = pair
    short = price(tariff, use_of(unit, width, elapsed), closing=True)
    long = price(tariff, use_of(unit, width + more, elapsed + later), closing=True)
    assert short.gross_micros <= long.gross_micros


@settings(max_examples=200, deadline=None)
@given(tariffs_and_units(), _widths, _times, st.integers(0, 10**8))
def test_limit_is_the_inverse_of_closing(pair: tuple[Tariff, str], most: int, elapsed: int, budget_micros: int) -> None:
    tariff, unit = pair
    use = use_of(unit, 0, 0)
    until = Instant(use.started_at + elapsed)
    quantity = limit(tariff, use, most=most, until=until, budget_micros=budget_micros)
    counted = [c.step for e in tariff.elements for c in e.components if c.dimension == UNITS[unit]]
    step = counted[0] if counted else 1
    assert quantity % step == 0
    assert 0 <= quantity < most + step
    assert price(tariff, use_of(unit, quantity, elapsed), closing=True).gross_micros <= budget_micros
    if quantity < most:
        assert price(tariff, use_of(unit, quantity + step, elapsed), closing=True).gross_micros > budget_micros


@settings(max_examples=100, deadline=None)
@given(tariffs_and_units(), _widths, _times)
def test_where_only_the_width_counts_its_price_is_the_price_of_every_use_of_it(
    pair: tuple[Tariff, str], most: int, elapsed: int
) -> None:
    tariff, unit = pair
    by_width = price_of_width(tariff, unit, most)
    if by_width is None:
        # It places: two uses of one width cost what their time says.
        assert is_placed(tariff, unit)
        return
    priced, covered = by_width
    assert priced == price(tariff, use_of(unit, most, elapsed), closing=True)
    until = Instant(10**9 + elapsed)
    assert covered == limit(tariff, use_of(unit, 0, 0), most=most, until=until, budget_micros=priced.gross_micros)


@settings(max_examples=300, deadline=None)
@given(tariffs_and_units(bounded=False), _widths, _times, st.booleans())
def test_tax_is_the_floor_of_the_net_so_far(pair: tuple[Tariff, str], width: int, elapsed: int, closing: bool) -> None:
    tariff, unit = pair
    for part in price(tariff, use_of(unit, width, elapsed), closing=closing).parts:
        if tariff.tax_included:
            gross = part.net_micros + part.tax_micros
            assert part.net_micros == gross * 1_000_000 // (1_000_000 + part.rate_ppm)
        else:
            assert part.tax_micros == part.net_micros * part.rate_ppm // 1_000_000


@settings(max_examples=300, deadline=None)
@given(tariffs_and_units(), _widths, _times)
def test_bounds_hold_at_closing(pair: tuple[Tariff, str], width: int, elapsed: int) -> None:
    tariff, unit = pair
    priced = price(tariff, use_of(unit, width, elapsed), closing=True)
    if width == 0:
        assert (priced.net_micros, priced.tax_micros) == (0, 0)
        return
    if tariff.max_price is not None:
        assert tariff.max_price.net_micros is None or priced.net_micros <= tariff.max_price.net_micros
        assert tariff.max_price.gross_micros is None or priced.gross_micros <= tariff.max_price.gross_micros
    if tariff.min_price is not None:
        assert priced.net_micros >= (tariff.min_price.net_micros or 0)
        assert priced.gross_micros >= (tariff.min_price.gross_micros or 0)


@settings(max_examples=200, deadline=None)
@given(_prices, _prices, _widths, _times, st.booleans())
def test_integers_agree_with_exact_rationals(
    flat: float, hourly: float, width: int, elapsed: int, tax_included: bool
) -> None:
    tariff = build(
        tax_included=tax_included,
        elements=[
            {"price_components": [{"type": "FLAT", "price": flat, "step_size": 1, "vat": 7}]},
            {"price_components": [{"type": "TIME", "price": hourly, "step_size": 1, "vat": 7}]},
        ],
    )
    exact = Fraction(str(flat)) * 10**6 + Fraction(str(hourly)) * 10**6 * Fraction(elapsed, 3600 * SECOND_US)
    expected = int(exact) if width else 0
    priced = price(tariff, use_of("Wh", width, elapsed), closing=False)
    assert (priced.gross_micros if tax_included else priced.net_micros) == expected


def test_time_of_a_register_that_counts_seconds_ignores_the_clock() -> None:
    tariff = build(elements=[{"price_components": [{"type": "TIME", "price": 3.6, "step_size": 60, "vat": 0}]}])
    assert price(tariff, use_of("s", 61, 10**12), closing=False).net_micros == 61_000
    assert price(tariff, use_of("s", 61, 10**12), closing=True).net_micros == 120_000
    assert price(tariff, use_of("Wh", 61, 61 * SECOND_US), closing=True).net_micros == 120_000


def test_of_each_dimension_the_first_element_counts() -> None:
    tariff = build(
        elements=[
            {"price_components": [{"type": "UNIT", "price": 2, "step_size": 1}], "restrictions": {}},
            {"price_components": [{"type": "UNIT", "price": 9, "step_size": 1}], "restrictions": None},
        ]
    )
    assert price(tariff, use_of("litre", 3, 0), closing=True).gross_micros == 6_000_000


def test_mixed_tax_under_a_greatest_price() -> None:
    """The lowest rate fills first; what it may come to crowd out is billed at closing only."""
    tariff = build(
        elements=[
            {
                "price_components": [
                    {"type": "FLAT", "price": 0.5, "vat": 20, "step_size": 1},
                    {"type": "ENERGY", "price": 0.25, "vat": 10, "step_size": 1},
                ]
            }
        ],
        max_price={"excl_vat": 10, "incl_vat": 11},
    )
    interim = price(tariff, use_of("Wh", 20_000, 0), closing=False)
    assert [(p.rate_ppm, p.net_micros) for p in interim.parts] == [(100_000, 5_000_000), (200_000, 0)]
    closing = price(tariff, use_of("Wh", 20_000, 0), closing=True)
    assert [(p.rate_ppm, p.net_micros) for p in closing.parts] == [(100_000, 5_000_000), (200_000, 500_000)]
    most = price(tariff, use_of("Wh", 90_000, 0), closing=True)
    assert (most.net_micros, most.gross_micros) == (10_000_000, 11_000_000)


def test_a_price_is_never_larger_than_one_amount() -> None:
    with pytest.raises(TariffError, match="larger than one amount"):
        price(build(), use_of("Wh", 2**60, 0), closing=False)
    assert limit(build(), use_of("Wh", 0, 0), most=2**60, until=Instant(0), budget_micros=600_000) == 2_000


@pytest.mark.parametrize(("unit", "fits"), [("Wh", True), ("s", False), ("passage", False)])
def test_a_register_that_the_tariff_does_not_price_has_no_price(unit: str, fits: bool) -> None:
    tariff = build()
    assert tariff.fits(unit) is fits
    if not fits:
        with pytest.raises(TariffError, match=unit):
            price(tariff, use_of(unit, 1, 0), closing=True)
        with pytest.raises(TariffError, match=unit):
            limit(tariff, use_of(unit, 1, 0), most=1, until=Instant(0), budget_micros=10)


def one(**component: object) -> dict[str, object]:
    return {"elements": [{"price_components": [{"type": "ENERGY", "price": 1, "step_size": 1} | component]}]}


def restricted(**restrictions: object) -> dict[str, object]:
    return {
        "elements": [{"price_components": [{"type": "FLAT", "price": 1, "step_size": 1}], "restrictions": restrictions}]
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (restricted(moon="full"), "moon"),
        (restricted(start_time="9:00"), "start_time"),
        (restricted(start_time="24:00"), "start_time"),
        (restricted(end_time=9), "end_time"),
        (restricted(start_time="09:00", end_time="09:00"), "the same"),
        (restricted(start_date="2026-1-1"), "start_date"),
        (restricted(start_date="20260101"), "start_date"),
        (restricted(end_date="2026-02-30"), "end_date"),
        (restricted(start_date="2026-03-01", end_date="2026-03-01"), "nothing between"),
        (restricted(day_of_week=["Monday"]), "day_of_week"),
        (restricted(day_of_week=[]), "day_of_week"),
        (restricted(day_of_week="MONDAY"), "day_of_week"),
        (restricted(min_kwh=-1), "min_kwh"),
        (restricted(min_kwh=0.0001), "finer"),
        (restricted(min_kwh=10, max_kwh=10), "nothing between"),
        (restricted(max_power="16"), "max_power"),
        (restricted(min_duration=1.5), "finer"),
        (restricted(max_duration=10**10), "max_duration"),
        (restricted(reservation="MAYBE"), "reservation"),
        (restricted(min_units=3, max_units=2), "nothing between"),
        (one(type="SESSION_TIME"), "SESSION_TIME"),
        (one(type=7), "type 7"),
        (one(type=None), "type None"),
        (one(price=-1), "a price"),
        (one(price="1.00"), "a price"),
        (one(price=True), "a price"),
        (one(price=None), "a price"),
        (one(price=10**11), "digits|larger"),
        (one(price=1e300), "digits"),
        (one(vat=101), "vat"),
        (one(vat=0.00001), "vat"),
        (one(vat="7"), "vat"),
        (one(step_size=0), "step_size"),
        (one(step_size=1.5), "step_size"),
        (one(step_size=86_401), "step_size"),
        (one(surcharge=1), "surcharge"),
        ({"elements": []}, "elements"),
        ({"elements": {}}, "elements"),
        ({"elements": [{}]}, "price_components"),
        ({"elements": [{"price_components": []}]}, "price_components"),
        ({"elements": [{"price_components": [{"type": "FLAT", "price": 1}] * 2}]}, "two components"),
        ({"elements": [{"price_components": [{"type": t, "price": 1} for t in ("ENERGY", "UNIT")]}]}, "no register"),
        ({"currency": "XXZ"}, "ISO 4217"),
        ({"currency": 7}, "currency"),
        ({"id": "a/b"}, "an id"),
        ({"tax_included": 1}, "tax_included"),
        ({"start_date_time": "2026-01-01"}, "start_date_time"),
        ({"start_date_time": "2026-01-01T00:00:00+01:00"}, "start_date_time"),
        ({"start_date_time": "1969-01-01T00:00:00Z"}, "1970"),
        ({"end_date_time": 5}, "end_date_time"),
        ({"start_date_time": "2026-01-01T00:00:00Z", "end_date_time": "2026-01-01T00:00:00"}, "nothing between"),
        ({"discount": 5}, "discount"),
        ({"min_price": {}}, "min_price"),
        ({"min_price": {"excl_vat": 0.0000001}}, "six decimals"),
        ({"min_price": {"excl_vat": 2}, "max_price": {"excl_vat": 1}}, "above max_price"),
        ({"max_price": 5}, "max_price"),
        ({"max_price": {"net": 5}}, "net"),
    ],
)
def test_what_cannot_be_priced_does_not_parse(changes: dict[str, object], named: str) -> None:
    with pytest.raises(TariffError, match=named):
        build(**changes)


@pytest.mark.parametrize(
    ("minimum", "net", "gross"),
    [
        # 0.10 at 20 % and 0.20 at 10 % are due: 0.30, with tax 0.34.
        ({"excl_vat": 0.5, "incl_vat": 0.55}, 500_000, 550_000),
        ({"excl_vat": 0.5}, 500_000, 560_000),
        ({"incl_vat": 0.56}, 500_000, 560_000),
        ({"excl_vat": 0.2, "incl_vat": 0.3}, 300_000, 340_000),
    ],
)
def test_a_minimum_over_two_tax_rates(minimum: dict[str, float], net: int, gross: int) -> None:
    """What is lacking is borne by the lowest rate; both sides are met as they were written."""
    components = [{"type": "FLAT", "price": 0.1, "vat": 20}, {"type": "ENERGY", "price": 0.25, "vat": 10}]
    tariff = build(elements=[{"price_components": components}], min_price=minimum)
    closing = price(tariff, use_of("Wh", 800, 0), closing=True)
    assert (closing.net_micros, closing.gross_micros) == (net, gross)
    assert closing.parts[1].net_micros == 100_000
    interim = price(tariff, use_of("Wh", 800, 0), closing=False)
    assert (interim.net_micros, interim.gross_micros) == (300_000, 340_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{",
        b'{"id": 1}',
        b"[" * 60_000,
        b'{"id": "t", "id": "t"}',
        b'{"id": "t", "currency": "EUR", "elements": NaN}',
        b'{"id": "t", "currency": "EUR", "elements": 1e999999999}',
        b'{"id": "t", "currency": "EUR", "elements": ' + b"9" * 5_000 + b"}",
        b" " * 70_000,
    ],
)
def test_rubbish_does_not_parse(data: bytes) -> None:
    with pytest.raises(TariffError):
        parse(data)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_raise_tariff_error_only(data: bytes) -> None:
    with pytest.raises(TariffError):
        parse(data)
