"""The listeners over real mTLS: who is let in, who is not, and what a caller hears when something is broken."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from psycopg.types.string import StrDumper
from typing_extensions import override

from farthing.hsm import Hsm, Token, load_party
from farthing.hsm.certificate import CertificateRequest, sign_certificate
from farthing.hsm.tls import channel_credentials
from farthing.v1 import (
    gateway_sync_pb2,
    gateway_sync_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
)
from farthing_cloud import tracing
from farthing_cloud.admission import AdmissionUnknown
from farthing_cloud.callers import CallerTableError, caller, make_table
from farthing_cloud.channel import RenewingChannel
from farthing_cloud.listeners import (
    MAX_CALLS_OF_GATEWAY,
    CallMetrics,
    Doorkeeper,
    Issuers,
    ListenError,
    ListenerServer,
)
from farthing_cloud.transport import Transport

pytestmark = pytest.mark.real


class Door(gateway_sync_pb2_grpc.GatewaySyncServicer):
    """Says who called, and streams until told to stop."""

    def __init__(self) -> None:
        self.following = asyncio.Event()
        self.ended = asyncio.Event()

    @override
    async def Hello(self, request: Any, context: Any) -> Any:
        assert caller(context).kind == "gateway"
        return gateway_sync_pb2.HelloResponse(witnessed_start_id=caller(context).id.encode())

    @override
    async def FollowDirectives(self, request: Any, context: Any) -> Any:
        self.following.set()
        try:
            yield gateway_sync_pb2.FollowDirectivesResponse()
            await asyncio.Event().wait()
        finally:
            self.ended.set()


class Books(ledger_pb2_grpc.LedgerServicer):
    """Fails in every way a servicer can."""

    def __init__(self) -> None:
        self.trace: str | None = None

    @override
    async def ShowAccount(self, request: Any, context: Any) -> Any:
        self.trace = tracing.trace_of(tracing.current())
        match request.account_id:
            case "database":
                raise psycopg.OperationalError("connection refused: password=hunter2")
            case "a\0b":
                StrDumper(str).dump(request.account_id)
            case "bug":
                raise ZeroDivisionError("micros of nobody")
            case "no":
                await context.abort(grpc.StatusCode.NOT_FOUND, "no account no")
        return ledger_pb2.ShowAccountResponse(account=ledger_pb2.PayerAccount(account_id=caller(context).id))


@dataclass
class Known:
    """Admission by a set."""

    active: set[str] = field(default_factory=lambda: {"gw-1"})
    answers: bool = True
    watches: dict[object, tuple[str, Callable[[], object]]] = field(default_factory=dict)

    async def admits(self, gateway_id: str) -> bool:
        if not self.answers:
            raise AdmissionUnknown("the registry does not answer")
        return gateway_id in self.active

    def watch(self, gateway_id: str, leave: Callable[[], object]) -> Callable[[], None]:
        key = object()
        self.watches[key] = (gateway_id, leave)
        return lambda: self.watches.pop(key, None) and None

    def revoke(self, gateway_id: str) -> None:
        self.active.discard(gateway_id)
        for watched, leave in list(self.watches.values()):
            if watched == gateway_id:
                leave()


@dataclass
class House:
    """Two listeners and those who knock."""

    parties: Path
    hsm: Hsm
    cloud: Token
    roots: bytes
    known: Known
    door: Door
    books: Books
    door_address: str
    office_address: str
    metrics: CollectorRegistry
    stack: AsyncExitStack

    def as_party(self, name: str, address: str) -> grpc.aio.Channel:
        party = load_party(self.parties / name)
        credentials = channel_credentials(
            self.hsm.attach(party), "tls", certificate_chain=party.certificate("tls"), roots=self.roots
        )
        return self._channel(address, credentials)

    def as_service(self, name: str, address: str) -> grpc.aio.Channel:
        channel = RenewingChannel(
            address,
            Transport(
                token=self.cloud,
                roots=self.roots,
                directory=None,
                common_name=f"test-{name}",
                uris=(f"spiffe://farthing/service/{name}",),
                server=False,
            ),
        )
        self.stack.push_async_callback(channel.close, None)
        return channel

    def _channel(self, address: str, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
        channel = grpc.aio.secure_channel(address, credentials)
        self.stack.push_async_callback(channel.close, None)
        return channel

    def forged(self, uri: str, address: str, *, issuer: str = "issuing") -> grpc.aio.Channel:
        """A certificate by an intermediate that may not vouch for ``uri``."""
        key = ec.generate_private_key(ec.SECP256R1())
        from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

        now = datetime.now(UTC)
        certificate = sign_certificate(
            self.cloud,
            issuer,
            CertificateRequest(
                common_name="eve",
                public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
                not_before=now - timedelta(hours=1),
                not_after=now + timedelta(hours=1),
                uris=(uri,),
                client=True,
            ),
            issuer_certificate=self.cloud.party.certificate(issuer),
        )
        return self._channel(
            address,
            grpc.ssl_channel_credentials(
                self.roots,
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
                certificate + self.cloud.party.certificate(issuer),
            ),
        )


@pytest.fixture
async def house(parties: Path) -> AsyncIterator[House]:
    cloud_party = load_party(parties / "cloud")
    roots = load_party(parties / "ca").certificate("ca")
    known, door, books, metrics = Known(), Door(), Books(), CollectorRegistry()
    with Hsm.of(cloud_party) as hsm:
        async with AsyncExitStack() as stack:
            cloud = hsm.attach(cloud_party)
            issuers = Issuers(root=roots, issuing=cloud_party.certificate("issuing"))
            table = make_table({})
            calls = CallMetrics(metrics)
            transport = Transport(
                token=cloud,
                roots=roots,
                directory=None,
                common_name="test-listener",
                dns_names=("localhost",),
                addresses=("127.0.0.1",),
                server=True,
            )
            stack.callback(transport.remove)
            listeners = []
            for name, admission in (("door", known), ("back office", None)):
                listener = ListenerServer(
                    name=name,
                    address="127.0.0.1:0",
                    credentials=transport.server_credentials(),
                    keeper=Doorkeeper(table=table, issuers=issuers, admission=admission, metrics=calls),
                )
                stack.push_async_callback(listener.stop, None)
                listeners.append(listener)
            mounted = (
                (gateway_sync_pb2_grpc.add_GatewaySyncServicer_to_server, door, "door"),
                (ledger_pb2_grpc.add_LedgerServicer_to_server, books, "back-office"),
            )
            await listeners[0].start([mounted[0]], table=table, reflect=False)
            await listeners[1].start([mounted[1]], table=table, reflect=True)
            yield House(
                parties=parties,
                hsm=hsm,
                cloud=cloud,
                roots=roots,
                known=known,
                door=door,
                books=books,
                door_address=listeners[0].address,
                office_address=listeners[1].address,
                metrics=metrics,
                stack=stack,
            )


HELLO = gateway_sync_pb2.HelloRequest()


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def code_of(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as err:
        return err.code()
    return grpc.StatusCode.OK


def hello(channel: grpc.aio.Channel) -> Any:
    return gateway_sync_pb2_grpc.GatewaySyncStub(channel).Hello(HELLO, timeout=10)


def show(channel: grpc.aio.Channel, account_id: str, **more: Any) -> Any:
    request = ledger_pb2.ShowAccountRequest(account_id=account_id)
    return ledger_pb2_grpc.LedgerStub(channel).ShowAccount(request, timeout=10, **more)


async def test_a_gateway_comes_in_by_the_name_in_its_certificate(house: House) -> None:
    answer = await hello(house.as_party("gw-1", house.door_address))
    assert answer.witnessed_start_id == b"gw-1"


async def test_strangers_and_neighbours_stay_out(house: House) -> None:
    code, details = await refused(hello(house.as_party("gw-2", house.door_address)))
    assert (code, details) == (grpc.StatusCode.PERMISSION_DENIED, "gateway gw-2 is not known or not active")
    assert (await refused(hello(house.as_party("alice", house.door_address))))[0] == grpc.StatusCode.PERMISSION_DENIED
    # A gateway at the back office, a person where only services may go, a service where only persons may.
    assert (await refused(show(house.as_party("gw-1", house.office_address), "x")))[0] == (
        grpc.StatusCode.PERMISSION_DENIED
    )
    office = ledger_pb2_grpc.LedgerStub(house.as_party("alice", house.office_address))
    assert (await refused(office.IssueDirective(ledger_pb2.IssueDirectiveRequest())))[0] == (
        grpc.StatusCode.PERMISSION_DENIED
    )
    fraud = ledger_pb2_grpc.LedgerStub(house.as_service("fraud", house.office_address))
    assert (await refused(fraud.FundAccount(ledger_pb2.FundAccountRequest())))[0] == grpc.StatusCode.PERMISSION_DENIED
    refusals = house.metrics.get_sample_value(
        "farthing_cloud_callers_refused_total", {"method": "/farthing.v1.GatewaySync/Hello", "why": "status"}
    )
    assert refusals == 1


async def test_an_issuer_vouches_for_its_own_kind_only(house: House) -> None:
    for uri in ("spiffe://farthing/person/alice", "spiffe://farthing/gateway/gw-1"):
        code, details = await refused(show(house.forged(uri, house.office_address), "x"))
        assert (code, "may not vouch" in details) == (grpc.StatusCode.UNAUTHENTICATED, True)


async def test_without_a_certificate_there_is_no_call(house: House) -> None:
    channel = grpc.aio.secure_channel(house.office_address, grpc.ssl_channel_credentials(house.roots))
    code, _ = await refused(show(channel, "x"))
    assert code == grpc.StatusCode.UNAVAILABLE
    await channel.close(None)


async def test_a_revocation_ends_live_streams(house: House) -> None:
    channel = house.as_party("gw-1", house.door_address)
    stream = gateway_sync_pb2_grpc.GatewaySyncStub(channel).FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest())
    assert await stream.read() is not grpc.aio.EOF
    await house.door.following.wait()
    house.known.revoke("gw-1")
    code, details = await refused(stream.read())
    assert (code, details) == (grpc.StatusCode.PERMISSION_DENIED, "gateway gw-1 is not known or not active")
    await house.door.ended.wait()
    assert not house.known.watches
    assert (await refused(hello(channel)))[0] == grpc.StatusCode.PERMISSION_DENIED


async def test_one_gateway_takes_no_more_than_its_share_of_the_calls(house: House) -> None:
    house.known.active.add("gw-2")
    door = gateway_sync_pb2_grpc.GatewaySyncStub(house.as_party("gw-1", house.door_address))
    streams = [door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest()) for _ in range(MAX_CALLS_OF_GATEWAY)]
    for stream in streams:
        assert await stream.read() is not grpc.aio.EOF
    more = door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest())
    assert (await refused(more.read()))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await refused(door.Hello(HELLO, timeout=10)))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await hello(house.as_party("gw-2", house.door_address))).witnessed_start_id == b"gw-2"
    # One that ends makes room: also where the caller goes without a word.
    streams.pop().cancel()
    await house.door.ended.wait()
    again = house.as_party("gw-1", house.door_address)
    # Its call may not be counted out yet.
    while (code := await code_of(hello(again))) is grpc.StatusCode.RESOURCE_EXHAUSTED:
        pass
    assert code is grpc.StatusCode.OK
    house.known.revoke("gw-1")
    for stream in streams:
        await refused(stream.read())
    house.known.active.add("gw-1")
    assert (await hello(house.as_party("gw-1", house.door_address))).witnessed_start_id == b"gw-1"


async def test_nobody_is_let_in_while_nobody_can_say(house: House) -> None:
    house.known.answers = False
    code, details = await refused(hello(house.as_party("gw-1", house.door_address)))
    assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "the registry does not answer")


async def test_what_is_broken_is_said_without_saying_too_much(house: House, caplog: pytest.LogCaptureFixture) -> None:
    channel = house.as_party("alice", house.office_address)
    code, details = await refused(show(channel, "database"))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "the database is out of reach" in details
    assert "hunter2" not in details
    assert await refused(show(channel, "no")) == (grpc.StatusCode.NOT_FOUND, "no account no")
    code, details = await refused(show(channel, "a\0b"))
    assert (code, "NUL" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)

    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    code, details = await refused(show(channel, "bug", metadata=(("traceparent", traceparent),)))
    assert code == grpc.StatusCode.INTERNAL
    assert "4bf92f3577b34da6a3ce929d0e0e4736" in details
    assert "micros of nobody" not in details
    assert house.books.trace == "4bf92f3577b34da6a3ce929d0e0e4736"
    # An unusable one begins a trace of its own.
    await show(channel, "x", metadata=(("traceparent", "00-zz"),))
    assert house.books.trace not in (None, "4bf92f3577b34da6a3ce929d0e0e4736")
    counted = house.metrics.get_sample_value(
        "farthing_cloud_calls_total", {"method": "/farthing.v1.Ledger/ShowAccount", "code": "INTERNAL"}
    )
    assert counted == 1


async def test_health_on_both_and_reflection_inside(house: House) -> None:
    for channel in (house.as_party("gw-1", house.door_address), house.as_party("alice", house.office_address)):
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    request = reflection_pb2.ServerReflectionRequest(list_services="")
    inside = reflection_pb2_grpc.ServerReflectionStub(house.as_party("alice", house.office_address))
    async for answer in inside.ServerReflectionInfo(iter([request])):
        assert "farthing.v1.Ledger" in {service.name for service in answer.list_services_response.service}
    outside = reflection_pb2_grpc.ServerReflectionStub(house.as_party("gw-1", house.door_address))
    code, _ = await refused(outside.ServerReflectionInfo(iter([request])).read())
    assert code == grpc.StatusCode.UNIMPLEMENTED


async def test_a_taken_port_and_an_unlisted_method_are_no_start(house: House) -> None:
    keeper = Doorkeeper(
        table=make_table({}),
        issuers=Issuers(root=house.roots, issuing=house.cloud.party.certificate("issuing")),
        admission=None,
        metrics=CallMetrics(CollectorRegistry()),
    )
    transport = Transport(token=house.cloud, roots=house.roots, directory=None, common_name="test-again", server=True)
    with pytest.raises(ListenError, match="another process has that port"):
        ListenerServer(
            name="door", address=house.door_address, credentials=transport.server_credentials(), keeper=keeper
        )
    listener = ListenerServer(
        name="door", address="127.0.0.1:0", credentials=transport.server_credentials(), keeper=keeper
    )

    def add(servicer: object, server: Any) -> None:
        server.add_registered_method_handlers("farthing.v1.Unheard", {"Of": None})

    with pytest.raises(CallerTableError, match=r"farthing\.v1\.Unheard/Of"):
        await listener.start([(add, object(), "door")], table=make_table({}), reflect=False)
    await listener.stop(0)
    transport.remove()


async def test_a_channel_takes_up_a_new_certificate(house: House) -> None:
    transport = Transport(
        token=house.cloud,
        roots=house.roots,
        directory=None,
        common_name="test-renewed",
        uris=("spiffe://farthing/service/fraud",),
        server=False,
    )

    class Impatient:
        renewals = 0

        @property
        def due(self) -> bool:
            return True

        def client_credentials(self) -> grpc.ChannelCredentials:
            self.renewals += 1
            transport.remove()
            return transport.client_credentials()

    identity = Impatient()
    channel = RenewingChannel(house.office_address, identity)
    stub = ledger_pb2_grpc.LedgerStub(channel)
    for _ in range(3):
        assert (await stub.ShowAccount(ledger_pb2.ShowAccountRequest())).account.account_id == "fraud"
    assert identity.renewals == 3
    await channel.close(None)
    transport.remove()
