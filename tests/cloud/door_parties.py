"""A gateway with keys in software and a cloud with a real store, and the door between them over gRPC: who the tests of the door are played by."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from evidence_bundles import certificate, der
from ledger_story import EUR, OP

from farthing.clock import Instant, quarter_of
from farthing.device import cose
from farthing.device import messages as m
from farthing.device.cose import VerifyingKey
from farthing.evidence import merkle
from farthing.evidence.batches import compress_leaves
from farthing.evidence.bundle import Bundle, decode
from farthing.evidence.leaf import Leaf
from farthing.ids import GatewayId, authorization_id
from farthing.v1 import (
    batch_pb2,
    directive_pb2,
    gateway_sync_pb2,
    ledger_pb2,
)
from farthing_cloud.callers import Caller
from farthing_cloud.ledger.signing import Signatures
from farthing_cloud.ledger.store.postgres import PostgresStore

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
        batch.parked.extend(changes.pop("parked", ()))
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


async def exported(cloud: Cloud, authorization: bytes, **more: Any) -> Bundle:
    request = ledger_pb2.ExportEvidenceRequest(operator_id=OP, authorization_id=authorization, **more)
    return decode(b"".join([answer.part async for answer in cloud.back_office.ExportEvidence(request)]))


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
