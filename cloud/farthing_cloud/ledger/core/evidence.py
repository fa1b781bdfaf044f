"""A batch whose detail was verified is proven: its spending no longer counts against its gateway's exposure."""

from dataclasses import replace

from farthing.clock import Instant
from farthing.ids import GatewayId
from farthing_cloud.ledger.core.posting import BatchProven, Event, Posting
from farthing_cloud.ledger.core.rows import View


def prove(
    view: View,
    gateway_id: GatewayId,
    incarnation: int,
    sequence: int,
    *,
    beyond_micros: int,
    events: tuple[Event, ...],
    now: Instant,
) -> Posting | None:
    """Mark a posted batch as proven; None when it was proven before. ``beyond_micros`` is what it billed beyond holds."""
    assert view.batch is not None
    if view.batch.proven:
        return None
    gateway = view.gateways[gateway_id]
    return Posting(
        kind="proven",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        gateways=(replace(gateway, beyond_micros=max(0, gateway.beyond_micros - beyond_micros)),),
        proven=BatchProven(gateway_id=gateway_id, incarnation=incarnation, sequence=sequence),
        events=events,
    )
