"""Batches carried by hand over both stores: parked once, listed in the order of sealing, reviewed by two persons."""

import hashlib
from dataclasses import replace

import pytest
from ledger_story import EUR, NOW, OP, Story

from farthing.clock import Instant
from farthing.ids import GatewayId
from farthing_cloud.ledger.core import reviews
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.rows import ImportReview, Touch
from farthing_cloud.ledger.store.interface import ImportedBatch, LedgerStore, Signed, Transaction

G1, G2 = GatewayId("G1"), GatewayId("G2")


def carried(incarnation: int, sequence: int, body: bytes, leaves: bytes = b"") -> ImportedBatch:
    return ImportedBatch(
        incarnation=incarnation,
        sequence=sequence,
        batch=Signed(body=body, signature=b"signed", key_id=b"key"),
        leaves=leaves,
    )


async def opened(store: LedgerStore) -> Story:
    story = Story(store)
    await story.open()
    return story


async def test_who_is_revoked_stays_so(store: LedgerStore) -> None:
    await opened(store)
    assert not await store.revoked(G1)
    await Story(store).ledger.revoke_gateway(G1, now=NOW)
    await Story(store).ledger.revoke_gateway(G1, now=Instant(7))
    assert (await store.revoked(G1), await store.revoked(G2)) == (True, False)


async def test_what_is_carried_is_parked_once_and_listed_in_order(store: LedgerStore) -> None:
    await opened(store)
    # Two stories of one sequence are both kept, ordered by what they say.
    twins = sorted((b"one story", b"another"), key=lambda body: hashlib.sha256(body).digest())
    batches = [
        carried(1, 2, twins[0], b"leaves"),
        carried(1, 2, twins[1]),
        carried(1, 10, b"tenth"),
        carried(2, 1, b"later"),
    ]
    for batch in reversed(batches):
        assert await store.keep_imported(G1, batch, person="alice", now=NOW)
    # Carried a second time, by another, with other leaves: it stays as it was.
    assert await store.keep_imported(G1, replace(batches[0], leaves=b"other"), person="bob", now=Instant(9))
    assert list(await store.imported(G1, None, 10)) == batches
    assert list(await store.imported(G1, None, 2)) == batches[:2]
    assert list(await store.imported(G1, batches[0], 2)) == batches[1:3]
    assert list(await store.imported(G1, batches[1], 10)) == batches[2:]
    assert list(await store.imported(G1, batches[3], 10)) == []
    assert list(await store.imported(G2, None, 10)) == []


async def test_a_review_is_proposed_by_one_and_approved_by_another_once(store: LedgerStore) -> None:
    await opened(store)
    gateway = await store.gateway(G1)
    assert gateway is not None
    touch = Touch(operator_id=OP, currency=EUR)

    async def propose(tx: Transaction, reason: str, now: Instant) -> ImportReview:
        review, posting = reviews.propose(
            await tx.load(touch),
            gateway,
            [bytes(32)],
            proven_micros=5,
            unproven_micros=2,
            reason=reason,
            person="alice",
            now=now,
        )
        await tx.post(posting)
        return review

    later = await store.run(lambda tx: propose(tx, "found again", Instant(9)))
    first = await store.run(lambda tx: propose(tx, "stolen", NOW))
    assert await store.reviews(OP) == [first, later]
    assert await store.review(first.review_id) == first
    assert await store.review("v-0") is None

    async def approve(tx: Transaction, person: str, content_hash: bytes) -> bool:
        view = await tx.load(replace(touch, review_id=first.review_id))
        posting = reviews.approve(view, first.review_id, content_hash=content_hash, person=person, now=Instant(11))
        if posting is not None:
            await tx.post(posting)
        return posting is not None

    for person, content_hash in (("alice", first.content_hash), ("bob", bytes(32))):
        with pytest.raises(LedgerRefusal):
            await store.run(lambda tx, who=person, what=content_hash: approve(tx, who, what))
    assert [await store.run(lambda tx: approve(tx, "bob", first.content_hash)) for _ in range(2)] == [True, False]
    with pytest.raises(LedgerRefusal, match="approved by bob before"):
        await store.run(lambda tx: approve(tx, "carol", first.content_hash))
    approved = replace(first, approved_by="bob", approved_at=Instant(11))
    assert await store.reviews(OP) == [approved, later]
    assert (await store.verify()).fault == ""
