"""Whom the door believes: the key that was valid at sealing, and the class of evidence that a site takes."""

import hashlib
from collections.abc import AsyncIterator

import grpc
import pytest
from door_parties import NET, TAX, Cloud, Gateway, SoftKey, carry, exported, opened, push, refused
from ledger_story import EUR, OP

from farthing.clock import real_clock
from farthing.evidence.batches import compress_leaves
from farthing.evidence.proof import prove
from farthing.ids import GatewayId
from farthing.v1 import (
    batch_pb2,
    gateway_sync_pb2,
    ledger_pb2,
)

pytestmark = pytest.mark.real


async def test_a_batch_is_judged_by_the_key_that_was_valid_when_it_was_sealed(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    old, new = gateway.batch_key, SoftKey()
    late = real_clock().now() + 86_400_000_000

    async def register(key: SoftKey, *revoked: SoftKey) -> bool:
        request = ledger_pb2.CreateGatewayRequest(
            operator_id=OP, site_id="S1", gateway_id="G1", currency=EUR, exposure_micros=50_000_000, batch_key=key.spki,
            grant_key=old.spki, time_zone="Europe/Berlin", revoked_batch_keys=[each.spki for each in revoked],
        )  # fmt: skip
        return (await cloud.back_office.CreateGateway(request)).changed

    async def said(*batches: batch_pb2.SignedBatch) -> str:
        code, why = await refused(push(cloud, *batches))
        # None of them passes by waiting: a gateway goes on with other chains.
        assert code is not grpc.StatusCode.FAILED_PRECONDITION
        return why

    first, second = gateway.seal(quota_id), gateway.seal(quota_id)
    (receipt,) = await push(cloud, first)
    assert await register(new)
    assert not await register(new)
    # Not sent before the key changed, and sent again: both good, in one stream with what the new key signs.
    gateway.batch_key = new
    third = gateway.seal(quota_id)
    receipts = await push(cloud, first, second, third)
    assert receipts[0] == receipt
    assert [batch_pb2.Receipt.FromString(each.receipt).sequence for each in receipts] == [1, 2, 3]
    claims = await cloud.back_office.ListClaims(ledger_pb2.ListClaimsRequest(operator_id=OP))
    assert len(claims.claims) == 3

    # Whoever has the replaced key can date a batch as he likes: it does not go on where the new one has.
    head, sequence = gateway.head, gateway.sequence
    gateway.batch_key = old
    assert "signed with an earlier key than the batch before it" in await said(gateway.seal(quota_id))
    gateway.head, gateway.sequence = head, sequence
    assert "sealed after its key was replaced" in await said(gateway.seal(quota_id, sealed_at_us=late))
    gateway.head, gateway.sequence = head, sequence + 1
    assert "the batch before it is not here" in await said(gateway.seal(quota_id))
    gateway.head, gateway.sequence, gateway.batch_key = head, sequence, SoftKey()
    assert await said(gateway.seal(quota_id)) == "signed with a key that is not this gateway's batch key"

    # The new one is stolen. What was posted stays, with its receipt; what was not is people's to look at.
    gateway.head, gateway.sequence, gateway.batch_key = head, sequence, new
    fourth = gateway.seal(quota_id)
    third_key = SoftKey()
    assert await register(new, new)
    assert "signed with a key that is revoked" in await said(fourth)
    assert await register(third_key, new)
    assert await push(cloud, third) == receipts[2:]
    assert "signed with a key that is revoked" in await said(fourth)
    gateway.batch_key = third_key
    fifth = gateway.seal(quota_id)
    assert "gap" in await said(fifth)
    cloud.calls("person", "anna")
    (parked,) = await carry(cloud, gateway, [fourth])
    assert (parked.outcome, parked.why) == ("parked", "it is signed with a key that is revoked: two persons review it")
    wish = ledger_pb2.ProposeImportReviewRequest(gateway_id="G1", reason="its token was copied")
    review = (await cloud.back_office.ProposeImportReview(wish)).review
    cloud.calls("person", "bert")
    approval = ledger_pb2.ApproveImportReviewRequest(review_id=review.review_id, content_hash=review.content_hash)
    assert [each.batch.outcome async for each in cloud.back_office.ApproveImportReview(approval)] == ["posted"]
    # What it signed and devices prove whole can be shown; what was posted before and never proven will not be, and says why.
    named = [batch_pb2.Batch.FromString(each.batch).claims[0].authorization_id for each in (first, third, fourth)]
    assert (await exported(cloud, named[2])).billed.net_micros == NET
    by_a_good_key, by_a_revoked_one = [(await refused(exported(cloud, each)))[1] for each in named[:2]]
    assert by_a_good_key.startswith("batch 1/1 is posted and not proven yet: ")
    assert by_a_revoked_one == (
        "batch 1/3 is posted and not proven as a whole, and the key it is signed with is revoked: of what that sealed, only what devices"
        " signed is posted from then on, after review ('gateways review'), and no bundle is made of a part"
    )
    cloud.calls("gateway", "G1")
    receipts = await push(cloud, fourth, fifth)
    assert [batch_pb2.Receipt.FromString(each.receipt).sequence for each in receipts] == [4, 5]
    verdict = await cloud.back_office.Verify(ledger_pb2.VerifyRequest())
    assert (verdict.ok, verdict.batches, verdict.fault) == (True, 5, "")

    # Tampering is seen.
    async with cloud.store._pool.connection() as connection:
        await connection.execute(b"UPDATE batch_keys SET until_us = since_us WHERE until_us IS NULL")
    verdict = await cloud.back_office.Verify(ledger_pb2.VerifyRequest())
    assert verdict.fault == "gateway G1: its batch key is not the present one of its keys"


async def test_what_no_device_signed_is_billed_only_where_its_site_takes_it_and_never_called_proven(
    cloud: Cloud,
) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    cloud.calls("person", "anna")

    def attested() -> batch_pb2.SignedBatch:
        sealed = gateway.seal(quota_id)
        batch = batch_pb2.Batch.FromString(sealed.batch)
        batch.lines[0].evidence_class = batch_pb2.EVIDENCE_CLASS_STATION_ATTESTED
        raw = batch.SerializeToString(deterministic=True)
        gateway.head = hashlib.sha256(raw).digest()
        return gateway.sign(raw)

    async def least(evidence_class: batch_pb2.EvidenceClass.ValueType) -> None:
        request = ledger_pb2.CreateGatewayRequest(
            operator_id=OP, site_id="S1", gateway_id="G1", currency=EUR, exposure_micros=50_000_000,
            batch_key=gateway.batch_key.spki, grant_key=gateway.batch_key.spki, time_zone="Europe/Berlin",
            least_evidence_class=evidence_class,
        )  # fmt: skip
        assert (await cloud.back_office.CreateGateway(request)).changed

    async def posted() -> int:
        request = ledger_pb2.ShowAccountRequest(operator_id=OP, account_id="P")
        return (await cloud.back_office.ShowAccount(request)).account.posted_micros

    # Nothing set: device-signed.
    cloud.calls("gateway", "G1")
    await push(cloud, attested())
    assert await posted() == 0
    (case,) = (await cloud.back_office.ListOverlapCases(ledger_pb2.ListOverlapCasesRequest(operator_id=OP))).cases
    assert (case.kind, case.aside_micros) == ("evidence-class", NET + TAX)
    assert case.detail == "station-attested; its site takes device-signed or better"

    await least(batch_pb2.EVIDENCE_CLASS_STATION_ATTESTED)
    await push(cloud, attested())
    assert await posted() == NET + TAX

    # It has no detail that could be checked, so it is never proven, and nobody is paid from it as if it were.
    async def detail() -> AsyncIterator[gateway_sync_pb2.UploadEvidenceRequest]:
        yield gateway_sync_pb2.UploadEvidenceRequest(
            incarnation=1, sequence=2, compressed_leaves=compress_leaves(gateway.leaves[2])
        )

    (answer,) = [each async for each in cloud.door.UploadEvidence(detail())]
    assert "not device-signed: there is nothing to recompute" in answer.fault
    stored = await cloud.store.batch(GatewayId("G1"), 1, 2)
    assert stored is not None
    assert not stored.proven

    # What is shown of it says whose word it is.
    claims = await cloud.back_office.ListClaims(ledger_pb2.ListClaimsRequest(operator_id=OP))
    (billed,) = [each for each in claims.claims if each.register_from == 42]
    proof = prove(await exported(cloud, billed.authorization_id), roots=[])
    assert proof.evidence_class == batch_pb2.EVIDENCE_CLASS_STATION_ATTESTED
    assert "that a device measured it: the evidence is station-attested, and no device signed it" in proof.not_proven
    assert (await cloud.back_office.Verify(ledger_pb2.VerifyRequest())).ok

    # Raised again: what comes from now on waits; what was billed stays.
    await least(batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED)
    await push(cloud, attested(), gateway.seal(quota_id))
    assert await posted() == 2 * (NET + TAX)
    assert (await cloud.back_office.Verify(ledger_pb2.VerifyRequest())).ok
