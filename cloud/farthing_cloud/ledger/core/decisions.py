"""What needs two persons: one proposes, another approves exactly what was proposed.

Rule 1: maker and checker are two persons, as their certificates name them.
Rule 2: an approval names the SHA-256 of the proposal's bytes: who approves has seen these, and no others.
Rule 3: what was proposed of one state of a gateway is not approved of another: its incarnation must still be the same.
"""

import hashlib
from dataclasses import replace

from farthing.clock import Instant
from farthing.ids import GatewayId
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.core import incarnations, restoring, silence
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.rows import Decision, DecisionKind, Rewinding, View


def propose(
    view: View, kind: DecisionKind, gateway_id: GatewayId, *, reason: str, person: str, now: Instant
) -> tuple[Decision, Posting]:
    """A proposal of ``person`` for the gateway as it is now."""
    gateway = view.gateways[gateway_id]
    content = ledger_pb2.DecisionContent(
        kind=kind.value,
        operator_id=view.operator_id,
        gateway_id=gateway_id,
        incarnation=gateway.incarnation,
        reason=reason,
        waits_because=gateway.waits_because,
        proposed_by=person,
        proposed_at_us=now,
        ledger_epoch=view.epoch.number if kind is DecisionKind.GIVEN_UP else 0,
    ).SerializeToString(deterministic=True)
    content_hash = hashlib.sha256(content).digest()
    decision = Decision(
        decision_id="d-" + content_hash.hex()[:16],
        kind=kind,
        gateway_id=gateway_id,
        incarnation=gateway.incarnation,
        reason=reason,
        content=content,
        content_hash=content_hash,
        proposed_by=person,
        proposed_at=now,
    )
    posting = Posting(
        kind="propose",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        proposed=decision,
    )
    return decision, posting


def approve(
    view: View,
    decision_id: str,
    *,
    content_hash: bytes,
    person: str,
    receipt_keys: list[bytes],
    now: Instant,
    unposted: Rewinding | None = None,
) -> Posting | None:
    """Carry a proposal out; None when this person approved it before. Raises ``LedgerRefusal`` for whom or what may not.

    ``unposted``: what the gateway has shown to a restored ledger, where batches are missing that it has receipts for.
    """
    decision = view.decision
    if decision is None:
        raise UnknownName(f"no decision {decision_id}")
    if decision.content_hash != content_hash:
        raise LedgerRefusal(f"{decision_id} was proposed with the content {decision.content_hash.hex()}, not this one")
    if decision.approved_by:
        if decision.approved_by == person:
            return None
        raise LedgerRefusal(f"{decision_id} was approved by {decision.approved_by} before")
    if decision.proposed_by == person:
        raise LedgerRefusal(f"{person} proposed {decision_id}: another person has to approve it")
    approved = replace(decision, approved_by=person, approved_at=now)
    if decision.kind is DecisionKind.RESTORED:
        _, posting = restoring.begin(view, decision, now=now)
        return replace(posting, approved=approved)
    gateway = view.gateways[decision.gateway_id]
    if gateway.incarnation != decision.incarnation:
        raise LedgerRefusal(
            f"{decision_id} is about incarnation {decision.incarnation}, {gateway.gateway_id} is in {gateway.incarnation}"
        )
    if decision.kind is DecisionKind.GIVEN_UP:
        posting = restoring.give_up(view, decision.gateway_id, unposted=unposted, receipt_keys=receipt_keys, now=now)
    elif decision.kind is DecisionKind.INCARNATION:
        # Before its chain is whole again nobody knows what it was told.
        restoring.must_have_shown((gateway,), view.epoch, otherwise=restoring.GIVE_UP)
        posting = incarnations.begin(view, decision.gateway_id, receipt_keys=receipt_keys, now=now)
    else:
        restoring.must_be_open(view.epoch)
        posting = silence.force(view, decision.gateway_id, now=now)
    return replace(posting, approved=approved)
