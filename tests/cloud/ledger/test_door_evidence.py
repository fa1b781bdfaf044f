"""Detail on its way up: checked leaf by leaf, published, audited, missed, and proven offline."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from door_parties import (
    NET,
    START,
    TAX,
    Cloud,
    Gateway,
    exported,
    opened,
    push,
    refused,
)
from evidence_bundles import ROOT
from ledger_story import OP

from farthing.clock import Instant
from farthing.evidence.batches import compress_leaves
from farthing.evidence.proof import prove
from farthing.ids import GatewayId
from farthing.v1 import (
    directive_pb2,
    events_pb2,
    gateway_sync_pb2,
    ledger_pb2,
)
from farthing_cloud.ledger.store.interface import Cursor

pytestmark = pytest.mark.real


async def test_detail_is_checked_leaf_by_leaf_and_published(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    await push(cloud, gateway.seal(quota_id), gateway.seal(quota_id))

    async def upload(*details: tuple[int, bytes]) -> list[tuple[int, bool, str]]:
        async def all_of() -> AsyncIterator[gateway_sync_pb2.UploadEvidenceRequest]:
            for sequence, compressed in details:
                yield gateway_sync_pb2.UploadEvidenceRequest(
                    incarnation=1, sequence=sequence, compressed_leaves=compressed
                )

        answers = cloud.door.UploadEvidence(all_of())
        return [(answer.sequence, answer.verified, answer.fault) async for answer in answers]

    first, second = (compress_leaves(gateway.leaves[sequence]) for sequence in (1, 2))
    assert await upload((1, second), (1, b"rubbish"), (3, first)) == [
        (1, False, "the leaves have another Merkle root than the batch"),
        (1, False, "not zlib"),
        (3, False, "this batch has not been posted"),
    ]
    assert await upload((2, second)) == [(2, True, "")]
    hello = gateway_sync_pb2.HelloRequest(incarnation=1, start_id=START, position=9)
    assert (await cloud.door.Hello(hello)).proven_sequence == 0
    assert await upload((1, first), (1, first)) == [(1, True, ""), (1, True, "")]
    assert (await cloud.door.Hello(hello)).proven_sequence == 2
    rows = await cloud.store.events(Cursor(), 100, ("evidence.verified",))
    events = [events_pb2.EvidenceVerified.FromString(row.value) for row in rows]
    assert [(event.sequence, event.device_id, event.account_id) for event in events] == [
        (2, "toll", "P"),
        (1, "toll", "P"),
    ]
    assert events[0].net_micros + events[0].tax_micros == 1_200_000
    assert rows[0].traceparent == events[0].traceparent != ""
    listed = (await cloud.back_office.ListBatches(ledger_pb2.ListBatchesRequest(operator_id=OP))).batches
    assert [batch.proven for batch in listed] == [True, True]
    assert (await cloud.store.verify()).fault == ""


async def test_the_public_log_hears_what_receipts_say_and_audits_are_judged(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    batches = [gateway.seal(quota_id), gateway.seal(quota_id)]
    receipts = await push(cloud, *batches)
    names = [ledger_pb2.BatchName(gateway_id="G1", incarnation=1, sequence=sequence) for sequence in (2, 7, 1)]
    answer = await cloud.back_office.ReadReceipts(ledger_pb2.ReadReceiptsRequest(batches=names))
    assert answer.ledger_epoch == 1
    assert [
        (each.batch.sequence, each.ledger_epoch, each.batch_hash, each.receipt_hash) for each in answer.receipts
    ] == [
        (
            sequence,
            1,
            hashlib.sha256(batches[sequence - 1].batch).digest(),
            # The signature is made anew each time; what it is over is the same for ever.
            hashlib.sha256(receipts[sequence - 1].receipt).digest(),
        )
        for sequence in (2, 1)
    ]
    too_many = ledger_pb2.ReadReceiptsRequest(batches=names[:1] * 201)
    assert (await refused(cloud.back_office.ReadReceipts(too_many)))[0] == grpc.StatusCode.INVALID_ARGUMENT

    async def audit(sequence: int, *, due: bool = False) -> int:
        request = ledger_pb2.AuditBatchRequest(
            batch=ledger_pb2.BatchName(gateway_id="G1", incarnation=1, sequence=sequence), due=due
        )
        return (await cloud.back_office.AuditBatch(request)).outcome

    assert await audit(1) == ledger_pb2.AUDIT_OUTCOME_WAITS
    assert await audit(1) == ledger_pb2.AUDIT_OUTCOME_WAITS
    # It is asked for once.
    told = [
        directive_pb2.Directive.FromString(row.body).audit_drawn
        for row in await cloud.store.directives(GatewayId("G1"), 0, 100)
        if directive_pb2.Directive.FromString(row.body).WhichOneof("body") == "audit_drawn"
    ]
    assert [(drawn.incarnation, drawn.sequence, drawn.batch_hash) for drawn in told] == [
        (1, 1, hashlib.sha256(batches[0].batch).digest())
    ]

    async def detail() -> AsyncIterator[gateway_sync_pb2.UploadEvidenceRequest]:
        yield gateway_sync_pb2.UploadEvidenceRequest(
            incarnation=1, sequence=1, compressed_leaves=compress_leaves(gateway.leaves[1])
        )

    assert [each.verified async for each in cloud.door.UploadEvidence(detail())] == [True]
    assert await audit(1, due=True) == ledger_pb2.AUDIT_OUTCOME_PASSED
    assert await audit(2, due=True) == ledger_pb2.AUDIT_OUTCOME_UNANSWERED
    cases = (
        await cloud.back_office.ListGatewayCases(ledger_pb2.ListGatewayCasesRequest(operator_id=OP, open_only=True))
    ).cases
    assert [(case.kind, case.gateway_id) for case in cases] == [("audit", "G1")]


async def test_detail_that_is_gone_is_a_case_and_what_earlier_incarnations_owe_is_asked_for(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    await push(cloud, gateway.seal(quota_id), gateway.seal(quota_id))

    async def gone() -> AsyncIterator[gateway_sync_pb2.UploadEvidenceRequest]:
        yield gateway_sync_pb2.UploadEvidenceRequest(incarnation=1, sequence=1, gone="the disk burnt\n")

    (answer,) = [each async for each in cloud.door.UploadEvidence(gone())]
    assert (answer.verified, "no detail of it any more: 'the disk burnt\\n'" in answer.fault) == (False, True)
    cases = (
        await cloud.back_office.ListGatewayCases(ledger_pb2.ListGatewayCasesRequest(operator_id=OP, open_only=True))
    ).cases
    assert [(case.kind, case.incarnation) for case in cases] == [("audit", 1)]
    # Nothing is owed of the present incarnation; of one that another followed all that is not proven, the oldest first.
    store = cloud.store
    assert await store.unproven_before(GatewayId("G1"), 1, 10) == []
    assert await store.unproven_before(GatewayId("G1"), 2, 10) == [(1, 1), (1, 2)]
    assert await store.unproven_before(GatewayId("G1"), 2, 1) == [(1, 1)]

    async def detail() -> AsyncIterator[gateway_sync_pb2.UploadEvidenceRequest]:
        yield gateway_sync_pb2.UploadEvidenceRequest(
            incarnation=1, sequence=1, compressed_leaves=compress_leaves(gateway.leaves[1])
        )

    # It was found again.
    assert [each.verified async for each in cloud.door.UploadEvidence(detail())] == [True]
    assert await store.unproven_before(GatewayId("G1"), 2, 10) == [(1, 2)]


async def test_a_bill_is_proven_offline_from_what_the_ledger_kept(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    await push(cloud, gateway.seal(quota_id), gateway.seal(quota_id))
    (bill, other) = (await cloud.back_office.ListClaims(ledger_pb2.ListClaimsRequest(operator_id=OP))).claims
    code, details = await refused(exported(cloud, bill.authorization_id))
    assert (code, "not proven yet" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)

    async def details() -> AsyncIterator[gateway_sync_pb2.UploadEvidenceRequest]:
        for sequence, leaves in gateway.leaves.items():
            yield gateway_sync_pb2.UploadEvidenceRequest(
                incarnation=1, sequence=sequence, compressed_leaves=compress_leaves(leaves)
            )

    assert [answer.fault async for answer in cloud.door.UploadEvidence(details())] == ["", ""]
    bundle = await exported(cloud, bill.authorization_id)
    assert bundle == await exported(cloud, bill.authorization_id, gateway_id="G1", last_batches=1)
    proof = prove(
        replace(bundle, certificates=(gateway.device_key.certificate("toll"),)),
        roots=[ROOT],
        gateway_key=gateway.batch_key.public,
        receipt_key=cloud.token.keys["receipt"].public,
    )
    ((record,),) = proof.batches[0].records
    assert (record.leaf.net_micros, record.leaf.tax_micros) == (bill.net_micros, bill.tax_micros) == (NET, TAX)
    assert (record.first.counter, record.leaf.register_from) == (1, bill.register_from)
    assert proof.batches[0].receipt is not None
    # The other's bundle is of the other batch.
    assert (await exported(cloud, other.authorization_id)).batches != bundle.batches

    assert (await refused(exported(cloud, bytes(16))))[0] == grpc.StatusCode.NOT_FOUND
    assert (await refused(exported(cloud, bill.authorization_id, gateway_id="G2")))[0] == grpc.StatusCode.NOT_FOUND
    assert (await refused(exported(cloud, b"short")))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert await cloud.store.forget_details(Instant(2**62), 1) == 1
    code, said = await refused(exported(cloud, bill.authorization_id))
    assert (code, "not kept any more" in said) == (grpc.StatusCode.FAILED_PRECONDITION, True)
