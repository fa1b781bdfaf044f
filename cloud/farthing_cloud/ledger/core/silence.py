"""When a hold may end without its gateway (DESIGN 5.6), and when people end it.

Rule 1: silence never ends a hold before ``report_until``.
Rule 2: after it, a hold outlives as long as the gateway is in contact *and* has batches that are not posted, or said that holds of it are
in use. In contact is who was heard within the longest planned outage: who is longer silent than that is not only cut off.
Rule 3: silence is the gateway's, not ours: only time in which the ledger listened without a break counts, and it ends nothing before it
has listened for a whole planned outage. So neither a ledger that was down nor one that starts with a wrong clock ends a hold.
Rule 4: what ends is a recorded transfer, and frees money that pays debts first. What is billed of it later is ``late``.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from farthing.clock import Instant
from farthing.ids import GatewayId
from farthing.v1 import directive_pb2, events_pb2
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.directives import link
from farthing_cloud.ledger.core.posting import Cause, Event, Posting
from farthing_cloud.ledger.core.rows import Gateway, Quota, QuotaStatus, View

#: The ledger looks around many times in this part of a planned outage; a longer break and it has to listen anew.
BREAK: Final = 8


def break_us(outage_us: int) -> int:
    """A break in listening that is longer than this makes silence begin anew."""
    return outage_us // BREAK


def has_listened(since: Instant, *, outage_us: int, now: Instant) -> bool:
    """Whether the ledger has listened long enough to call anybody silent."""
    return now - since >= outage_us


def outlives(quota: Quota, gateway: Gateway, *, posted_sequence: int, outage_us: int, now: Instant) -> bool:
    """Whether a quota's hold stays: ``posted_sequence`` is the last posted batch of the gateway's present incarnation."""
    if now <= quota.report_until:
        return True
    if now - gateway.contact_at > outage_us:
        return False
    if quota.incarnation != gateway.incarnation:
        # Its journal speaks no more; what it held was kept until it should have reported.
        return False
    return gateway.sealed_sequence > posted_sequence or quota.in_use_at is not None


def void(view: View, gateway_id: GatewayId, *, outage_us: int, now: Instant) -> Posting | None:
    """End the holds of the touched quotas that silence has ended; None when there are none.

    ``view`` holds the gateway, its quotas, and its present chain.
    """
    gateway, chain = view.gateways[gateway_id], view.chain
    assert chain is not None
    ended = [
        quota
        for quota in view.quotas.values()
        if quota.gateway_id == gateway_id
        and quota.status is not QuotaStatus.CLOSED
        and not outlives(quota, gateway, posted_sequence=chain.sequence, outage_us=outage_us, now=now)
    ]
    return _end(view, ended, Cause.SILENCE, kind="silence", now=now) if ended else None


def force(view: View, gateway_id: GatewayId, *, now: Instant) -> Posting:
    """End every hold of a gateway: people decided that it is gone. ``view`` was loaded with ``Touch.incarnations``.

    If it lives after all, it hears in the same posting that it may spend no more: what it spends until then is ``late``.
    """
    ended = [q for q in view.quotas.values() if q.gateway_id == gateway_id and q.status is not QuotaStatus.CLOSED]
    gateway = view.gateways[gateway_id]
    directives = []
    for quota in ended:
        # Who was asked before, said so itself, or lost its journal spends none of it.
        if quota.status is QuotaStatus.OPEN:
            body = directive_pb2.QuotaRecalled(quota_id=quota.quota_id, reason="its hold was ended by decision")
            gateway, row = link(gateway, body, dated_at=now)
            directives.append(row)
    posting = _end(view, ended, Cause.FORCED, kind="forced-void", now=now)
    return replace(posting, gateways=(gateway,), directives=tuple(directives)) if directives else posting


def _end(view: View, quotas: Iterable[Quota], cause: Cause, *, kind: str, now: Instant) -> Posting:
    book = Book(view)
    events = []
    for quota in quotas:
        book.void(quota, book.held(quota), cause)
        book.set_status(quota, QuotaStatus.CLOSED)
        value = events_pb2.QuotaChanged(
            operator_id=view.operator_id,
            quota_id=quota.quota_id,
            gateway_id=quota.gateway_id,
            account_id=quota.account_id,
            amount_micros=quota.amount_micros,
        )
        events.append(Event(kind="quota.closed", key=quota.account_id, value=value.SerializeToString()))
    book.pay_debts()
    return Posting(
        kind=kind,
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        transfers=book.transfers(),
        changes=book.changes(),
        quotas=book.quotas(view.quotas.values()),
        events=tuple(events),
    )
