"""Plan what each payee is paid when a window is closed: whole minor units, rounded down, the rest stays.

Rule 1: a plan is immutable; its hash over its canonical form is what an approval signs.
Rule 2: nobody is paid from what payers own: a plan that needs more than cleared cash is refused whole.
Rule 3: what an earlier plan has promised is not promised twice.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import cbor2

from farthing.money import Currency, format_micros, round_down_to_minor_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Payee:
    """Who may be owed: an ``agency/<id>`` or ``fee/<id>``.

    ``balance_micros`` is what the ledger owes it (negative when it owes us), ``promised_micros`` the part of that which
    earlier plans will pay.
    """

    path: str
    balance_micros: int
    promised_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """One payee's line of a plan: owed = planned + stays; planned is a whole number of minor units."""

    path: str
    owed_micros: int
    planned_micros: int
    stays_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutPlan:
    """What the payees of one operator are paid for one closed window."""

    operator_id: str
    window: str
    currency: Currency
    payouts: tuple[Payout, ...]
    #: bank − what payers own − what earlier plans will pay
    cleared_cash_micros: int

    @property
    def total_micros(self) -> int:
        """The sum of all that is planned."""
        return sum(payout.planned_micros for payout in self.payouts)

    @property
    def canonical(self) -> bytes:
        """The plan as deterministic CBOR (RFC 8949, section 4.2.1): the same plan always gives the same bytes."""
        return cbor2.dumps(
            [
                "farthing/payout-plan/1",
                self.operator_id,
                self.window,
                self.currency,
                [[p.path, p.owed_micros, p.planned_micros, p.stays_micros] for p in self.payouts],
                self.total_micros,
                self.cleared_cash_micros,
            ],
            canonical=True,
        )

    @property
    def content_hash(self) -> bytes:
        """SHA-256 of the canonical form, 32 bytes."""
        return hashlib.sha256(self.canonical).digest()

    @property
    def plan_id(self) -> str:
        """A name that follows from the content."""
        return f"plan-{self.content_hash[:8].hex()}"


def parse_canonical(data: bytes) -> PayoutPlan:
    """Read a plan back from its canonical form, as written by :attr:`PayoutPlan.canonical`."""
    kind, operator_id, window, currency, payouts, total_micros, cleared_cash_micros = cbor2.loads(data)
    assert kind == "farthing/payout-plan/1"
    plan = PayoutPlan(
        operator_id=operator_id,
        window=window,
        currency=currency,
        payouts=tuple(
            Payout(path=path, owed_micros=owed, planned_micros=planned, stays_micros=stays)
            for path, owed, planned, stays in payouts
        ),
        cleared_cash_micros=cleared_cash_micros,
    )
    assert plan.total_micros == total_micros
    return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class CashMissing:
    """The payouts would have to be paid from what payers own."""

    total_micros: int
    bank_micros: int
    payers_own_micros: int
    promised_micros: int
    currency: Currency

    @property
    def reason(self) -> str:
        """The sum that does not work out, and what to do."""
        cleared = self.bank_micros - self.payers_own_micros - self.promised_micros
        return (
            f"payouts of {format_micros(self.total_micros)} {self.currency} need as much cleared cash, and there is "
            f"bank {format_micros(self.bank_micros)} - payers own {format_micros(self.payers_own_micros)} - promised "
            f"by earlier plans {format_micros(self.promised_micros)} = {format_micros(cleared)}: collect what payers "
            "owe or put the operator's own money on the bank account, then plan again"
        )


PlanDecision: TypeAlias = PayoutPlan | CashMissing


def plan(
    *,
    operator_id: str,
    window: str,
    currency: Currency,
    payees: Iterable[Payee],
    bank_micros: int,
    payers_own_micros: int,
    minimum_payout_micros: int = 0,
) -> PlanDecision:
    """Plan the payouts of a closed window; a payee with less than ``minimum_payout_micros`` waits for the next one.

    ``bank_micros`` is the cash on all of the operator's bank accounts, ``payers_own_micros`` what payers could ask back.
    A payee that owes us is planned nothing; its debt stays for the next window.
    """
    ordered = sorted(payees, key=lambda payee: payee.path)
    promised_micros = sum(payee.promised_micros for payee in ordered)
    payouts = tuple(
        _payout(payee, currency, minimum_payout_micros)
        for payee in ordered
        if payee.balance_micros or payee.promised_micros
    )
    total_micros = sum(payout.planned_micros for payout in payouts)
    cleared_cash_micros = bank_micros - payers_own_micros - promised_micros
    if total_micros > max(cleared_cash_micros, 0):
        return CashMissing(
            total_micros=total_micros,
            bank_micros=bank_micros,
            payers_own_micros=payers_own_micros,
            promised_micros=promised_micros,
            currency=currency,
        )
    return PayoutPlan(
        operator_id=operator_id,
        window=window,
        currency=currency,
        payouts=payouts,
        cleared_cash_micros=cleared_cash_micros,
    )


def _payout(payee: Payee, currency: Currency, minimum_payout_micros: int) -> Payout:
    owed_micros = payee.balance_micros - payee.promised_micros
    planned_micros = round_down_to_minor_unit(max(owed_micros, 0), currency)
    if planned_micros < minimum_payout_micros:
        planned_micros = 0
    return Payout(
        path=payee.path,
        owed_micros=owed_micros,
        planned_micros=planned_micros,
        stays_micros=owed_micros - planned_micros,
    )
