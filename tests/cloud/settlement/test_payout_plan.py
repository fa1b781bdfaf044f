"""What payees are paid: never more than they are owed, never from what payers own."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.money import MoneyError, format_micros, parse_currency
from farthing_cloud.settlement.plan import CashMissing, Payee, PayoutPlan, parse_canonical, plan

EUR = parse_currency("EUR")

#: The worked example's first window: path, owed, planned, stays.
EXAMPLE = (
    ("agency/A", 5_566_796, 5_560_000, 6_796),
    ("agency/B", 2_783_396, 2_780_000, 3_396),
    ("fee/op", 927_798, 920_000, 7_798),
)


def make(
    payees: list[Payee], *, bank_micros: int, own_micros: int = 0, minimum_micros: int = 0
) -> PayoutPlan | CashMissing:
    return plan(
        operator_id="op",
        window="w1",
        currency=EUR,
        payees=payees,
        bank_micros=bank_micros,
        payers_own_micros=own_micros,
        minimum_payout_micros=minimum_micros,
    )


def test_the_worked_example() -> None:
    payees = [Payee(path=path, balance_micros=owed) for path, owed, _, _ in EXAMPLE]
    made = make(payees, bank_micros=10_800_000, own_micros=890_000)
    assert isinstance(made, PayoutPlan)
    assert tuple((p.path, p.owed_micros, p.planned_micros, p.stays_micros) for p in made.payouts) == EXAMPLE
    assert made.total_micros == 9_260_000
    assert made.cleared_cash_micros == 9_910_000


def test_the_worked_examples_own_table(shared_data: Callable[[str], Path]) -> None:
    text = shared_data("example/EXAMPLE.md").read_text("utf-8")
    table = text[text.index("|payee|owed|planned|stays|") :].split("\n\n")[0]
    rows = re.findall(r"^\|((?:agency|fee)/\w+)\|([\d.]+)\|([\d.]+)\|([\d.]+)\|$", table, re.MULTILINE)
    assert rows == [(path, *(format_micros(micros) for micros in amounts)) for path, *amounts in EXAMPLE]


def test_without_the_cash_nobody_is_paid() -> None:
    payees = [Payee(path=path, balance_micros=owed) for path, owed, _, _ in EXAMPLE]
    refused = make(payees, bank_micros=10_149_999, own_micros=890_000)
    assert isinstance(refused, CashMissing)
    assert "payouts of 9.26 EUR" in refused.reason
    assert "bank 10.149999 - payers own 0.89" in refused.reason
    assert isinstance(make(payees, bank_micros=10_150_000, own_micros=890_000), PayoutPlan)


def test_who_owes_us_is_planned_nothing() -> None:
    made = make([Payee(path="agency/A", balance_micros=-657_102)], bank_micros=-5)
    assert isinstance(made, PayoutPlan)
    (payout,) = made.payouts
    assert (payout.owed_micros, payout.planned_micros, payout.stays_micros) == (-657_102, 0, -657_102)


def test_what_an_earlier_plan_promised_is_not_promised_again() -> None:
    first = Payee(path="agency/A", balance_micros=5_000_000, promised_micros=4_000_000)
    made = make([first], bank_micros=5_000_000)
    assert isinstance(made, PayoutPlan)
    assert made.total_micros == 1_000_000
    assert isinstance(make([first], bank_micros=4_999_999), CashMissing)


def test_small_amounts_wait() -> None:
    made = make([Payee(path="agency/A", balance_micros=990_000)], bank_micros=9_000_000, minimum_micros=1_000_000)
    assert isinstance(made, PayoutPlan)
    assert (made.total_micros, made.payouts[0].stays_micros) == (0, 990_000)


@pytest.mark.parametrize(("currency", "planned_micros"), [("JPY", 1_000_000), ("EUR", 1_230_000), ("KWD", 1_234_000)])
def test_each_currency_has_its_smallest_coin(currency: str, planned_micros: int) -> None:
    made = plan(
        operator_id="op",
        window="w1",
        currency=parse_currency(currency),
        payees=[Payee(path="agency/A", balance_micros=1_234_567)],
        bank_micros=2_000_000,
        payers_own_micros=0,
    )
    assert isinstance(made, PayoutPlan)
    assert made.total_micros == planned_micros


def test_nobody_is_paid_in_gold() -> None:
    with pytest.raises(MoneyError):
        plan(
            operator_id="op",
            window="w1",
            currency=parse_currency("XAU"),
            payees=[Payee(path="agency/A", balance_micros=1)],
            bank_micros=1,
            payers_own_micros=0,
        )


PAYEES = st.lists(
    st.builds(
        Payee,
        path=st.from_regex(r"(agency|fee)/[a-z]{1,3}", fullmatch=True),
        balance_micros=st.integers(-(10**12), 10**12),
        promised_micros=st.integers(0, 10**9),
    ),
    unique_by=lambda payee: payee.path,
    max_size=8,
)


@given(payees=PAYEES, bank_micros=st.integers(-(10**6), 10**13), own_micros=st.integers(0, 10**12))
def test_planned_is_whole_cents_within_what_is_owed_and_there(
    payees: list[Payee], bank_micros: int, own_micros: int
) -> None:
    made = make(payees, bank_micros=bank_micros, own_micros=own_micros)
    promised = sum(payee.promised_micros for payee in payees)
    if isinstance(made, CashMissing):
        assert made.total_micros > max(bank_micros - own_micros - promised, 0)
        return
    by_path = {payee.path: payee for payee in payees}
    for payout in made.payouts:
        payee = by_path[payout.path]
        assert 0 <= payout.planned_micros <= max(payout.owed_micros, 0)
        assert payout.planned_micros % 10_000 == 0
        assert payout.owed_micros == payout.planned_micros + payout.stays_micros
        assert payout.owed_micros == payee.balance_micros - payee.promised_micros
        assert payout.owed_micros < 0 or payout.stays_micros < 10_000
    assert made.total_micros <= max(made.cleared_cash_micros, 0)
    assert own_micros + promised + made.total_micros <= max(bank_micros, own_micros + promised)


@given(payees=PAYEES)
def test_one_plan_has_one_hash_and_other_content_another(payees: list[Payee]) -> None:
    made = make(payees, bank_micros=10**14)
    again = make(list(reversed(payees)), bank_micros=10**14)
    assert isinstance(made, PayoutPlan)
    assert isinstance(again, PayoutPlan)
    assert made == again
    assert made.content_hash == again.content_hash
    assert parse_canonical(made.canonical) == made
    for changed in (
        dataclasses.replace(made, window="w2"),
        dataclasses.replace(made, operator_id="po"),
        dataclasses.replace(made, cleared_cash_micros=made.cleared_cash_micros + 1),
    ):
        assert changed.content_hash != made.content_hash
