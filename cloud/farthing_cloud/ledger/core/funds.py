"""Accounts come to be and get money; what an account owes is paid first."""

from dataclasses import dataclass, replace

from farthing.clock import Instant
from farthing.ids import AccountId, OperatorId, parse_id
from farthing.money import Currency
from farthing.v1 import events_pb2
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.directives import account_record, link
from farthing_cloud.ledger.core.posting import Cause, DirectiveRow, Event, Posting
from farthing_cloud.ledger.core.rows import AccountStatus, Balances, Gateway, Payer, Payment, Touch, View


class LedgerRefusal(ValueError):
    """A request that the ledger does not carry out; nothing was changed. The sentence is for the caller."""


class UnknownName(LedgerRefusal):
    """Names an operator, account, gateway, quota or case that is not there."""


class OtherContent(LedgerRefusal):
    """The same id as before with other content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Funding:
    """Money that arrived for an account; ``payment_id`` makes it count once."""

    operator_id: OperatorId
    account_id: AccountId
    currency: Currency
    amount_micros: int
    payment_id: str
    #: Ledger account it stands on, e.g. "bank/main".
    source: str

    def touch(self) -> Touch:
        """The rows it looks at."""
        return Touch(
            operator_id=self.operator_id,
            currency=self.currency,
            account_ids=(self.account_id,),
            payment_id=self.payment_id,
        )


def fund(view: View, funding: Funding, *, now: Instant) -> Posting | None:
    """Credit an account; None when this payment was posted before."""
    if AccountId(funding.account_id) not in view.payers:
        raise UnknownName(f"no account {funding.account_id} in {funding.currency}")
    if view.payment is not None:
        before = view.payment
        if (before.account_id, before.amount_micros, before.source) != (
            funding.account_id,
            funding.amount_micros,
            funding.source,
        ):
            raise OtherContent(f"payment {funding.payment_id} was posted before with another account, amount or source")
        return None
    if view.payers[AccountId(funding.account_id)].status is AccountStatus.CLOSED:
        raise LedgerRefusal(f"account {funding.account_id} is closed")
    if funding.amount_micros <= 0:
        raise LedgerRefusal("a funding is more than 0")
    kind, _, name = funding.source.partition("/")
    if kind not in ("bank", "psp"):
        raise LedgerRefusal('money arrives on "bank/..." or "psp/..."')
    parse_id(name)
    book = Book(view)
    book.post(funding.source, paths.payer(funding.account_id), funding.amount_micros, Cause.FUND)
    book.touch(funding.account_id)
    book.pay_debts()
    value = events_pb2.AccountFunded(
        operator_id=funding.operator_id,
        account_id=funding.account_id,
        payment_id=funding.payment_id,
        amount_micros=funding.amount_micros,
    )
    return Posting(
        kind="fund",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        transfers=book.transfers(),
        changes=book.changes(),
        events=(Event(kind="account.funded", key=funding.account_id, value=value.SerializeToString()),),
        payment=Payment(
            payment_id=funding.payment_id,
            account_id=funding.account_id,
            amount_micros=funding.amount_micros,
            source=funding.source,
        ),
    )


def put_account(view: View, payer: Payer, *, told: tuple[Gateway, ...], now: Instant) -> Posting | None:
    """Create an account or change its terms; None when nothing changes. ``told``: gateways that know it.

    A credit limit that grew pays what the account owes.
    """
    if view.payers.get(payer.account_id) == payer:
        return None
    if payer.account_id in view.payers and view.payers[payer.account_id].status is AccountStatus.CLOSED:
        raise LedgerRefusal(f"account {payer.account_id} is closed for good: open another one")
    gateways: list[Gateway] = []
    directives: list[DirectiveRow] = []
    before = view.payers.get(payer.account_id)
    if before is not None and (before.status, before.preload_micros) != (payer.status, payer.preload_micros):
        for gateway in told:
            after, row = link(gateway, account_record(payer, view.currency), dated_at=now)
            gateways.append(after)
            directives.append(row)
    book = Book(replace(view, payers={payer.account_id: payer}))
    book.touch(payer.account_id)
    book.pay_debts()
    return Posting(
        kind="account",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        transfers=book.transfers(),
        payers=(payer,),
        changes={paths.payer(payer.account_id): Balances(), paths.debt(payer.account_id): Balances()} | book.changes(),
        gateways=tuple(gateways),
        directives=tuple(directives),
    )
