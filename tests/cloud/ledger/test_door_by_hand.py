"""Batches that people carry to the ledger by hand: the door's own checks, and reviews of what a revoked gateway sealed."""

from dataclasses import replace

import grpc
import grpc.aio
import pytest
from door_parties import NET, TAX, Cloud, Gateway, SoftKey, carry, exported, opened, push, refused
from ledger_story import EUR, OP

from farthing.evidence import leaf as leaf_of
from farthing.evidence import merkle
from farthing.v1 import (
    batch_pb2,
    ledger_pb2,
)

pytestmark = pytest.mark.real


async def test_batches_carried_by_hand_go_through_the_same_door(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    batches = [gateway.seal(quota_id) for _ in range(4)]
    (pushed,) = await push(cloud, batches[0])
    assert await refused(carry(cloud, gateway, [])) == (grpc.StatusCode.PERMISSION_DENIED, "only people decide")
    cloud.calls("person", "anna")
    forged = batch_pb2.SignedBatch(batch=batches[2].batch, signature=bytes(64), key_id=batches[2].key_id)
    answers = await carry(cloud, gateway, [batches[0], batches[1], forged, batches[3]])
    assert [(a.outcome, a.proven) for a in answers] == [
        ("replay", True), ("posted", True), ("refused", False), ("gap", False),
    ]  # fmt: skip
    assert (answers[0].receipt, answers[2].why) == (pushed, "the signature does not hold")
    again = await carry(cloud, gateway, batches)
    assert [a.outcome for a in again] == ["replay", "replay", "posted", "posted"]
    assert again[1].receipt == answers[1].receipt
    assert all(a.proven and not a.fault for a in again)
    verdict = await cloud.back_office.Verify(ledger_pb2.VerifyRequest())
    assert (verdict.ok, verdict.batches) == (True, 4)
    async with cloud.store._pool.connection() as connection:
        rows = await (await connection.execute(b"SELECT subject FROM postings WHERE kind = 'import'")).fetchall()
    assert rows == [(f"G1/{bytes(32).hex()}/anna",)] * 2


async def test_what_a_revoked_gateway_sealed_posts_after_review_as_far_as_devices_signed_it(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    first, second = gateway.seal(quota_id), gateway.seal(quota_id)
    # The thief adds a passage that no device made.
    gateway.device_key, own = SoftKey(), gateway.device_key
    line, claim, leaf = gateway.passage(quota_id)
    gateway.device_key = own
    true_line, true_claim, true_leaf = gateway.passage(quota_id)
    leaves = [true_leaf, replace(leaf_of.decode(leaf), line=1).encode()]
    line.first_leaf, claim.shares[0].line = 1, 1
    third = gateway.seal(quota_id)
    batch = batch_pb2.Batch.FromString(third.batch)
    del batch.lines[:], batch.claims[:]
    batch.lines.extend((true_line, line))
    batch.claims.extend((true_claim, claim))
    batch.merkle_root, batch.leaf_count = merkle.root(leaves), 2
    batch.totals[0].net_micros, batch.totals[0].tax_micros = 2 * NET, 2 * TAX
    batch.closed_quota_ids.append(quota_id)
    third, gateway.leaves[3] = gateway.sign(batch.SerializeToString(deterministic=True)), leaves
    assert len(await push(cloud, first)) == 1

    known = ledger_pb2.CreateGatewayRequest(
        operator_id=OP, site_id="S1", gateway_id="G1", currency=EUR, exposure_micros=50_000_000,
        batch_key=gateway.batch_key.spki, grant_key=gateway.batch_key.spki, time_zone="Europe/Berlin", revoked=True,
    )  # fmt: skip
    await cloud.back_office.CreateGateway(known)
    # Whatever the registry's row says of it by now.
    assert "gateway G1 is revoked, for ever" in (await refused(push(cloud, second)))[1]
    cloud.calls("person", "anna")
    answers = await carry(cloud, gateway, [first, second, third])
    assert [a.outcome for a in answers] == ["replay", "parked", "parked"]
    assert [a.outcome for a in await carry(cloud, gateway, [third])] == ["parked"]
    before = await cloud.store.balances(OP, "")

    wish = ledger_pb2.ProposeImportReviewRequest(gateway_id="G1", reason="stolen on Sunday")
    proposed = (await cloud.back_office.ProposeImportReview(wish)).review
    content = ledger_pb2.ImportReviewContent.FromString(proposed.content)
    assert (len(content.batch_hashes), content.proven_micros, content.unproven_micros) == (2, 2 * 1_200_000, 1_200_000)

    async def approve() -> list[tuple[str, bool, str]]:
        request = ledger_pb2.ApproveImportReviewRequest(
            review_id=proposed.review_id, content_hash=proposed.content_hash
        )
        said = [answer.batch async for answer in cloud.back_office.ApproveImportReview(request)]
        return [(each.outcome, each.proven, each.why) for each in said]

    assert "another person" in (await refused(approve()))[1]
    assert await cloud.store.balances(OP, "") == before
    cloud.calls("person", "bert")
    left_out = "1 of 2 claims are left out: no device's statements prove them"
    assert await approve() == [("posted", True, ""), ("posted", False, left_out)]
    assert await approve() == [("replay", True, ""), ("replay", False, left_out)]
    claims = await cloud.back_office.ListClaims(ledger_pb2.ListClaimsRequest(operator_id=OP))
    assert len(claims.claims) == 3
    # What is proven as a whole can be shown; of the other it is said why not.
    _, whole, part = sorted(claims.claims, key=lambda each: each.register_from)
    assert (await exported(cloud, whole.authorization_id)).billed.net_micros == NET
    why = (await refused(exported(cloud, part.authorization_id)))[1]
    assert "not proven as a whole, and its gateway is revoked" in why
    account = (
        await cloud.back_office.ShowAccount(ledger_pb2.ShowAccountRequest(operator_id=OP, account_id="P"))
    ).account
    # The quota is not closed: that was the gateway's word alone.
    assert (account.posted_micros, account.held_micros) == (3_600_000, 1_400_000)
    assert (await cloud.back_office.Verify(ledger_pb2.VerifyRequest())).ok
    listed = await cloud.back_office.ListImportReviews(ledger_pb2.ListImportReviewsRequest(operator_id=OP))
    assert [review.approved_by for review in listed.reviews] == ["bert"]
    assert "no batch of G1 waits" in (await refused(cloud.back_office.ProposeImportReview(wish)))[1]
