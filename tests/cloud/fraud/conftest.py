"""Device elements that sign, a registry and an outbox served over gRPC, and a fraud service between them."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from farthing.clock import Instant, real_clock
from farthing.device.cose import encode_sign1, key_id, to_be_signed
from farthing.device.messages import Intent, RegisterValue, encode
from farthing.v1 import (
    directive_pb2,
    events_pb2,
    fraud_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from farthing_cloud.config import FraudSection
from farthing_cloud.database import migrate, open_pool
from farthing_cloud.events.consumer import ConsumerLimits
from farthing_cloud.fraud import build
from farthing_cloud.fraud.blocking import Blocker

_numbers = itertools.count()


class Element:
    """A secure element: a key that signs what it is given."""

    def __init__(self, device_id: str, *, epoch: int = 1) -> None:
        self.device_id = device_id
        self.epoch = epoch
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.spki = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(
        self, counter: int, *, gateway: str = "gw-1", value: int = 41, kind: str = "intent", **changes: Any
    ) -> bytes:
        intent = Intent(
            recipient=gateway,
            device=changes.get("device", self.device_id),
            device_epoch=self.epoch,
            counter=counter,
            at=Instant(1),
            register=RegisterValue(register_id="r1", register_epoch=1, value=value),
            commitment=hashlib.sha256(b"token").digest(),
            incarnation=1,
            one_shot=1,
        )
        payload = encode(intent)
        der = self._key.sign(to_be_signed(kind, gateway, payload), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return encode_sign1(key_id(self.spki), payload, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


class Registry(registry_pb2_grpc.RegistryServicer):
    """The part of the registry that fraud speaks to, in memory."""

    def __init__(self) -> None:
        self.devices: dict[str, registry_pb2.Device] = {}
        self.away = False
        self.asked: list[str] = []
        self.blocked: list[str] = []

    def know(self, element: Element, *, status: int = directive_pb2.DEVICE_STATUS_ACTIVE) -> None:
        self.devices[element.device_id] = registry_pb2.Device(
            operator_id="op",
            record=directive_pb2.DeviceRecord(
                device_id=element.device_id, status=status, statement_key=element.spki, device_epoch=element.epoch
            ),
        )

    async def ListDevices(self, request: registry_pb2.ListDevicesRequest, context: Any) -> Any:  # noqa: N802 - the RPC
        self.asked.append(request.operator_id)
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the registry is away")
        return registry_pb2.ListDevicesResponse(
            devices=[each for each in self.devices.values() if each.operator_id == request.operator_id]
        )

    async def SetDeviceStatus(self, request: registry_pb2.SetDeviceStatusRequest, context: Any) -> Any:  # noqa: N802 - the RPC
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the registry is away")
        assert request.status == directive_pb2.DEVICE_STATUS_BLOCKED
        record = self.devices[request.device_id].record
        change = registry_pb2.CHANGE_NONE if record.status == request.status else registry_pb2.CHANGE_UPDATED
        record.status = request.status
        self.blocked.append(request.device_id)
        return registry_pb2.PutResponse(change=change)


class Outbox(ledger_pb2_grpc.LedgerServicer):
    """What the ledger publishes, in memory; ``publish`` gives each row the next place."""

    def __init__(self) -> None:
        self.rows: list[ledger_pb2.FollowEventsResponse] = []
        self._changed = asyncio.Condition()

    async def publish(self, kind: str, message: Any) -> None:
        async with self._changed:
            self.rows.append(
                ledger_pb2.FollowEventsResponse(
                    cursor=ledger_pb2.EventCursor(transaction_id=len(self.rows) + 1),
                    kind=kind,
                    key=message.device_id,
                    value=message.SerializeToString(),
                )
            )
            self._changed.notify_all()

    async def evidence(self, device_id: str, *statements: bytes, gateway: str = "gw-1") -> None:
        await self.publish(
            "evidence.verified",
            events_pb2.EvidenceVerified(
                operator_id="op", gateway_id=gateway, device_id=device_id, statements=statements
            ),
        )

    async def FollowEvents(  # noqa: N802 - the name of the RPC
        self,
        request: ledger_pb2.FollowEventsRequest,
        context: Any,  # noqa: ARG002 - the RPC's signature
    ) -> AsyncIterator[Any]:
        sent = request.after.transaction_id
        while True:
            # Row by row: more may be published while one is being written.
            while sent < len(self.rows):
                row, sent = self.rows[sent], sent + 1
                if row.kind in request.kinds:
                    yield row
            async with self._changed:
                await self._changed.wait_for(lambda: len(self.rows) > sent)  # noqa: B023 - waited for at once


class Channels:
    """The back office: one server for all peers, which can be cut."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def to(self, service: str) -> grpc.aio.Channel:  # noqa: ARG002 - one server serves them all
        return self._channel


@dataclass
class House:
    """All parts of one test."""

    registry: Registry
    outbox: Outbox
    pool: Any
    channels: Channels
    limits: ConsumerLimits

    def build(self, **settings: Any) -> Any:
        service = build(
            pool=self.pool,
            token=None,
            channel=self.channels,
            clock=real_clock(),
            settings=FraudSection(**settings),
            limits=self.limits,
        )
        blocker: Blocker = service._blocker
        blocker._first_pause_s, blocker._longest_pause_s = 0.01, 0.05
        return service


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[House]:
    schema = f"fraud_test_{next(_numbers)}"
    await migrate(database_url, "farthing_cloud.fraud.schema", schema)
    registry, outbox = Registry(), Outbox()
    server = grpc.aio.server()
    registry_pb2_grpc.add_RegistryServicer_to_server(registry, server)
    ledger_pb2_grpc.add_LedgerServicer_to_server(outbox, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        pool = await open_pool(database_url, schema=schema)
        stack.push_async_callback(pool.close)
        yield House(
            registry=registry,
            outbox=outbox,
            pool=pool,
            channels=Channels(channel),
            limits=ConsumerLimits(first_pause_s=0.01, longest_pause_s=0.05, replay_interval_s=0.2),
        )


@pytest.fixture
def running() -> Callable[[Any], Any]:
    """``async with running(service) as stub``: the service works, and its API answers."""

    class Running:
        def __init__(self, service: Any) -> None:
            self._service = service
            self._server = grpc.aio.server()

        async def __aenter__(self) -> Any:
            ((add, servicer, listener),) = self._service.servicers
            assert listener == "back-office"
            add(servicer, self._server)
            port = self._server.add_insecure_port("127.0.0.1:0")
            await self._server.start()
            self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            self._task = asyncio.create_task(self._service.run())
            return fraud_pb2_grpc.FraudStub(self._channel)

        async def __aexit__(self, *error: object) -> None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            await self._channel.close()
            await self._server.stop(None)

    return Running


@pytest.fixture
def elements() -> SimpleNamespace:
    """The class of elements, for tests that make their own."""
    return SimpleNamespace(Element=Element)
