"""Decide what was set aside: it goes back to nothing, and, when released, on down the waterfall."""

from farthing.clock import Instant
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.posting import BatchReleased, CaseDecided, Cause, Posting
from farthing_cloud.ledger.core.rows import CaseKind, CaseStatus, View
from farthing_cloud.ledger.core.waterfall import Due, pour


def decide(view: View, case_id: int, *, release: bool, now: Instant) -> Posting | None:
    """Release a case (the payer is billed after all, as ``late``) or void it; None when it was decided so before."""
    case = view.case
    if case is None:
        raise UnknownName(f"no case {case_id}")
    wanted = CaseStatus.RELEASED if release else CaseStatus.VOIDED
    if case.status is not CaseStatus.OPEN:
        if case.status is wanted:
            return None
        raise LedgerRefusal(f"case {case_id} was {case.status} before")
    if release and case.kind is CaseKind.UNKNOWN_NAME:
        for aside in case.asides:
            if aside.account_id and aside.account_id not in view.payers:
                raise LedgerRefusal(f"account {aside.account_id} is still unknown: put it first, or void the case")
    book = Book(view)
    for aside in case.asides:
        book.post(
            paths.unearned(aside.site_id),
            paths.suspense(aside.site_id),
            aside.gross_micros,
            Cause.REVERSED,
            authorization_id=case.authorization_id or None,
        )
    released = []
    if release:
        for aside in case.asides:
            poured = pour(
                book,
                Due(
                    account_id=aside.account_id if aside.account_id in view.payers else "",
                    site_id=aside.site_id,
                    window=view.window,
                    rate_ppm=aside.rate_ppm,
                    net_micros=aside.net_micros,
                    tax_micros=aside.tax_micros,
                    line=None,
                    authorization_id=case.authorization_id or None,
                ),
                hold=None,
                cause=Cause.LATE,
                room_micros=None,  # a person decided: it no longer rests on what the gateway may bill
            )
            released.append(
                BatchReleased(
                    gateway_id=aside.gateway_id,
                    incarnation=aside.incarnation,
                    sequence=aside.sequence,
                    net_micros=poured.net_micros,
                )
            )
    book.pay_debts()
    return Posting(
        kind="case",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        transfers=book.transfers(),
        changes=book.changes(),
        case_decided=CaseDecided(case_id=case_id, status=wanted),
        released=tuple(released),
    )
