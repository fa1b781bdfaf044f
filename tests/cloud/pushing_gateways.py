"""Gateways that push sealed batches over mTLS at the door of a cloud that is killed, and take up again where they heard the last receipt."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from farthing.clock import quarter_of, real_clock
from farthing.device import cose
from farthing.hsm import Hsm, Token, load_party
from farthing.hsm.tls import channel_credentials
from farthing.v1 import batch_pb2, gateway_sync_pb2, gateway_sync_pb2_grpc

USES: Final = 4
NET_MICROS, TAX_MICROS = 100, 20
#: Batches on their way, as an uplink has them: who is killed is in the middle of several.
IN_FLIGHT: Final = 6


@dataclass(slots=True)
class PushingGateway:
    """One gateway, its chain, and the receipts it heard. A use is a step of a register of its own, on the account's bill."""

    name: str
    site_id: str
    credentials: grpc.ChannelCredentials
    token: Token
    key_id: bytes
    #: Called at each batch that leaves and each receipt that comes.
    at_each: Callable[[], None]
    #: What pays: a quota, or nothing that was held.
    quota_id: str = ""
    sealed: list[batch_pb2.SignedBatch] = field(default_factory=list)
    #: By sequence, as they were heard first.
    receipts: dict[int, bytes] = field(default_factory=dict)

    @property
    def acknowledged(self) -> int:
        """How far its chain is acknowledged without gaps."""
        return len(self.receipts)

    async def ask(self, address: str, wanted_micros: int) -> None:
        """Have a quota from here on."""
        async with grpc.aio.secure_channel(address, self.credentials) as channel:
            answer = await gateway_sync_pb2_grpc.GatewaySyncStub(channel).RequestQuota(
                gateway_sync_pb2.RequestQuotaRequest(
                    incarnation=1, counter=1, account_id="acme", currency="EUR", wanted_micros=wanted_micros
                )
            )
        self.quota_id = answer.quota_id
        assert self.quota_id, answer

    async def push(self, address: str, *, first: int, last: int | None = None) -> None:
        """From batch ``first`` to ``last`` (for ever: None) on one stream, until it is cut; each receipt is what it was before."""
        async with grpc.aio.secure_channel(address, self.credentials) as channel:
            stream: Any = gateway_sync_pb2_grpc.GatewaySyncStub(channel).PushBatches()  # type: ignore[call-arg]  # the aio stub takes no iterator
            room = asyncio.Semaphore(IN_FLIGHT)

            async def send() -> None:
                sequence = first
                while last is None or sequence <= last:
                    await room.acquire()
                    await stream.write(await self._batch(sequence))
                    self.at_each()
                    sequence += 1
                await stream.done_writing()

            sending = asyncio.create_task(send())
            try:
                async for receipt in stream:
                    self._hear(receipt)
                    room.release()
                    self.at_each()
                await sending
            except grpc.aio.AioRpcError as err:
                if err.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise  # its cloud did not die
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def _hear(self, signed: batch_pb2.SignedReceipt) -> None:
        said = batch_pb2.Receipt.FromString(signed.receipt)
        assert said.gateway_id == self.name
        assert said.batch_hash == hashlib.sha256(self.sealed[said.sequence - 1].batch).digest()
        raw = signed.SerializeToString(deterministic=True)
        assert self.receipts.setdefault(said.sequence, raw) == raw, f"another receipt for batch {said.sequence}"

    async def _batch(self, sequence: int) -> batch_pb2.SignedBatch:
        """Sealed when it is wanted first; a chain does not wait for its receipts."""
        if sequence > len(self.sealed):
            raw = self._seal(sequence)
            signature = await self.token.sign("batch", cose.to_be_signed("batch", "cloud", raw))
            self.sealed.append(batch_pb2.SignedBatch(batch=raw, signature=signature, key_id=self.key_id))
        return self.sealed[sequence - 1]

    def _seal(self, sequence: int) -> bytes:
        now = real_clock().now()
        batch = batch_pb2.Batch(
            operator_id="city",
            site_id=self.site_id,
            gateway_id=self.name,
            incarnation=1,
            start_id=b"s" * 16,
            sequence=sequence,
            previous_hash=hashlib.sha256(self.sealed[-1].batch).digest() if self.sealed else bytes(32),
            first_position=sequence,
            last_position=sequence,
            sealed_at_us=now,
            totals=[
                batch_pb2.CurrencyTotal(currency="EUR", net_micros=USES * NET_MICROS, tax_micros=USES * TAX_MICROS)
            ],
            merkle_root=bytes(32),
            leaf_count=USES,
        )
        for use in range(USES):
            line = batch_pb2.Line(
                account_id="acme",
                currency="EUR",
                tariff_id="toll",
                tariff_version=1,
                tax_rate_ppm=200_000,
                evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
                quarter=quarter_of(now),
                net_micros=NET_MICROS,
                tax_micros=TAX_MICROS,
                first_leaf=use,
                leaf_count=1,
            )
            if self.quota_id:
                line.quota_id = self.quota_id
            else:
                line.overrun = True
            batch.lines.append(line)
            batch.claims.append(
                batch_pb2.Claim(
                    authorization_id=hashlib.sha256(f"{self.name} {sequence} {use}".encode()).digest()[:16],
                    device_id=f"{self.name}-{use}",
                    register_id="1",
                    register_from=sequence,
                    register_to=sequence + 1,
                    net_micros=NET_MICROS,
                    tax_micros=TAX_MICROS,
                    final=True,
                    shares=[batch_pb2.Share(line=use, net_micros=NET_MICROS, tax_micros=TAX_MICROS)],
                )
            )
        return batch.SerializeToString(deterministic=True)


@contextmanager
def pushing_gateways(parties: Path, at_each: Callable[[], None]) -> Iterator[list[PushingGateway]]:
    """gw-1 and gw-2 of a ceremony, their keys in their tokens."""
    with Hsm.of(load_party(parties / "gw-1")) as hsm:
        gateways = []
        for name, site_id in (("gw-1", "S1"), ("gw-2", "S2")):
            party = load_party(parties / name)
            token = hsm.attach(party)
            credentials = channel_credentials(
                token, "tls", certificate_chain=party.certificate("tls"), roots=party.certificate("ca")
            )
            key_id = cose.key_id(party.public_key("batch"))
            gateways.append(
                PushingGateway(
                    name=name,
                    site_id=site_id,
                    credentials=credentials,
                    token=token,
                    key_id=key_id,
                    at_each=at_each,
                )
            )
        yield gateways
