"""Give a part of an account's funds to a gateway, and ask for it back (DESIGN 5.1, 5.4, 5.5)."""

import hashlib
from dataclasses import dataclass, replace

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId, OperatorId, QuotaId
from farthing.money import PPM, Currency
from farthing.v1 import directive_pb2, events_pb2, gateway_sync_pb2
from farthing_cloud.ledger.core import incarnations
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.demand import decayed
from farthing_cloud.ledger.core.directives import link, quota_granted
from farthing_cloud.ledger.core.posting import Event, Posting, QuotaAfter
from farthing_cloud.ledger.core.rows import AccountStatus, LedgerState, Quota, QuotaRequested, QuotaStatus, Touch, View
from farthing_cloud.ledger.core.waterfall import free_of


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTerms:
    """How large a quota may be and how long it lives."""

    #: Of what is available, at most this much goes into one quota: another gateway may need the rest.
    share_ppm: int
    #: A share below this is not worth a directive: then the whole of it, up to what is available.
    smallest_micros: int
    most_open_per_account: int
    lifetime_us: int
    #: The longest planned outage: after spend_until a gateway has this long to report.
    outage_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRequest:
    """A gateway's wish; (gateway, incarnation, counter) is its id."""

    operator_id: OperatorId
    gateway_id: GatewayId
    incarnation: int
    counter: int
    account_id: AccountId
    currency: Currency
    wanted_micros: int

    def touch(self) -> Touch:
        """The rows it looks at."""
        return Touch(
            operator_id=self.operator_id,
            currency=self.currency,
            gateway_ids=(self.gateway_id,),
            account_ids=(self.account_id,),
            quota_request=(self.gateway_id, self.incarnation, self.counter),
            demand=True,
        )

    def quota_id(self) -> QuotaId:
        """The quota it would get: the same request names the same quota."""
        name = f"{self.gateway_id} {self.incarnation} {self.counter}".encode()
        return QuotaId("q-" + hashlib.sha256(name).hexdigest()[:24])


def grant(
    view: View, request: QuotaRequest, terms: GrantTerms, *, now: Instant
) -> tuple[QuotaRequested, Posting | None]:
    """Answer a quota request; the posting is None when this request was answered before, or leaves no trace.

    A gateway writes a request down before it sends it. So a counter that was used for another wish shows that its journal went
    back, or that there are two: nothing is granted, and the gateway authorizes no more.
    """
    gateway = view.gateways[request.gateway_id]
    before = view.quota_request
    if before is not None:
        if (before.account_id, before.wanted_micros) == (request.account_id, request.wanted_micros):
            return before, None
        detail = (
            f"quota request {request.counter} of incarnation {request.incarnation} was for another account or amount"
        )
        told_two = incarnations.equivocation(view, request.gateway_id, request.incarnation, detail, now=now)
        return _differs(request), told_two
    if view.epoch.state is not LedgerState.OPEN or gateway.epoch < view.epoch.number:
        # Not kept either: what was granted since the backup may not be known yet.
        return _none(request, gateway_sync_pb2.QUOTA_ANSWER_LEDGER_RESTORING), None
    if request.incarnation != gateway.incarnation:
        # Not kept: when that incarnation comes to be, its first requests are new ones.
        return _differs(request), None
    payer = view.payers.get(request.account_id)
    book = Book(view)
    available = book.available(request.account_id)
    open_now = book.open_with(gateway.gateway_id)
    room = free_of(book, gateway)
    assert open_now >= 0
    share = available * terms.share_ppm // PPM
    if share < terms.smallest_micros:
        share = min(available, terms.smallest_micros)
    # What it lately spent here comes again: asking once is better than asking often.
    lately = decayed(view.demand.get((request.gateway_id, request.account_id)), now=now)
    amount = min(max(request.wanted_micros, lately), share, room)
    answer: gateway_sync_pb2.QuotaAnswer.ValueType
    if payer is None:
        answer = gateway_sync_pb2.QUOTA_ANSWER_ACCOUNT_UNKNOWN
    elif payer.status is not AccountStatus.ACTIVE:
        answer = gateway_sync_pb2.QUOTA_ANSWER_ACCOUNT_SUSPENDED
    elif view.open_quotas.get(request.account_id, 0) >= terms.most_open_per_account:
        answer = gateway_sync_pb2.QUOTA_ANSWER_TOO_MANY_OPEN
    elif room <= 0 or not gateway.trusted:
        # A gateway that signed two stories, or lost its own, is trusted with nothing more than it already holds.
        answer = gateway_sync_pb2.QUOTA_ANSWER_EXPOSURE_REACHED
    elif amount <= 0:
        answer = gateway_sync_pb2.QUOTA_ANSWER_NOTHING_AVAILABLE
    else:
        answer = gateway_sync_pb2.QUOTA_ANSWER_GRANTED
    granted = answer == gateway_sync_pb2.QUOTA_ANSWER_GRANTED
    answered = QuotaRequested(
        counter=request.counter,
        account_id=request.account_id,
        wanted_micros=request.wanted_micros,
        answer=answer,
        quota_id=request.quota_id() if granted else "",
        amount_micros=amount if granted else 0,
    )
    base = Posting(
        kind="grant" if granted else "request",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        quota_request=(request.gateway_id, request.incarnation, answered),
    )
    if not granted:
        return answered, base
    quota = Quota(
        quota_id=request.quota_id(),
        gateway_id=request.gateway_id,
        incarnation=request.incarnation,
        account_id=request.account_id,
        amount_micros=amount,
        spend_until=Instant(now + terms.lifetime_us),
        report_until=Instant(now + terms.lifetime_us + terms.outage_us),
        request_counter=request.counter,
    )
    book.hold(quota)
    assert book.available(request.account_id) >= 0  # P1: the decision cannot be one that overspends
    heard = replace(gateway, adopted=True, contact_at=Instant(max(now, gateway.contact_at)))
    after, row = link(heard, quota_granted(quota, view.currency), dated_at=now)
    value = events_pb2.QuotaChanged(
        operator_id=view.operator_id,
        quota_id=quota.quota_id,
        gateway_id=quota.gateway_id,
        account_id=quota.account_id,
        amount_micros=quota.amount_micros,
    )
    return answered, replace(
        base,
        transfers=book.transfers(),
        changes=book.changes(),
        gateways=(after,),
        quotas_granted=(quota,),
        directives=(row,),
        events=(Event(kind="quota.granted", key=quota.account_id, value=value.SerializeToString()),),
    )


def _differs(request: QuotaRequest) -> QuotaRequested:
    """The answer to who speaks for no journal that the ledger trusts."""
    return _none(request, gateway_sync_pb2.QUOTA_ANSWER_INCARNATION_DIFFERS)


def _none(request: QuotaRequest, answer: gateway_sync_pb2.QuotaAnswer.ValueType) -> QuotaRequested:
    return QuotaRequested(
        counter=request.counter,
        account_id=request.account_id,
        wanted_micros=request.wanted_micros,
        answer=answer,
        quota_id="",
        amount_micros=0,
    )


def recall(view: View, quota_ids: tuple[QuotaId, ...], reason: str, *, now: Instant) -> Posting | None:
    """Ask a gateway to stop quotas: nothing moves before it says what it still holds. None when there are none open."""
    directives = []
    after = []
    gateways = dict(view.gateways)
    for quota_id in quota_ids:
        quota = view.quotas[quota_id]
        if quota.status is not QuotaStatus.OPEN:
            continue
        body = directive_pb2.QuotaRecalled(quota_id=quota_id, reason=reason)
        gateways[quota.gateway_id], row = link(gateways[quota.gateway_id], body, dated_at=now)
        directives.append(row)
        after.append(
            QuotaAfter(
                quota_id=quota_id,
                posted_micros=quota.posted_micros,
                voided_micros=quota.voided_micros,
                status=QuotaStatus.RECALLED,
            )
        )
    if not directives:
        return None
    return Posting(
        kind="recall",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        gateways=tuple(gateway for gateway_id, gateway in gateways.items() if gateway != view.gateways[gateway_id]),
        quotas=tuple(after),
        directives=tuple(directives),
    )
