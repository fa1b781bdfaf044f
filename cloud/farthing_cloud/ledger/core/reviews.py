"""What a revoked gateway sealed: two persons decide, and only what devices signed is posted (DESIGN 6).

Rule 1: a review names the batches that wait, by their hashes; what is approved is the SHA-256 of its bytes, by another person.
Rule 2: of a batch, the claims are posted that their devices' statements prove, by the rules of evidence; the others are left out, and so is what
the gateway alone says: which quotas it stopped or closed.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from farthing.clock import Instant
from farthing.evidence import leaf as leaves_of
from farthing.evidence import merkle
from farthing.evidence.detail import DeviceKeys, EvidenceError, Registers, Tariffs, verify_authorization
from farthing.evidence.leaf import LeafError
from farthing.ids import AuthorizationId
from farthing.v1 import batch_pb2, ledger_pb2
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.received import ReceivedBatch
from farthing_cloud.ledger.core.rows import Gateway, ImportReview, ImportRun, View


def device_signed(
    batch: batch_pb2.Batch,
    leaves: Sequence[bytes],
    *,
    device_key: DeviceKeys,
    tariff: Tariffs,
    register: Registers,
    time_zone: str,
) -> dict[AuthorizationId, int]:
    """The authorizations of a batch that their devices' statements prove, and what it bills of each: net and tax, micros."""
    if len(leaves) != batch.leaf_count or merkle.root(leaves) != batch.merkle_root:
        return {}
    mine: defaultdict[AuthorizationId, dict[int, bytes]] = defaultdict(dict)
    for index, data in enumerate(leaves):
        try:
            mine[leaves_of.decode(data).authorization][index] = data
        except LeafError:
            continue
    proven: dict[AuthorizationId, int] = {}
    for authorization_id, own in mine.items():
        try:
            records = verify_authorization(
                batch,
                authorization_id,
                own,
                device_key=device_key,
                tariff=tariff,
                register=register,
                time_zone=time_zone,
            )
        except EvidenceError:
            continue
        shown = [item.leaf for record in records for item in record]
        proven[authorization_id] = sum(leaf.net_micros + leaf.tax_micros for leaf in shown)
    return proven


def only(batch: ReceivedBatch, proven: frozenset[AuthorizationId]) -> ReceivedBatch:
    """The batch as it is posted after review: its bytes and place as they are, and of what it says only what devices signed."""
    claims = tuple(claim for claim in batch.claims if claim.authorization_id in proven)
    return replace(batch, claims=claims, stopped=(), closed=())


def record(view: View, run: ImportRun, *, now: Instant) -> Posting:
    """That a person imports."""
    return Posting(
        kind="import",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        imported=run,
    )


def propose(
    view: View,
    gateway: Gateway,
    batch_hashes: Sequence[bytes],
    *,
    proven_micros: int,
    unproven_micros: int,
    reason: str,
    person: str,
    now: Instant,
) -> tuple[ImportReview, Posting]:
    """One person proposes to post what waits, as it is now."""
    if not batch_hashes:
        raise LedgerRefusal(f"no batch of {gateway.gateway_id} waits for review")
    content = ledger_pb2.ImportReviewContent(
        operator_id=view.operator_id,
        gateway_id=gateway.gateway_id,
        batch_hashes=batch_hashes,
        reason=reason,
        proposed_by=person,
        proposed_at_us=now,
        proven_micros=proven_micros,
        unproven_micros=unproven_micros,
    ).SerializeToString(deterministic=True)
    content_hash = hashlib.sha256(content).digest()
    review = ImportReview(
        review_id="v-" + content_hash.hex()[:16],
        operator_id=view.operator_id,
        currency=view.currency,
        gateway_id=gateway.gateway_id,
        content=content,
        content_hash=content_hash,
        proposed_by=person,
        proposed_at=now,
    )
    return review, _posting(view, review, now)


def approve(view: View, review_id: str, *, content_hash: bytes, person: str, now: Instant) -> Posting | None:
    """Another person approves exactly what was proposed; None when this person did before."""
    review = view.review
    if review is None:
        raise UnknownName(f"no review {review_id}")
    if review.content_hash != content_hash:
        raise LedgerRefusal(f"{review_id} was proposed with the content {review.content_hash.hex()}, not this one")
    if review.approved_by:
        if review.approved_by == person:
            return None
        raise LedgerRefusal(f"{review_id} was approved by {review.approved_by} before")
    if review.proposed_by == person:
        raise LedgerRefusal(f"{person} proposed {review_id}: another person has to approve it")
    return _posting(view, replace(review, approved_by=person, approved_at=now), now)


def _posting(view: View, review: ImportReview, now: Instant) -> Posting:
    return Posting(
        kind="import-review",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        review=review,
    )
