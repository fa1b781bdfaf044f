"""Rounding and lines: whatever was billed and given back, sums are exact, and rounding stays within its rule."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.money import PPM, Currency, MoneyError
from farthing_cloud.documents import forms
from farthing_cloud.documents.billing import Billed, Key
from farthing_cloud.documents.forms import minor
from farthing_cloud.documents.invoices import InvoiceError, Standing, credit_of, invoice_of, lines_of, whole
from farthing_cloud.documents.parties import Address, PartyError, Seller, document_number
from farthing_cloud.documents.rounding import RateSum, credited, half_up, rounded, spread, summed, unit_micros

EUR = Currency("EUR")
CURRENCIES = st.sampled_from([Currency("EUR"), Currency("JPY"), Currency("BHD")])
RATES = st.sampled_from([0, 55_000, 70_000, 190_000, 200_000])
AMOUNT = st.integers(0, 10**10)


@st.composite
def billed(draw: Any) -> list[Billed]:
    """Records as the ledger bills them: tax is the floor of net times rate, now and then cut by a step of the waterfall."""
    found = []
    for position in range(draw(st.integers(1, 8))):
        rate, net = draw(RATES), draw(st.integers(1, 10**9))
        found.append(
            Billed(
                key=Key(position, 0, b""),
                site_id=draw(st.sampled_from(["S1", "S2"])),
                tariff_id=draw(st.sampled_from(["a", "b"])),
                tariff_version=1,
                rate_ppm=rate,
                evidence="device-signed",
                quarter=position + 1,
                net_micros=net,
                tax_micros=max(0, net * rate // PPM - draw(st.integers(0, 1))),
                debt_micros=0,
                posted_at_us=0,
                authorization_ids=(bytes([position]) * 16,),
            )
        )
    return found


@given(billed(), CURRENCIES)
def test_an_invoice_adds_up_and_rounds_within_half_a_unit_per_rate(parts: list[Billed], currency: Currency) -> None:
    lines, stands = lines_of(parts)
    invoice = invoice_of(lines, currency, debt_micros=0)
    assert invoice.exact_micros == sum(part.net_micros + part.tax_micros for part in parts)
    assert set(stands) == {part.key for part in parts}
    unit = unit_micros(currency)
    for rate in invoice.rates:
        assert 2 * abs(rate.taxable_minor * unit - rate.net_micros) <= unit
        # BR-CO-17: the tax is that of the rounded taxable amount.
        assert 2 * abs(rate.tax_minor * PPM - rate.taxable_minor * rate.rate_ppm) <= PPM
        # What was booked: half a unit for the tax, as much of one as the rate is for the net, and what each record cut off.
        booked = abs(rate.tax_minor * unit - rate.tax_micros)
        assert 2 * booked * PPM <= unit * (PPM + rate.rate_ppm) + 4 * PPM * len(parts)
    for rate in invoice.rates:
        of_rate = [
            share for line, share in zip(lines, invoice.line_minor, strict=True) if line.rate_ppm == rate.rate_ppm
        ]
        assert sum(of_rate) == rate.taxable_minor
        assert all(share >= 0 for share in of_rate)
    assert invoice.gross_minor == sum(rate.taxable_minor + rate.tax_minor for rate in invoice.rates)


#: Of which line, how much of its net and of its tax (ppm), and by how much the ledger's cut differs between the two.
STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, PPM), st.integers(0, PPM), st.integers(-2, 2)), max_size=4)


@settings(max_examples=60)
@given(billed(), CURRENCIES, STEPS)
def test_credit_notes_take_what_the_invoice_gave_and_no_more(
    parts: list[Billed], currency: Currency, steps: list[tuple[int, int, int, int]]
) -> None:
    lines, _ = lines_of(parts)
    invoice = invoice_of(lines, currency, debt_micros=0)
    form = {"lines": forms.line_forms(invoice.lines, invoice.line_minor, currency)}
    notes: list[Any] = []
    exact = cents = 0
    # At last all that is left, line by line.
    for index, net_ppm, tax_ppm, slip in [*steps, *[(0, PPM, PPM, 0)] * len(lines)]:
        standing = forms.standing_from("I-1", "I-1", form, notes)
        left = sorted(whole(standing).items())
        if not left:
            break
        number, (net, tax) = left[index % len(left)]
        take = (max(0, net) * net_ppm // PPM, max(0, tax) * tax_ppm // PPM)
        if (net_ppm, tax_ppm) == (PPM, PPM):
            take = (net, tax)
        # Between net and tax a refund may differ by micros from what was billed, never in their sum.
        if min(take) > abs(slip):
            take = (take[0] + slip, take[1] - slip)
        if sum(take) == 0:
            continue
        with pytest.raises(InvoiceError):
            credit_of(standing, {number: (net + 1, tax)}, currency)
        note = credit_of(standing, {number: take}, currency)
        assert all(rate.taxable_minor >= 0 and rate.tax_minor >= 0 for rate in note.rates)
        assert all(share >= 0 for share in note.line_minor)
        exact, cents = exact + note.exact_micros, cents + note.gross_minor
        notes.append({"lines": forms.line_forms(note.lines, note.line_minor, currency)})
    # Credited whole: nothing of the invoice is left, to the smallest coin.
    assert (exact, cents) == (invoice.exact_micros, invoice.gross_minor)


@given(st.lists(AMOUNT, min_size=1, max_size=20), CURRENCIES)
def test_spread_sums_to_the_whole(amounts: list[int], currency: Currency) -> None:
    total = half_up(sum(amounts), unit_micros(currency))
    shares = spread(total, amounts, currency)
    assert sum(shares) == total
    assert all(
        abs(share * unit_micros(currency) - amount) <= unit_micros(currency)
        for share, amount in zip(shares, amounts, strict=True)
    )


def test_more_than_is_left_is_not_credited() -> None:
    left = [RateSum(rate_ppm=200_000, net_micros=10, tax_micros=2)]
    with pytest.raises(MoneyError, match="more is credited"):
        credited(left, [RateSum(rate_ppm=200_000, net_micros=11, tax_micros=2)], EUR)
    with pytest.raises(MoneyError, match="more is credited"):
        credited(left, [RateSum(rate_ppm=70_000, net_micros=1, tax_micros=0)], EUR)
    with pytest.raises(InvoiceError, match="has no line 2"):
        credit_of(Standing(number="I-1", root="I-1", left=()), {2: (1, 0)}, EUR)


def test_one_part_billed_twice_is_no_invoice() -> None:
    part = Billed(
        key=Key(1, 0, b""), site_id="S", tariff_id="t", tariff_version=1, rate_ppm=0, evidence="", quarter=0,
        net_micros=1, tax_micros=0, debt_micros=0, posted_at_us=0, authorization_ids=(),
    )  # fmt: skip
    with pytest.raises(InvoiceError, match="billed twice"):
        lines_of([part, part])


def test_halves_go_up_and_currencies_have_their_units() -> None:
    assert [half_up(each, 10_000) for each in (0, 4_999, 5_000, 14_999, 15_000, -3)] == [0, 0, 1, 1, 2, 0]
    assert [minor(1_205, Currency(each)) for each in ("EUR", "JPY", "BHD")] == ["12.05", "1205", "1.205"]
    assert minor(-5, EUR) == "-0.05"
    with pytest.raises(MoneyError):
        unit_micros(Currency("XAU"))
    (rate,) = rounded(summed([RateSum(rate_ppm=200_000, net_micros=6_125_000, tax_micros=1_225_000)]), EUR)
    assert (rate.taxable_minor, rate.tax_minor) == (613, 123)


def seller(**changes: Any) -> Seller:
    values = {
        "operator_id": "op",
        "name": "City",
        "address": Address(street="1 Mint Lane", city="Farthing", postcode="", country="DE"),
        "vat_id": "DE123456789",
        "invoice_prefix": "INV-",
        "credit_note_prefix": "CN-",
        **changes,
    }
    return Seller(**values)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 201},
        {"vat_id": ""},
        {"vat_id": "123"},
        {"invoice_prefix": ""},
        {"invoice_prefix": "INV0"},
        {"invoice_prefix": "CN-"},
        {"credit_note_prefix": "<b>-"},
        {"operator_id": "a/b"},
        {"address": Address(street="", city="F", postcode="", country="DE")},
    ],
)
def test_who_no_document_may_name(changes: dict[str, Any]) -> None:
    assert seller().vat_id == "DE123456789"
    with pytest.raises(PartyError):
        seller(**changes)


def test_countries_have_two_letters_and_numbers_six_digits() -> None:
    with pytest.raises(PartyError, match="ISO 3166"):
        Address(street="", city="", postcode="", country="Germany")
    assert [document_number("INV-", each) for each in (1, 999_999, 1_000_000)] == [
        "INV-000001",
        "INV-999999",
        "INV-1000000",
    ]
