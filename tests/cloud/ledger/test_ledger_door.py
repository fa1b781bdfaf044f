"""A gateway's conversation with the door, over gRPC, with the real store behind it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from evidence_bundles import ROOT, certificate, der
from ledger_story import EUR, OP, TERMS

from farthing.clock import Instant, quarter_of, real_clock
from farthing.device import cose
from farthing.device import messages as m
from farthing.device.cose import VerifyingKey
from farthing.evidence import leaf as leaf_of
from farthing.evidence import merkle
from farthing.evidence.batches import compress_leaves
from farthing.evidence.bundle import Bundle, decode
from farthing.evidence.leaf import Leaf
from farthing.evidence.proof import prove
from farthing.ids import AccountId, GatewayId, authorization_id
from farthing.v1 import (
    batch_pb2,
    directive_pb2,
    events_pb2,
    gateway_sync_pb2,
    gateway_sync_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
)
from farthing_cloud.callers import Caller
from farthing_cloud.database import Pool
from farthing_cloud.ledger.back_office import LedgerServicer
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.bundles import Bundles
from farthing_cloud.ledger.door import GatewaySyncServicer
from farthing_cloud.ledger.imports import Imports
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.restored import RestoredLedger
from farthing_cloud.ledger.signing import PublicKeys, Signatures
from farthing_cloud.ledger.store.interface import Cursor
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

START = b"s" * 16
NOON = Instant(1_700_000_000_000_000)
COMMITMENT = b"c" * 32
TOLL = b"""{"id": "toll-1", "currency": "EUR", "tax_included": true, "elements": [{"price_components": [
    {"type": "UNIT", "price": 1.20, "vat": 7, "step_size": 1}]}]}"""
NET, TAX = 1_121_495, 78_505


class SoftKey:
    """A key where a token has one: signs what it is given."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.spki = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public = VerifyingKey.from_spki(self.spki)

    def certificate(self, name: str) -> bytes:
        return der(certificate(name, self._key))

    def sign(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class SoftToken:
    """The cloud's token, as far as the ledger uses it."""

    def __init__(self) -> None:
        self.keys = {"receipt": SoftKey(), "directive": SoftKey()}

    async def sign(self, label: str, data: bytes, *, urgent: bool = False) -> bytes:
        del urgent  # nobody waits here
        return self.keys[label].sign(data)


@dataclass
class Gateway:
    """A gateway that seals passages of one transponder."""

    name: str = "G1"
    batch_key: SoftKey = field(default_factory=SoftKey)
    device_key: SoftKey = field(default_factory=SoftKey)
    head: bytes = bytes(32)
    sequence: int = 0
    counter: int = 0
    leaves: dict[int, list[bytes]] = field(default_factory=dict)

    def passage(self, quota_id: str) -> tuple[batch_pb2.Line, batch_pb2.Claim, bytes]:
        self.counter += 1
        intent = m.Intent(
            recipient=self.name,
            device="toll",
            device_epoch=0,
            counter=self.counter,
            at=NOON,
            register=m.RegisterValue(register_id="x1", register_epoch=0, value=40 + self.counter),
            commitment=COMMITMENT,
            incarnation=1,
            one_shot=1,
        )
        payload = m.encode(intent)
        signature = self.device_key.sign(cose.to_be_signed("intent", self.name, payload))
        authorization = authorization_id("toll", 0, self.counter, GatewayId(self.name))
        leaf = Leaf(
            authorization=authorization,
            line=0,
            device="toll",
            register_id="x1",
            register_epoch=0,
            register_from=40 + self.counter,
            register_to=41 + self.counter,
            net_micros=NET,
            tax_micros=TAX,
            total_net_micros=NET,
            total_tax_micros=TAX,
            closing=True,
            tariff=m.TariffVersion(tariff_id="toll-1", version=1),
            at=NOON,
            statements=(cose.encode_sign1(self.device_key.public.key_id, payload, signature),),
            grant=None,
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        line = batch_pb2.Line(
            account_id="P",
            currency=EUR,
            quota_id=quota_id,
            tariff_id="toll-1",
            tariff_version=1,
            tax_rate_ppm=70_000,
            evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
            quarter=quarter_of(NOON),
            net_micros=NET,
            tax_micros=TAX,
            leaf_count=1,
        )
        claim = batch_pb2.Claim(
            authorization_id=authorization,
            device_id="toll",
            register_id="x1",
            register_from=40 + self.counter,
            register_to=41 + self.counter,
            net_micros=NET,
            tax_micros=TAX,
            final=True,
            shares=[batch_pb2.Share(line=0, net_micros=NET, tax_micros=TAX)],
        )
        return line, claim, leaf.encode()

    def seal(self, quota_id: str, **changes: Any) -> batch_pb2.SignedBatch:
        line, claim, leaf = self.passage(quota_id)
        self.sequence += 1
        self.leaves[self.sequence] = [leaf]
        batch = batch_pb2.Batch(
            operator_id=OP,
            site_id="S1",
            gateway_id=self.name,
            incarnation=1,
            start_id=START,
            sequence=self.sequence,
            previous_hash=self.head,
            first_position=self.sequence,
            last_position=self.sequence,
            sealed_at_us=NOON,
            totals=[batch_pb2.CurrencyTotal(currency=EUR, net_micros=NET, tax_micros=TAX)],
            merkle_root=merkle.root([leaf]),
            leaf_count=1,
            lines=[line],
            claims=[claim],
        )
        for name, value in changes.items():
            setattr(batch, name, value)
        raw = batch.SerializeToString(deterministic=True)
        self.head = hashlib.sha256(raw).digest()
        return self.sign(raw)

    def sign(self, raw: bytes) -> batch_pb2.SignedBatch:
        signature = self.batch_key.sign(cose.to_be_signed("batch", "cloud", raw))
        return batch_pb2.SignedBatch(batch=raw, signature=signature, key_id=self.batch_key.public.key_id)


@dataclass
class Cloud:
    """Door and back office of one ledger; ``who`` calls."""

    door: Any
    back_office: Any
    store: PostgresStore
    signatures: Signatures
    token: SoftToken
    callers: list[Caller]

    def calls(self, kind: str, name: str) -> None:
        self.callers[0] = Caller(kind=kind, id=name)


@pytest.fixture
async def cloud(ledger_pool: Pool) -> AsyncIterator[Cloud]:
    store, token, events = PostgresStore(ledger_pool), SoftToken(), Bell()
    keys = PublicKeys(receipt=token.keys["receipt"].spki, directive=token.keys["directive"].spki)
    signatures = Signatures(signer=token, keys=keys, store=store)
    ledger = Ledger(store, terms=TERMS, receipt_keys=(keys.receipt,))
    callers = [Caller(kind="gateway", id="G1")]
    clock = real_clock()
    server = grpc.aio.server()
    door = GatewaySyncServicer(
        ledger=ledger,
        signatures=signatures,
        clock=clock,
        caller=lambda _: callers[0],
        events=events,
        head_interval_s=60,
    )
    gateway_sync_pb2_grpc.add_GatewaySyncServicer_to_server(door, server)
    ledger_pb2_grpc.add_LedgerServicer_to_server(
        LedgerServicer(
            ledger=ledger,
            reports=Reports(ledger_pool),
            bundles=Bundles(store, receipt_keys=(keys.receipt,)),
            plans=CorrectionPlans(ledger),
            imports=Imports(ledger, door),
            clock=clock,
            directives_wanted=signatures.wanted,
            events=events,
            caller=lambda _: callers[0],
            silent_us=600_000_000,
        ),
        server,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    signing = asyncio.create_task(signatures.run())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Cloud(
            door=gateway_sync_pb2_grpc.GatewaySyncStub(channel),
            back_office=ledger_pb2_grpc.LedgerStub(channel),
            store=store,
            signatures=signatures,
            token=token,
            callers=callers,
        )
    signing.cancel()
    with suppress(asyncio.CancelledError):
        await signing
    await server.stop(None)


async def opened(cloud: Cloud, gateway: Gateway) -> str:
    """Operator, gateway, device, tariff, account, money, and a quota; its id."""
    back = cloud.back_office
    await back.CreateGateway(
        ledger_pb2.CreateGatewayRequest(
            operator_id=OP,
            site_id="S1",
            gateway_id=gateway.name,
            currency=EUR,
            exposure_micros=50_000_000,
            batch_key=gateway.batch_key.spki,
            grant_key=gateway.batch_key.spki,
            time_zone="Europe/Berlin",
        )
    )
    await back.CreateAccount(
        ledger_pb2.CreateAccountRequest(
            operator_id=OP, account_id="P", currency=EUR, status=directive_pb2.ACCOUNT_STATUS_ACTIVE
        )
    )
    await back.FundAccount(
        ledger_pb2.FundAccountRequest(
            operator_id=OP,
            account_id="P",
            currency=EUR,
            amount_micros=10_000_000,
            payment_id="pay-1",
            source="bank/main",
        )
    )
    wishes: list[dict[str, Any]] = [
        {"tariff": directive_pb2.TariffRecord(tariff_id="toll-1", version=1, currency=EUR, ocpi_json=TOLL)},
        {
            "device": directive_pb2.DeviceRecord(
                device_id="toll",
                status=directive_pb2.DEVICE_STATUS_ACTIVE,
                statement_key=gateway.device_key.spki,
                registers=[directive_pb2.RegisterRecord(register_id="x1", unit="passage", modulus=1_000_000)],
                standing_account_id="P",
            )
        },
    ]
    for number, wish in enumerate(wishes):
        await back.IssueDirective(
            ledger_pb2.IssueDirectiveRequest(
                operator_id=OP, idempotency_key=f"w{number}", gateway_id=gateway.name, **wish
            )
        )
    answer = await cloud.door.RequestQuota(
        gateway_sync_pb2.RequestQuotaRequest(
            incarnation=1, counter=1, account_id="P", currency=EUR, wanted_micros=5_000_000
        )
    )
    assert answer.answer == gateway_sync_pb2.QUOTA_ANSWER_GRANTED
    return str(answer.quota_id)


async def push(cloud: Cloud, *batches: batch_pb2.SignedBatch) -> list[batch_pb2.SignedReceipt]:
    async def all_of() -> AsyncIterator[batch_pb2.SignedBatch]:
        for batch in batches:
            yield batch

    return [receipt async for receipt in cloud.door.PushBatches(all_of())]


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_batches_go_in_and_the_same_receipts_come_out(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    batches = [gateway.seal(quota_id) for _ in range(3)]
    receipts = await push(cloud, *batches)
    for number, signed in enumerate(receipts, 1):
        assert cloud.token.keys["receipt"].public.verify("receipt", "G1", signed.receipt, signed.signature)
        receipt = batch_pb2.Receipt.FromString(signed.receipt)
        assert (receipt.gateway_id, receipt.incarnation, receipt.sequence) == ("G1", 1, number)
        assert receipt.batch_hash == hashlib.sha256(batches[number - 1].batch).digest()
        assert receipt.ledger_epoch == 1
    assert await push(cloud, *batches) == receipts
    verdict = await cloud.back_office.Verify(ledger_pb2.VerifyRequest())
    assert (verdict.ok, verdict.batches, verdict.transfers) == (True, 3, 2 + 3 * 2)
    account = (
        await cloud.back_office.ShowAccount(ledger_pb2.ShowAccountRequest(operator_id=OP, account_id="P"))
    ).account
    assert (account.posted_micros, account.held_micros, account.available_micros) == (3_600_000, 1_400_000, 5_000_000)
    hello = await cloud.door.Hello(gateway_sync_pb2.HelloRequest(incarnation=1, start_id=START, position=9))
    assert (hello.incarnation, hello.posted_sequence, hello.proven_sequence) == (1, 3, 0)
    assert (hello.witnessed_start_id, hello.witnessed_position) == (START, 3)
    reconciled = await cloud.back_office.Reconcile(ledger_pb2.ReconcileRequest(operator_id=OP))
    assert reconciled.claimed_micros == reconciled.payers_micros == 3_600_000
    assert (reconciled.unproven_batches, reconciled.unproven_micros) == (3, 3 * NET)
    # Heard and witnessed: all of its exposure but for what its open quota holds.
    assert (reconciled.open_quotas, reconciled.maximum_loss_micros, reconciled.window) == (1, 48_600_000, "w1")


async def refused_or(call: Any, receipts: list[batch_pb2.SignedReceipt]) -> tuple[grpc.StatusCode, str] | None:
    """The next receipt, or what ended them."""
    try:
        receipts.append(await call.read())
    except grpc.aio.AioRpcError as err:
        return err.code(), err.details() or ""
    return None


async def test_of_batches_that_wait_the_good_before_a_bad_one_have_their_receipts(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    batches = [gateway.seal(quota_id) for _ in range(6)]
    forged = batch_pb2.SignedBatch(batch=batches[4].batch, signature=bytes(64), key_id=batches[4].key_id)
    receipts: list[batch_pb2.SignedReceipt] = []

    async def hear(*sent: batch_pb2.SignedBatch) -> tuple[grpc.StatusCode, str]:
        async def all_of() -> AsyncIterator[batch_pb2.SignedBatch]:
            for batch in sent:
                yield batch

        call = cloud.door.PushBatches(all_of())
        while (code := await refused_or(call, receipts)) is None:
            pass
        return code

    code, why = await hear(*batches[:4], forged, batches[5])
    assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, "the signature does not hold")
    assert len(receipts) == 4
    # A gap stands in its place as well.
    code, _ = await hear(batches[4], *batches[:2], gateway.seal(quota_id))
    assert code == grpc.StatusCode.OUT_OF_RANGE
    assert receipts[5:] == receipts[:2]
    assert await push(cloud, *batches[:5]) == receipts[:5]
    assert (await cloud.store.verify()).fault == ""


async def test_a_receipt_lost_after_the_commit_is_signed_again(cloud: Cloud) -> None:
    gateway = Gateway()
    batch = gateway.seal(await opened(cloud, gateway))
    (first,) = await push(cloud, batch)
    # As if the process had died between commit and signature: the batch is posted, no receipt is kept.
    async with cloud.store._pool.connection() as connection, connection.transaction():
        await connection.execute(b"SET LOCAL session_replication_role = replica")
        await connection.execute(b"DELETE FROM receipts")
    (second,) = await push(cloud, batch)
    assert second.receipt == first.receipt
    assert cloud.token.keys["receipt"].public.verify("receipt", "G1", second.receipt, second.signature)


async def test_what_is_wrong_with_a_batch_is_said_and_changes_nothing(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    first, second = gateway.seal(quota_id), gateway.seal(quota_id)
    invalid, denied = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
    before = await cloud.store.balances(OP, "")

    stranger = Gateway(name="G1").sign(first.batch)
    assert await refused(push(cloud, stranger)) == (invalid, "signed with a key that is not this gateway's batch key")
    stranger.key_id = first.key_id
    assert await refused(push(cloud, stranger)) == (invalid, "the signature does not hold")
    assert await refused(push(cloud, gateway.sign(b"\xff" * 40))) == (invalid, "not a batch")
    assert (await refused(push(cloud, gateway.sign(b""))))[0] == invalid
    other = Gateway(batch_key=gateway.batch_key).seal(quota_id, site_id="S2")
    assert (await refused(push(cloud, other)))[0] == denied
    code, details = await refused(push(cloud, second))
    assert (code, details) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "gap: batch 2 of incarnation 1; the next one here is 1",
    )
    cloud.calls("gateway", "G9")
    assert (await refused(push(cloud, first)))[0] == grpc.StatusCode.NOT_FOUND
    cloud.calls("person", "anna")
    assert (await refused(push(cloud, first)))[0] == denied
    cloud.calls("gateway", "G1")
    assert await cloud.store.balances(OP, "") == before

    assert len(await push(cloud, first)) == 1
    fork = batch_pb2.Batch.FromString(first.batch)
    fork.sealed_at_us += 1
    code, details = await refused(push(cloud, gateway.sign(fork.SerializeToString())))
    assert (code, details.partition(":")[0]) == (grpc.StatusCode.ALREADY_EXISTS, "fork")
    later = batch_pb2.Batch.FromString(second.batch)
    later.incarnation = 2
    code, details = await refused(push(cloud, gateway.sign(later.SerializeToString())))
    assert (code, details.partition(":")[0]) == (grpc.StatusCode.FAILED_PRECONDITION, "unknown incarnation")
    assert len(await push(cloud, second)) == 1


async def test_directives_follow_signed_and_gapless_with_heads_between(cloud: Cloud) -> None:
    gateway = Gateway()
    await opened(cloud, gateway)
    call = cloud.door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=0))
    kinds, previous = [], bytes(32)
    public = cloud.token.keys["directive"].public
    while item := await call.read():
        if item.HasField("head"):
            head = directive_pb2.DirectiveHead.FromString(item.head.head)
            assert public.verify("directive-head", "G1", item.head.head, item.head.signature)
            assert (head.version, head.hash) == (len(kinds), previous)
            break
        assert public.verify("directive", "G1", item.directive.directive, item.directive.signature)
        directive = directive_pb2.Directive.FromString(item.directive.directive)
        assert (directive.version, directive.previous_hash) == (len(kinds) + 1, previous)
        previous = hashlib.sha256(item.directive.directive).digest()
        kinds.append(directive.WhichOneof("body"))
    assert kinds == ["welcome", "tariff", "account", "device", "quota_granted"]
    # What comes while it listens.
    await cloud.back_office.RecallQuotas(
        ledger_pb2.RecallQuotasRequest(operator_id=OP, account_id="P", reason="lost card")
    )
    item = await call.read()
    assert directive_pb2.Directive.FromString(item.directive.directive).quota_recalled.reason == "lost card"
    item = await call.read()
    assert directive_pb2.DirectiveHead.FromString(item.head.head).version == 6
    call.cancel()
    # From the middle, and from beyond the end.
    call = cloud.door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=5))
    assert directive_pb2.Directive.FromString((await call.read()).directive.directive).version == 6
    call.cancel()
    beyond = cloud.door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=7))
    assert (await refused(beyond.read()))[0] == grpc.StatusCode.FAILED_PRECONDITION


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


async def exported(cloud: Cloud, authorization: bytes, **more: Any) -> Bundle:
    request = ledger_pb2.ExportEvidenceRequest(operator_id=OP, authorization_id=authorization, **more)
    return decode(b"".join([answer.part async for answer in cloud.back_office.ExportEvidence(request)]))


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


async def test_quota_requests_are_checked_and_repeat_their_answer(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)

    def ask(**changes: Any) -> Any:
        fields = {"incarnation": 1, "counter": 1, "account_id": "P", "currency": EUR, "wanted_micros": 5_000_000}
        return cloud.door.RequestQuota(gateway_sync_pb2.RequestQuotaRequest(**{**fields, **changes}))

    assert (await ask()).quota_id == quota_id
    for wrong in (
        {"currency": "USD"},
        {"wanted_micros": 0},
        {"counter": 0},
        {"account_id": "a/b"},
        {"currency": "???"},
    ):
        assert (await refused(ask(counter=2, **wrong) if "counter" not in wrong else ask(**wrong)))[
            0
        ] == grpc.StatusCode.INVALID_ARGUMENT
    assert (await ask(counter=2, account_id="Q")).answer == gateway_sync_pb2.QUOTA_ANSWER_ACCOUNT_UNKNOWN
    assert await cloud.store.currency_of(OP, AccountId("Q")) is None
    # A number that stood for another wish: the journal that asks is not the one that asked.
    other = await ask(wanted_micros=1)
    assert (other.answer, other.quota_id) == (gateway_sync_pb2.QUOTA_ANSWER_INCARNATION_DIFFERS, "")
    assert len(await cloud.store.gateway_cases(OP, open_only=True)) == 1
    assert (await ask()).quota_id == quota_id


async def test_fraud_may_only_reduce(cloud: Cloud) -> None:
    gateway = Gateway()
    await opened(cloud, gateway)
    cloud.calls("service", "fraud")

    def issue(key: str, **body: Any) -> Any:
        return cloud.back_office.IssueDirective(
            ledger_pb2.IssueDirectiveRequest(operator_id=OP, idempotency_key=key, gateway_id="G1", **body)
        )

    active = directive_pb2.DeviceRecord(device_id="toll", status=directive_pb2.DEVICE_STATUS_ACTIVE)
    blocked = directive_pb2.DeviceRecord(device_id="toll", status=directive_pb2.DEVICE_STATUS_BLOCKED)
    for body in ({"device": active}, {"floor": directive_pb2.FloorPolicy(currency=EUR)}):
        assert (await refused(issue("no", **body)))[0] == grpc.StatusCode.PERMISSION_DENIED
    version = (await issue("yes", device=blocked)).version
    assert (await issue("yes", device=blocked)).version == version
    assert (await issue("token", token_denied=directive_pb2.TokenDenied(token_ref=bytes(32)))).version == version + 1


async def test_events_are_followed_as_they_come(cloud: Cloud) -> None:
    gateway = Gateway()
    cloud.calls("service", "fraud")
    call = cloud.back_office.FollowEvents(ledger_pb2.FollowEventsRequest(follow=True, kinds=["batch.posted"]))
    cloud.calls("gateway", "G1")
    quota_id = await opened(cloud, gateway)
    await push(cloud, gateway.seal(quota_id))
    event = await call.read()
    posted = events_pb2.BatchPosted.FromString(event.value)
    assert (event.kind, event.key, posted.sequence, posted.net_micros) == ("batch.posted", "G1", 1, NET)
    call.cancel()
    ended = cloud.back_office.FollowEvents(ledger_pb2.FollowEventsRequest(after=event.cursor))
    assert [row.kind async for row in ended] == []


async def test_a_gateway_without_its_journal_waits_until_two_people_have_decided(cloud: Cloud) -> None:
    gateway = Gateway()
    await opened(cloud, gateway)
    door, back = cloud.door, cloud.back_office
    agreed = await door.Hello(gateway_sync_pb2.HelloRequest(incarnation=1, start_id=START, position=9))
    assert agreed.standing == gateway_sync_pb2.HELLO_STANDING_AGREED
    lost = gateway_sync_pb2.HelloRequest(start_id=b"n" * 16)
    code, details = await refused(door.Hello(lost))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "two persons" in details
    lost.hears_standing = True
    waits = await door.Hello(lost)
    assert (waits.standing, waits.incarnation) == (gateway_sync_pb2.HELLO_STANDING_WAITS, 1)
    assert "no journal" in waits.waits_because

    wish = ledger_pb2.ProposeDecisionRequest(kind="incarnation", gateway_id="G1", reason="a new disk")
    assert (await refused(back.ProposeDecision(wish)))[0] == grpc.StatusCode.PERMISSION_DENIED
    cloud.calls("person", "ann")
    (case,) = (await back.ListGatewayCases(ledger_pb2.ListGatewayCasesRequest(operator_id=OP, open_only=True))).cases
    assert (case.gateway_id, case.kind, case.closed_at_us) == ("G1", "incarnation", 0)
    proposed = (await back.ProposeDecision(wish)).decision
    content = ledger_pb2.DecisionContent.FromString(proposed.content)
    assert (content.proposed_by, content.reason, content.incarnation) == ("ann", "a new disk", 1)
    assert proposed.content_hash == hashlib.sha256(proposed.content).digest()
    wish.kind = "anything"
    assert (await refused(back.ProposeDecision(wish)))[0] == grpc.StatusCode.INVALID_ARGUMENT
    approval = ledger_pb2.ApproveDecisionRequest(decision_id=proposed.decision_id, content_hash=proposed.content_hash)
    code, details = await refused(back.ApproveDecision(approval))
    assert (code, "another person" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    exposed = (await back.ShowExposure(ledger_pb2.ShowExposureRequest(operator_id=OP))).rows
    assert [(row.scope, row.id, row.unwitnessed, row.quotas_micros) for row in exposed] == [
        ("gateway", "G1", 1, 5_000_000),
        ("site", "S1", 1, 5_000_000),
        ("operator", OP, 1, 5_000_000),
    ]
    reconciled = await back.Reconcile(ledger_pb2.ReconcileRequest(operator_id=OP))
    assert reconciled.maximum_loss_micros == exposed[0].maximum_loss_micros == 50_000_000
    cloud.calls("person", "ben")
    assert (await back.ApproveDecision(approval)).changed
    (decision,) = (await back.ListDecisions(ledger_pb2.ListDecisionsRequest(operator_id=OP))).decisions
    assert (decision.approved_by, decision.content) == ("ben", proposed.content)

    cloud.calls("gateway", "G1")
    begins = await door.Hello(lost)
    assert (begins.standing, begins.incarnation, begins.posted_sequence) == (
        gateway_sync_pb2.HELLO_STANDING_BEGIN,
        2,
        0,
    )
    # A batch of the old chain that turns up is posted, and names its incarnation in the receipt.
    (receipt,) = await push(cloud, gateway.seal(""))
    assert batch_pb2.Receipt.FromString(receipt.receipt).incarnation == 1


async def test_a_person_corrects_once_and_is_named(cloud: Cloud) -> None:
    gateway = Gateway()
    batch = gateway.seal(await opened(cloud, gateway))
    await push(cloud, batch)
    back = cloud.back_office
    (claim,) = (await back.ListClaims(ledger_pb2.ListClaimsRequest(operator_id=OP))).claims
    content = ledger_pb2.CorrectionContent(
        operator_id=OP,
        correction_id="ticket-1",
        kind="refund",
        authorization_id=claim.authorization_id,
        gateway_id="G1",
        reason="wrong price",
    )
    request = ledger_pb2.CorrectRequest(content=content)
    assert (await refused(back.Correct(request)))[0] == grpc.StatusCode.PERMISSION_DENIED
    cloud.calls("person", "ann")
    trial = await back.Correct(ledger_pb2.CorrectRequest(content=content, dry_run=True))
    done = await back.Correct(request)
    assert (trial.changed, done.changed, done.correction.amount_micros) == (True, True, NET + TAX)
    assert (done.correction.person, done.correction.content, done.correction.currency) == ("ann", content, EUR)
    cloud.calls("person", "ben")
    again = await back.Correct(request)
    assert (again.changed, again.correction) == (False, done.correction)
    content.amount_micros = 1
    for wrong, code in (
        ({}, grpc.StatusCode.ALREADY_EXISTS),
        ({"correction_id": "ticket-2"}, grpc.StatusCode.FAILED_PRECONDITION),
        ({"kind": "present"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"authorization_id": b"short"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"correction_id": "ticket-2", "authorization_id": bytes(16)}, grpc.StatusCode.NOT_FOUND),
    ):
        other = ledger_pb2.CorrectionContent.FromString(content.SerializeToString())
        for name, value in wrong.items():
            setattr(other, name, value)
        assert (await refused(back.Correct(ledger_pb2.CorrectRequest(content=other))))[0] == code
    listed = (await back.ListCorrections(ledger_pb2.ListCorrectionsRequest(operator_id=OP))).corrections
    assert list(listed) == [done.correction]
    assert (await back.Verify(ledger_pb2.VerifyRequest())).ok


def lost_directive(cloud: Cloud, version: int, previous: bytes, name: str = "G1") -> directive_pb2.SignedDirective:
    """A grant that the cloud has signed, and that its ledger has no longer."""
    granted = directive_pb2.QuotaGranted(
        quota_id="q-lost",
        account_id="P",
        currency=EUR,
        amount_micros=2_000_000,
        spend_until_us=NOON,
        report_until_us=NOON,
        incarnation=1,
        request_counter=77,
    )
    raw = directive_pb2.Directive(
        gateway_id=name, version=version, previous_hash=previous, dated_at_us=NOON, quota_granted=granted
    ).SerializeToString(deterministic=True)
    key = cloud.token.keys["directive"]
    return directive_pb2.SignedDirective(
        directive=raw,
        signature=key.sign(cose.to_be_signed("directive", name, raw)),
        key_id=key.public.key_id,
    )


async def show(cloud: Cloud, links: list[tuple[int, bytes]], *directives: directive_pb2.SignedDirective) -> Any:
    call = cloud.door.ShowDirectives()
    offered = [gateway_sync_pb2.ChainLink(version=version, hash=digest) for version, digest in links]
    await call.write(gateway_sync_pb2.ShowDirectivesRequest(links=offered))
    first = await call.read()
    assert first.after_version == min(version for version, _ in links)
    await call.write(gateway_sync_pb2.ShowDirectivesRequest(directives=directives, last=True))
    await call.done_writing()
    return await call.read()


async def test_what_the_cloud_signed_proves_a_restore_and_is_taken_back(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    row = await cloud.store.gateway(GatewayId("G1"))
    assert row is not None
    here = row.directive_version
    lost = lost_directive(cloud, here + 1, row.directive_hash)
    forged = directive_pb2.SignedDirective(directive=lost.directive, signature=bytes(64), key_id=lost.key_id)
    anothers = lost_directive(cloud, here + 1, row.directive_hash, "G2")
    strangers = directive_pb2.SignedDirective(directive=lost.directive, signature=bytes(64), key_id=b"unknown!")

    def hello(directive: directive_pb2.SignedDirective | None) -> Any:
        return cloud.door.Hello(
            gateway_sync_pb2.HelloRequest(
                incarnation=1,
                start_id=START,
                position=9,
                directive_version=here + 1,
                hears_standing=True,
                last_directive=directive,
            )
        )

    # Nobody else's word stops the ledger.
    assert (await refused(hello(forged)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert (await refused(hello(anothers)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    for proof in (strangers, None):
        assert (await hello(proof)).standing == gateway_sync_pb2.HELLO_STANDING_AGREED
    assert (await cloud.back_office.ShowEpoch(ledger_pb2.ShowEpochRequest())).state == "open"
    code, why = await refused(push(cloud, replace(gateway).seal(quota_id, directive_version=here + 1)))
    assert (code, "rests on directive" in why) == (grpc.StatusCode.FAILED_PRECONDITION, True)

    code, why = await refused(hello(lost))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"G1 has proven it: directive {here + 1}" in why
    assert (await cloud.back_office.ShowEpoch(ledger_pb2.ShowEpochRequest())).state == "stopped"
    following = cloud.door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=here))
    assert (await refused(following.read()))[0] is grpc.StatusCode.FAILED_PRECONDITION
    ask = gateway_sync_pb2.RequestQuotaRequest(
        incarnation=1, counter=2, account_id="P", currency=EUR, wanted_micros=1_000_000
    )
    assert (await cloud.door.RequestQuota(ask)).answer == gateway_sync_pb2.QUOTA_ANSWER_LEDGER_RESTORING
    assert (await cloud.back_office.Reconcile(ledger_pb2.ReconcileRequest(operator_id=OP))).restoring

    cloud.calls("person", "anna")
    proposed = await cloud.back_office.ProposeDecision(
        ledger_pb2.ProposeDecisionRequest(kind="restored", operator_id=OP, reason="the disk died")
    )
    cloud.calls("person", "ben")
    content = ledger_pb2.DecisionContent.FromString(proposed.decision.content)
    assert (content.ledger_epoch, "G1 has proven it" in content.waits_because) == (2, True)
    assert (
        await cloud.back_office.ApproveDecision(
            ledger_pb2.ApproveDecisionRequest(
                decision_id=proposed.decision.decision_id, content_hash=proposed.decision.content_hash
            )
        )
    ).changed
    cloud.calls("gateway", "G1")
    assert (await hello(lost)).standing == gateway_sync_pb2.HELLO_STANDING_REWIND
    links = [(here + 1, hashlib.sha256(lost.directive).digest()), (here, row.directive_hash)]
    for wrong in (forged, anothers, strangers):
        code, _ = await refused(show(cloud, links, wrong))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    code, _ = await refused(show(cloud, links, lost, lost))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert (await cloud.back_office.ShowEpoch(ledger_pb2.ShowEpochRequest())).gateways[0].standing == "missing"
    back = await show(cloud, links, lost)
    assert (back.directives, back.quotas, back.directive_version) == (1, 1, here + 2)

    following = cloud.door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=here))
    first, second = (await following.read()).directive, (await following.read()).directive
    following.cancel()
    assert first == lost  # the very signature
    restored = directive_pb2.Directive.FromString(second.directive)
    assert (restored.ledger_epoch, restored.ledger_restored.last_version) == (2, here + 1)
    assert restored.previous_hash == hashlib.sha256(lost.directive).digest()
    (standing,) = (await cloud.back_office.ShowEpoch(ledger_pb2.ShowEpochRequest())).gateways
    assert (standing.standing, standing.reinstated_micros) == ("rewound", 2_000_000)
    assert (await hello(lost)).standing == gateway_sync_pb2.HELLO_STANDING_AGREED
    (receipt,) = await push(cloud, gateway.seal(quota_id))
    assert batch_pb2.Receipt.FromString(receipt.receipt).ledger_epoch == 2
    assert (await cloud.door.RequestQuota(ask)).answer == gateway_sync_pb2.QUOTA_ANSWER_LEDGER_RESTORING
    assert await RestoredLedger(cloud.store).open_again(now=real_clock().now())
    assert (await cloud.door.RequestQuota(ask)).answer == gateway_sync_pb2.QUOTA_ANSWER_GRANTED
    assert (await cloud.back_office.Verify(ledger_pb2.VerifyRequest())).ok


# --- by hand ----------------------------------------------------------------------------------------------------------


async def carry(
    cloud: Cloud, gateway: Gateway, batches: list[batch_pb2.SignedBatch], *, detail: bool = True
) -> list[ledger_pb2.ImportBatchesResponse]:
    """Import batches by hand, as ``farthing-admin ledger import`` does."""

    async def all_of() -> AsyncIterator[ledger_pb2.ImportBatchesRequest]:
        begins = ledger_pb2.ImportBegins(gateway_id=gateway.name, file_hash=bytes(32), reason="its modem is dead")
        yield ledger_pb2.ImportBatchesRequest(begins=begins)
        for signed in batches:
            sequence = batch_pb2.Batch.FromString(signed.batch).sequence
            leaves = compress_leaves(gateway.leaves[sequence]) if detail else b""
            each = ledger_pb2.ImportedBatch(signed=signed, incarnation=1, sequence=sequence, compressed_leaves=leaves)
            yield ledger_pb2.ImportBatchesRequest(batch=each)

    return [answer async for answer in cloud.back_office.ImportBatches(all_of())]


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


# --- keys -------------------------------------------------------------------------------------------------------------


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
        return (await refused(push(cloud, *batches)))[1]

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


# --- evidence classes -------------------------------------------------------------------------------------------------


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
