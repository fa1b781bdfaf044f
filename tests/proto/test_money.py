"""Money: exact, bounded, rounded in one place."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing import money
from farthing.money import MAX_AMOUNT_MICROS, MICROS, PPM, Currency, MoneyError

amounts = st.integers(0, MAX_AMOUNT_MICROS)
rates = st.integers(0, PPM)


@pytest.mark.parametrize("value", [0, 1, MAX_AMOUNT_MICROS])
def test_amounts(value: int) -> None:
    assert money.parse_amount_micros(value) == value


@pytest.mark.parametrize("value", [-1, MAX_AMOUNT_MICROS + 1, True, 1.0, "1", None, b"1"])
def test_not_amounts(value: object) -> None:
    with pytest.raises(MoneyError):
        money.parse_amount_micros(value)


@pytest.mark.parametrize("code", ["EUR", "JPY", "KWD"])
def test_currencies(code: str) -> None:
    assert money.parse_currency(code) == code


@pytest.mark.parametrize("code", ["eur", "EURO", "EU", "XYZ", "", "EUR\n", "ЕUR"])
def test_not_currencies(code: str) -> None:
    with pytest.raises(MoneyError):
        money.parse_currency(code)


@given(amounts, rates)
def test_tax_is_the_floor_of_the_exact_tax(net: int, rate: int) -> None:
    exact = Fraction(net) * rate / PPM
    assert exact - 1 < money.tax_micros(net, rate) <= exact


@given(amounts, rates)
def test_net_and_tax_of_an_inclusive_price_are_the_price(gross: int, rate: int) -> None:
    net = money.net_of_gross_micros(gross, rate)
    exact = Fraction(gross) * PPM / (PPM + rate)
    assert exact - 1 < net <= exact
    assert gross - net >= 0


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.data())
def test_a_cut_loses_nothing(net: int, tax: int, data: st.DataObject) -> None:
    amount = data.draw(st.integers(0, net + tax))
    first = money.cut(net, tax, amount)
    assert sum(first) == amount
    assert 0 <= first[0] <= net
    assert first[1] >= 0
    rest = (net - first[0], tax - first[1])
    assert money.cut(*rest, sum(rest)) == rest


def test_the_worked_days_cuts() -> None:
    assert money.cut(1_041_500, 208_300, 958_900) == (799_083, 159_817)
    assert money.cut(2_125_000, 425_000, 1_000_000) == (833_333, 166_667)
    assert money.cut(1_121_495, 78_505, 800_000) == (747_663, 52_337)


@pytest.mark.parametrize("amount", [-1, 11])
def test_no_cut_beyond_the_sum(amount: int) -> None:
    with pytest.raises(MoneyError):
        money.cut(6, 4, amount)


@pytest.mark.parametrize(
    ("rate", "name"), [(200_000, "20"), (55_000, "5.5"), (0, "0"), (70_000, "7"), (1, "0.0001"), (PPM, "100")]
)
def test_rate_names(rate: int, name: str) -> None:
    assert money.rate_name(rate) == name


@given(st.integers(-(10**20), 10**20))
def test_formatted_amounts_are_exact(amount: int) -> None:
    text = money.format_micros(amount)
    assert Fraction(text) * MICROS == amount
    assert len(text.partition(".")[2]) >= 2


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.00"), (1, "0.000001"), (-1_500_000, "-1.50"), (12_060_000, "12.06"), (10, "0.00001")]
)
def test_formatted_amounts(amount: int, text: str) -> None:
    assert money.format_micros(amount) == text


@given(st.integers(0, 10**15), st.sampled_from([("EUR", 10_000), ("JPY", 1_000_000), ("KWD", 1_000)]))
def test_payouts_are_whole_minor_units(amount: int, pair: tuple[str, int]) -> None:
    code, unit = pair
    paid = money.round_down_to_minor_unit(amount, Currency(code))
    assert paid % unit == 0
    assert 0 <= amount - paid < unit


def test_nobody_is_paid_in_gold() -> None:
    with pytest.raises(MoneyError):
        money.round_down_to_minor_unit(1, Currency("XAU"))
