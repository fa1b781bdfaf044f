"""The uplink against a cloud of our own making, over mTLS with the key in the token: cuts, repeats, gaps, forgeries."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import aio

from farthing.device.cose import VerifyingKey, key_id, to_be_signed
from farthing.evidence.batches import batch_hash, decompress_leaves
from farthing.hsm import Hsm, Token
from farthing.hsm.tls import channel_credentials
from farthing.hsm.transport import make_transport_key
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing.v1.gateway_sync_pb2_grpc import (
    GatewaySyncServicer,
    GatewaySyncStub,
    add_GatewaySyncServicer_to_server,
)
from farthing_edge.authorization.commands import (
    Connected,
    DirectiveArrived,
    HeadArrived,
    QuotaAnswered,
    ReceiptArrived,
    UplinkChanged,
)
from farthing_edge.authorization.events import DirectiveApplied
from farthing_edge.config import UplinkSection
from farthing_edge.metrics import Metrics
from farthing_edge.uplink import rewinding
from farthing_edge.uplink.session import Position, Uplink
from farthing_hsm_sim.ceremony import Parties, hold
from farthing_hsm_sim.plan import Plan

pytestmark = pytest.mark.real

GATEWAY = "gw-1"
ZERO = bytes(32)


@pytest.fixture(scope="session")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return hold(Plan(gateways=(GATEWAY,), shared_tokens=True), tmp_path_factory.mktemp("uplink") / "parties")


@pytest.fixture(scope="module")  # one a process, and other modules have their own
def hsm(parties: Parties) -> Any:
    with Hsm.of(parties.gateways[GATEWAY]) as running:
        yield running


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that rings no bell."""
    async with asyncio.timeout(60):
        while not condition():
            # The other side needs the processor: a loop that spins takes it from it.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.002):
                    await asyncio.Event().wait()


@dataclass(frozen=True)
class Row:
    sequence: int
    batch: bytes
    signature: bytes = bytes(64)
    key_id: bytes = bytes(8)


@dataclass(frozen=True)
class Request:
    counter: int
    account_id: str = "P"
    currency: str = "EUR"
    wanted_micros: int = 5_000_000


@dataclass
class Gateway:
    """What the uplink needs of an engine, kept in memory."""

    heard: list[object] = field(default_factory=list)
    incarnation: int = 1
    version: int = 0
    directive_hash: bytes = ZERO
    rows: list[Row] = field(default_factory=list)
    receipted: int = 0
    suspects_rollback: bool = False
    keys: list[VerifyingKey] = field(default_factory=list)
    requests: dict[int, Request] = field(default_factory=dict)
    request_counter: int = 0
    applied: list[DirectiveApplied] = field(default_factory=list)
    receipt: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    earlier: dict[int, list[Row]] = field(default_factory=dict)
    #: (incarnation, sequence): what the journal does not have any more.
    gone: set[tuple[int, int]] = field(default_factory=set)
    #: (incarnation, sequence): what was asked for.
    detail_read: list[tuple[int, int]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def submit(self, command: Any, /) -> None:
        self.heard.append(command)
        match command:
            case DirectiveArrived():
                self.version, self.directive_hash = command.body.version, batch_hash(command.raw)
                self.applied.append(DirectiveApplied(self.version, command.raw, command.signature, command.key_id))
                if command.body.WhichOneof("body") == "welcome":
                    self.incarnation = command.body.welcome.incarnation
                    self.keys = [VerifyingKey.from_spki(each) for each in command.body.welcome.receipt_keys]
            case ReceiptArrived():
                self.receipted = max(self.receipted, command.receipt.sequence)
                self.receipt = (command.raw, command.signature, command.key_id)
            case QuotaAnswered():
                self.requests.pop(command.counter, None)
        await self.tell()

    async def tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(condition)

    async def seal(self, count: int) -> None:
        for _ in range(count):
            sequence = len(self.rows) + 1
            self.rows.append(Row(sequence=sequence, batch=b"batch %d" % sequence))
        await self.tell()

    def position(self) -> Position:
        return Position(
            incarnation=self.incarnation,
            start_id=bytes(16),
            position=9,
            directive_version=self.version,
            directive_hash=self.directive_hash,
            last_sealed_sequence=len(self.rows),
            suspects_rollback=self.suspects_rollback,
        )

    def receipt_keys(self) -> Sequence[VerifyingKey]:
        return self.keys

    def receipted_sequence(self) -> int:
        return self.receipted

    async def batches_to_send(self, after_sequence: int, most: int, /) -> Sequence[Row]:
        return self.rows[after_sequence : after_sequence + most]

    async def directives(self, after_version: int, most: int, /) -> Sequence[DirectiveApplied]:
        return [row for row in self.applied if row.version > after_version][:most]

    async def directive_links(self) -> Sequence[tuple[int, bytes]]:
        return [(row.version, batch_hash(row.raw)) for row in reversed(self.applied)]

    def last_receipt(self) -> tuple[bytes, bytes, bytes]:
        return self.receipt

    async def earlier_incarnations(self) -> Sequence[int]:
        return sorted(self.earlier)

    async def earlier_batches(self, incarnation: int, after_sequence: int, most: int, /) -> Sequence[Row]:
        return self.earlier[incarnation][after_sequence : after_sequence + most]

    async def wait_for_batch(self, after_sequence: int, /) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.rows) > after_sequence)

    def outstanding_quota_requests(self) -> Sequence[Request]:
        return list(self.requests.values())

    async def wait_for_quota_request(self, after_counter: int, /) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.request_counter > after_counter)

    async def ask(self, counter: int) -> None:
        self.requests[counter] = Request(counter=counter)
        self.request_counter = counter
        await self.tell()

    async def detail(self, incarnation: int, sequence: int, /) -> Sequence[bytes] | None:
        self.detail_read.append((incarnation, sequence))
        if (incarnation, sequence) in self.gone:
            return None
        return [b"leaf of %d" % sequence] if incarnation == self.incarnation else [b"%d/%d" % (incarnation, sequence)]

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.heard if isinstance(each, kind)]


class Cloud(GatewaySyncServicer):
    """A cloud that signs properly, and breaks on request."""

    def __init__(self, token: Token, parties: Parties) -> None:
        self.token = token
        self.receipt_spki = parties.cloud.public_key("receipt")
        self.directive_spki = parties.cloud.public_key("directive")
        self.chain: list[directive_pb2.SignedDirective] = []
        self.posted: dict[int, bytes] = {}
        self.pushed: list[int] = []
        self.proven: dict[int, list[bytes]] = {}
        self.asked: list[int] = []
        #: Detail as it came: (incarnation, sequence, leaves), or why there is none.
        self.detail: list[tuple[int, int, list[bytes] | str]] = []
        self.wants_detail: list[tuple[int, int]] = []
        #: Detail is answered while this is set.
        self.answers_detail = asyncio.Event()
        self.answers_detail.set()
        self.incarnation = 1
        self.standing = gateway_sync_pb2.HELLO_STANDING_UNSPECIFIED
        self.hellos: list[gateway_sync_pb2.HelloRequest] = []
        self.more = asyncio.Condition()
        self.streams: set[asyncio.Task[Any]] = set()
        self.repeat_receipts = False
        self.break_after: int | None = None
        self.heads: list[directive_pb2.SignedDirectiveHead] = []
        self.links: list[tuple[int, bytes]] = []
        self.shown: list[directive_pb2.SignedDirective] = []
        self.receipts_shown: list[batch_pb2.SignedReceipt] = []
        #: Where a restored ledger wants batches again: by incarnation.
        self.wanted: dict[int, int] | None = None
        #: Batches that are not taken, and what their gateway hears.
        self.refuses: dict[bytes, grpc.StatusCode] = {}
        #: Showings that end before their last directive.
        self.showings_refused = 0

    async def sign(self, kind: Any, recipient: str, raw: bytes, label: str) -> bytes:
        return await self.token.sign(label, to_be_signed(kind, recipient, raw))

    async def direct(self, **body: Any) -> directive_pb2.SignedDirective:
        version = body.pop("version", len(self.chain) + 1)
        previous = body.pop("previous_hash", hashlib.sha256(self.chain[-1].directive).digest() if self.chain else ZERO)
        gateway_id = body.pop("gateway_id", GATEWAY)
        label = body.pop("label", "directive")
        raw = directive_pb2.Directive(
            gateway_id=gateway_id, version=version, previous_hash=previous, dated_at_us=1, **body
        ).SerializeToString()
        signed = directive_pb2.SignedDirective(
            directive=raw,
            signature=await self.sign("directive", gateway_id, raw, label),
            key_id=key_id(self.directive_spki),
        )
        self.chain.append(signed)
        async with self.more:
            self.more.notify_all()
        return signed

    async def head(self, digest: bytes) -> None:
        raw = directive_pb2.DirectiveHead(gateway_id=GATEWAY, version=1, hash=digest, at_us=77).SerializeToString()
        signature = await self.sign("directive-head", GATEWAY, raw, "directive")
        self.heads.append(
            directive_pb2.SignedDirectiveHead(head=raw, signature=signature, key_id=key_id(self.directive_spki))
        )
        async with self.more:
            self.more.notify_all()

    async def welcome(self) -> None:
        await self.direct(
            welcome=directive_pb2.Welcome(
                operator_id="op", site_id="S1", incarnation=1, receipt_keys=[self.receipt_spki]
            )
        )

    async def receipt(
        self, sequence: int, digest: bytes, *, label: str = "receipt", incarnation: int = 1
    ) -> batch_pb2.SignedReceipt:
        raw = batch_pb2.Receipt(
            ledger_epoch=1, gateway_id=GATEWAY, incarnation=incarnation, sequence=sequence, batch_hash=digest
        ).SerializeToString()
        return batch_pb2.SignedReceipt(
            receipt=raw,
            signature=await self.sign("receipt", GATEWAY, raw, label),
            key_id=key_id(self.receipt_spki),
        )

    async def Hello(self, request: Any, context: Any) -> gateway_sync_pb2.HelloResponse:  # noqa: N802, ARG002 gRPC's signature
        self.hellos.append(request)
        return gateway_sync_pb2.HelloResponse(
            standing=self.standing,
            incarnation=self.incarnation,
            ledger_epoch=1,
            posted_sequence=max(self.posted, default=0),
            proven_sequence=max(self.proven, default=0),
            wants_batches=self.wanted is not None,
            wants_detail=[
                gateway_sync_pb2.UnprovenBatch(incarnation=incarnation, sequence=sequence)
                for incarnation, sequence in self.wants_detail
            ],
            earlier=[
                gateway_sync_pb2.PostedChain(incarnation=incarnation, posted_sequence=posted)
                for incarnation, posted in (self.wanted or {}).items()
            ],
        )

    async def PushBatches(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 gRPC's signature
        async for signed in request_iterator:
            sequence = int(signed.batch.split()[1])
            self.pushed.append(sequence)
            if signed.batch in self.refuses:
                await context.abort(self.refuses[signed.batch], f"not batch {sequence}")
            if signed.batch.startswith(b"earlier"):
                incarnation = int(signed.batch.split()[3])
                if self.wanted is not None:
                    self.wanted[incarnation] = sequence
                yield await self.receipt(sequence, batch_hash(signed.batch), incarnation=incarnation)
                continue
            self.posted.setdefault(sequence, signed.batch)
            if self.break_after is not None and sequence >= self.break_after:
                self.break_after = None
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut before the receipt")
            answer = await self.receipt(sequence, batch_hash(signed.batch), incarnation=self.incarnation)
            yield answer
            if self.repeat_receipts:
                yield answer

    async def FollowDirectives(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802, ARG002 gRPC's signature
        sent = request.after_version
        while True:
            while sent < len(self.chain):
                yield gateway_sync_pb2.FollowDirectivesResponse(directive=self.chain[sent])
                sent += 1
            while self.heads:
                yield gateway_sync_pb2.FollowDirectivesResponse(head=self.heads.pop())
            async with self.more:
                while sent >= len(self.chain) and not self.heads:
                    await self.more.wait()

    async def ShowDirectives(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 gRPC's signature
        first = await anext(request_iterator)
        self.links = [(link.version, link.hash) for link in first.links]
        self.receipts_shown.append(first.last_receipt)
        known = {batch_hash(each.directive): place for place, each in enumerate(self.chain, 1)}
        after = max((known.get(digest, 0) for _, digest in self.links), default=0)
        yield gateway_sync_pb2.ShowDirectivesResponse(after_version=after)
        async for request in request_iterator:
            if self.showings_refused:
                self.showings_refused -= 1
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "say hello again")
            self.chain[after:] = []
            self.shown += request.directives
            if request.last:
                break
        self.chain += self.shown
        self.standing = gateway_sync_pb2.HELLO_STANDING_AGREED
        yield gateway_sync_pb2.ShowDirectivesResponse(after_version=after, directives=len(self.shown))

    async def RequestQuota(self, request: Any, context: Any) -> gateway_sync_pb2.RequestQuotaResponse:  # noqa: N802, ARG002 gRPC's signature
        self.asked.append(request.counter)
        return gateway_sync_pb2.RequestQuotaResponse(answer=gateway_sync_pb2.QUOTA_ANSWER_GRANTED)

    async def UploadEvidence(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802, ARG002 gRPC's signature
        async for upload in request_iterator:
            said = upload.gone or decompress_leaves(upload.compressed_leaves)
            self.detail.append((upload.incarnation, upload.sequence, said))
            async with self.more:
                self.more.notify_all()
            await self.answers_detail.wait()
            if not upload.gone and upload.incarnation == self.incarnation:
                self.proven[upload.sequence] = decompress_leaves(upload.compressed_leaves)
            yield gateway_sync_pb2.UploadEvidenceResponse(
                incarnation=upload.incarnation, sequence=upload.sequence, verified=not upload.gone, fault=upload.gone
            )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self.more:
            await self.more.wait_for(condition)


class Relay:
    """Between gateway and cloud: passes, refuses (closes) or swallows."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.server: asyncio.Server | None = None
        self.port = 0
        self.open = asyncio.Event()
        self.open.set()
        self.connections: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        assert self.server is not None
        self.server.close()
        for each in list(self.connections):
            each.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self.connections |= {writer, up_writer}
        for pair in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(self._pump(*pair))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self.open.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
        for each in list(self.connections):
            each.transport.abort()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@dataclass
class Line:
    """The time of the uplink's pace: it moves when somebody waits, and the gate is open."""

    now_ns: int = 0
    waiting: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def sleep(self, seconds: float) -> None:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        self.now_ns += int(seconds * 1e9)


@dataclass
class World:
    line: Line
    cloud: Cloud
    gateway: Gateway
    relay: Relay
    uplink: Uplink
    metrics: Metrics
    site_keys: list[directive_pb2.SiteKey]


@pytest.fixture
async def world(hsm: Hsm, parties: Parties, tmp_path: Any, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """With a parameter: what may go up a second."""
    line = Line()
    cloud_token, party = hsm.attach(parties.cloud), parties.gateways[GATEWAY]
    token = hsm.attach(party)
    roots = party.certificate("ca")
    key = make_transport_key(
        cloud_token,
        "issuing",
        issuer_certificate=parties.cloud.certificate("issuing"),
        roots=roots,
        directory=tmp_path,
        common_name="door",
        dns_names=("localhost",),
        addresses=("127.0.0.1",),
        server=True,
        client=False,
    )
    server = aio.server()
    cloud = Cloud(cloud_token, parties)
    add_GatewaySyncServicer_to_server(cloud, server)
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(key.key_file.read_bytes(), key.certificate_file.read_bytes())], roots, require_client_auth=True
        ),
    )
    await server.start()
    relay = Relay(port)
    await relay.start()
    gateway, metrics, site_keys = Gateway(), Metrics(), []

    async def obey(site_key: directive_pb2.SiteKey) -> None:
        site_keys.append(site_key)

    uplink = Uplink(
        gateway=GATEWAY,  # type: ignore[arg-type]  # an id is a str
        section=UplinkSection(
            address=f"127.0.0.1:{relay.port}",
            keepalive_s=1.0,
            keepalive_timeout_s=1.0,
            min_backoff_s=0.02,
            max_backoff_s=0.1,
            evidence_quiet_s=0.0,
            batches_in_flight=4,
            details_in_flight=3,
            bytes_per_s=getattr(request, "param", None),
        ),
        engine=gateway,
        directive_key=VerifyingKey.from_spki(cloud.directive_spki),
        make_credentials=lambda: channel_credentials(
            token, "tls", certificate_chain=party.certificate("tls"), roots=roots
        ),
        obey_site_key=obey,
        metrics=metrics,
        now_ns=lambda: line.now_ns,
        sleep=line.sleep,
    )
    gateway.keys = [VerifyingKey.from_spki(cloud.receipt_spki)]
    running = asyncio.create_task(uplink.run())
    yield World(
        line=line, cloud=cloud, gateway=gateway, relay=relay, uplink=uplink, metrics=metrics, site_keys=site_keys
    )
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await relay.stop()
    await server.stop(0)


async def test_a_new_gateway_is_welcomed_and_its_batches_are_receipted_and_proven(world: World) -> None:
    world.gateway.incarnation = 0
    await world.cloud.welcome()
    await world.gateway.seal(3)
    await world.gateway.until(lambda: world.gateway.receipted == 3)

    assert world.gateway.incarnation == 1
    assert world.cloud.pushed == [1, 2, 3]
    await until(lambda: len(world.cloud.proven) >= 3)
    assert world.cloud.proven == {n: [b"leaf of %d" % n] for n in (1, 2, 3)}


async def test_what_is_drawn_goes_before_other_detail_and_what_earlier_incarnations_owe_after_it(world: World) -> None:
    cloud, gateway = world.cloud, world.gateway
    cloud.wants_detail = [(0, 4), (0, 9)]
    gateway.gone = {(0, 9), (1, 2)}
    cloud.answers_detail.clear()
    await gateway.seal(6)
    # The first three's detail is on its way, and no more goes before an answer.
    await until(lambda: gateway.detail_read == [(1, 1), (1, 2), (1, 3)])
    await cloud.direct(audit_drawn=directive_pb2.AuditDrawn(incarnation=1, sequence=5, batch_hash=bytes(32)))
    await gateway.until(lambda: gateway.version == 1 and gateway.receipted == 6)
    assert len(gateway.detail_read) == 3
    cloud.answers_detail.set()
    await cloud.until(lambda: len(cloud.detail) == 9)
    missing = "the journal does not have all of it"
    assert cloud.detail == [
        (1, 1, [b"leaf of 1"]),
        (1, 2, missing),
        (1, 3, [b"leaf of 3"]),
        (1, 5, [b"leaf of 5"]),
        (1, 4, [b"leaf of 4"]),
        (1, 5, [b"leaf of 5"]),
        (1, 6, [b"leaf of 6"]),
        (0, 4, [b"0/4"]),
        (0, 9, missing),
    ]


async def test_what_was_drawn_stays_drawn_over_a_cut(world: World) -> None:
    cloud, gateway = world.cloud, world.gateway
    await gateway.seal(1)
    await cloud.until(lambda: len(cloud.detail) == 1)
    cloud.answers_detail.clear()
    await cloud.direct(audit_drawn=directive_pb2.AuditDrawn(incarnation=0, sequence=7, batch_hash=bytes(32)))
    await cloud.until(lambda: len(cloud.detail) == 2)
    await world.relay.refuse()
    await world.relay.start()
    cloud.answers_detail.set()
    await cloud.until(lambda: len(cloud.detail) >= 3)
    assert cloud.detail[1][:2] == cloud.detail[2][:2] == (0, 7)


async def test_a_cut_before_the_receipt_sends_the_same_batch_again(world: World) -> None:
    world.cloud.break_after = 2
    await world.gateway.seal(5)
    await world.gateway.until(lambda: world.gateway.receipted == 5)

    assert set(world.cloud.posted) == {1, 2, 3, 4, 5}
    assert world.cloud.pushed.count(2) == 2
    online = [each.online for each in world.gateway.of(UplinkChanged)]
    assert online[:3] == [True, False, True]


async def test_repeated_receipts_do_no_harm(world: World) -> None:
    world.cloud.repeat_receipts = True
    await world.gateway.seal(12)
    await world.gateway.until(lambda: world.gateway.receipted == 12)
    assert world.cloud.pushed == list(range(1, 13))


async def test_a_line_that_refuses_is_survived(world: World) -> None:
    await world.gateway.seal(1)
    await world.gateway.until(lambda: world.gateway.receipted == 1)
    await world.relay.refuse()
    await world.gateway.until(lambda: [each.online for each in world.gateway.of(UplinkChanged)][-1:] == [False])
    await world.gateway.seal(2)
    await world.relay.start()
    await world.gateway.until(lambda: world.gateway.receipted == 3)
    assert world.uplink.online


async def test_a_line_that_swallows_is_found_out_and_survived(world: World) -> None:
    await world.gateway.seal(1)
    await world.gateway.until(lambda: world.gateway.receipted == 1)
    world.relay.open.clear()
    await world.gateway.seal(2)
    await world.gateway.until(lambda: [each.online for each in world.gateway.of(UplinkChanged)][-1:] == [False])
    world.relay.open.set()
    await world.gateway.until(lambda: world.gateway.receipted == 3)


async def test_directives_arrive_in_order_and_a_site_key_before_it_is_journaled(world: World) -> None:
    await world.cloud.welcome()
    await world.cloud.direct(site_key=directive_pb2.SiteKey(site_id="S1", epoch=1))
    await world.cloud.direct(seal=directive_pb2.SealPolicy(records=5))
    await world.gateway.until(lambda: world.gateway.version == 3)
    assert [each.body.version for each in world.gateway.of(DirectiveArrived)] == [1, 2, 3]
    assert [each.epoch for each in world.site_keys] == [1]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"version": 3}, "there is a gap"),
        ({"previous_hash": bytes([1]) * 32}, "does not follow"),
        ({"gateway_id": "gw-2"}, "signature does not hold"),
        ({"label": "receipt"}, "signature does not hold"),
    ],
)
async def test_what_does_not_fit_the_chain_is_not_taken(world: World, wrong: dict[str, Any], why: str) -> None:
    await world.cloud.welcome()
    await world.gateway.until(lambda: world.gateway.version == 1)
    await world.cloud.direct(seal=directive_pb2.SealPolicy(records=5), **wrong)
    await until(lambda: why in world.uplink.fault)
    assert world.gateway.version == 1

    # The cloud mends its chain: the gateway, which has kept trying, goes on.
    world.cloud.chain.pop()
    await world.cloud.direct(seal=directive_pb2.SealPolicy(records=5))
    await world.gateway.until(lambda: world.gateway.version == 2)


async def test_heads_say_how_fresh_the_chain_is_and_another_chain_is_noticed(world: World) -> None:
    await world.cloud.welcome()
    await world.gateway.until(lambda: world.gateway.version == 1)

    await world.cloud.head(world.gateway.directive_hash)
    await world.gateway.until(lambda: world.gateway.of(HeadArrived) == [HeadArrived(version=1, at=77)])  # type: ignore[arg-type]  # an instant is an int
    await world.cloud.head(bytes(32))
    await until(lambda: "another one than ours" in world.uplink.fault)


async def test_a_quota_request_is_asked_once_a_session_until_it_is_answered(world: World) -> None:
    await world.gateway.ask(4)
    await world.gateway.until(lambda: not world.gateway.requests)
    await world.gateway.ask(5)
    await world.gateway.until(lambda: not world.gateway.requests)
    assert world.cloud.asked == [4, 5]


async def test_a_receipt_that_the_welcomed_key_did_not_sign_is_not_believed(world: World) -> None:
    world.gateway.keys = [VerifyingKey.from_spki(world.cloud.directive_spki)]
    await world.gateway.seal(1)
    await until(lambda: "which no welcome named" in world.uplink.fault)
    assert world.gateway.of(ReceiptArrived) == []
    assert world.gateway.of(Connected)


async def test_who_has_to_wait_follows_directives_and_pushes_nothing_meanwhile(world: World) -> None:
    world.cloud.standing = gateway_sync_pb2.HELLO_STANDING_WAITS
    await world.relay.refuse()
    await world.relay.start()
    await until(lambda: bool(world.cloud.hellos) and world.uplink.online)
    await world.gateway.seal(2)
    await world.cloud.welcome()
    await world.gateway.until(lambda: world.gateway.version == 1)
    assert world.cloud.pushed == []
    assert all(hello.hears_standing and not hello.suspects_rollback for hello in world.cloud.hellos)
    world.cloud.standing = gateway_sync_pb2.HELLO_STANDING_AGREED
    await world.relay.refuse()
    await world.relay.start()
    await world.gateway.until(lambda: world.gateway.receipted == 2)


async def test_a_suspicion_that_came_after_hello_is_said_in_the_next_one(world: World) -> None:
    await world.cloud.welcome()
    await world.gateway.until(lambda: world.gateway.version == 1)
    await until(lambda: world.uplink.online)
    world.gateway.suspects_rollback = True
    before = len(world.cloud.hellos)
    await world.cloud.head(world.gateway.directive_hash)
    await until(lambda: len(world.cloud.hellos) > before)
    assert world.cloud.hellos[-1].suspects_rollback


@pytest.mark.parametrize("world", [1_000], indirect=True)
async def test_a_backlog_drains_within_the_cap_and_live_traffic_goes_on(world: World) -> None:
    """The line is full: what has to be said at once is said, detail yields to batches, and all of it arrives at the pace of the cap."""
    await until(lambda: world.uplink.online)
    await world.gateway.seal(30)
    # A batch and detail: both wait.
    await until(lambda: world.line.waiting == 2)
    sent = world.metrics.batches_sent._value.get()
    assert 0 < sent <= 7
    # Nothing may go up now; quota requests and directives do not wait for that.
    await world.gateway.ask(1)
    await world.gateway.until(lambda: not world.gateway.requests)
    await world.cloud.welcome()
    await world.gateway.until(lambda: world.gateway.version == 1)
    assert world.metrics.batches_sent._value.get() == sent
    await world.gateway.until(lambda: world.gateway.receipted == sent)
    backlog = 30 - world.gateway.receipted
    size, drains_in_s = world.uplink.measure(backlog)
    assert size == pytest.approx(backlog * 86, rel=0.1)
    assert drains_in_s >= 0
    assert world.metrics.backlog_bytes._value.get() == size

    world.line.gate.set()
    await world.gateway.until(lambda: world.gateway.receipted == 30)
    # A use that is billed while detail waits does not wait for it.
    await world.gateway.seal(1)
    await world.gateway.until(lambda: world.gateway.receipted == 31)
    assert world.cloud.pushed == list(range(1, 32))
    await until(lambda: len(world.cloud.proven) == 31)
    sent_bytes = sum(
        world.metrics.sent_bytes.labels(what)._value.get() for what in ("batches", "detail", "quota_requests")
    )
    assert world.line.now_ns / 1e9 >= (sent_bytes + 63 * 64) / 1_000 - 1 - 0.2
    assert world.uplink.measure(0) == (0, 0.0)


async def test_a_restored_ledger_is_shown_what_it_signed_and_gets_every_batch_again(world: World) -> None:
    cloud, gateway = world.cloud, world.gateway
    gateway.incarnation = 0
    await cloud.welcome()
    for records in range(70):  # more than one message takes
        await cloud.direct(seal=directive_pb2.SealPolicy(records=records))
    await gateway.seal(3)
    await gateway.until(lambda: gateway.receipted == 3 and gateway.version == 71)
    signed = list(cloud.chain)
    receipt = gateway.receipt
    hellos = len(cloud.hellos)

    # The ledger is that of some time ago: two directives, one batch.
    cloud.chain[2:] = []
    cloud.posted = {1: cloud.posted[1]}
    cloud.pushed.clear()
    cloud.standing = gateway_sync_pb2.HELLO_STANDING_REWIND
    await world.relay.refuse()
    await world.relay.start()
    await until(lambda: len(cloud.posted) == 3)

    told = cloud.hellos[hellos]
    assert told.last_directive == signed[-1]
    assert (told.last_receipt.receipt, told.last_receipt.signature, told.last_receipt.key_id) == receipt
    assert cloud.receipts_shown == [told.last_receipt]
    assert cloud.links[0] == (71, batch_hash(signed[-1].directive))
    assert cloud.shown == signed[2:]
    assert cloud.pushed == [2, 3]
    assert gateway.version == 71


def earlier(incarnation: int, count: int) -> list[Row]:
    """A chain of an earlier incarnation."""
    return [Row(sequence=n, batch=b"earlier %d of %d" % (n, incarnation)) for n in range(1, count + 1)]


async def test_batches_of_earlier_incarnations_come_first(world: World) -> None:
    cloud, gateway = world.cloud, world.gateway
    await world.relay.refuse()
    gateway.earlier = {0: earlier(0, 3)}
    cloud.wanted = {0: 1}
    await gateway.seal(2)
    await world.relay.start()
    await until(lambda: len(cloud.pushed) == 4)
    # Of the earlier one what is missing; of the present one everything.
    assert cloud.pushed == [2, 3, 1, 2]


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
    ],
)
async def test_an_earlier_chain_that_is_refused_for_good_holds_nothing_else_up(
    world: World, code: grpc.StatusCode
) -> None:
    """A fork: the restored ledger has another batch in its place. Every session ended there, and nothing followed it up or down."""
    cloud, gateway = world.cloud, world.gateway
    await world.relay.refuse()
    gateway.incarnation = cloud.incarnation = 3
    gateway.earlier = {1: earlier(1, 40), 2: earlier(2, 2)}
    cloud.wanted = {1: 2}
    cloud.refuses = {b"earlier 3 of 1": code}
    await gateway.seal(1)
    await world.relay.start()
    await cloud.direct(seal=directive_pb2.SealPolicy(records=5))
    await gateway.until(lambda: gateway.version == 1 and gateway.receipted == 1)
    assert cloud.pushed == [3, 1, 2, 1]
    assert len(cloud.hellos) == 1


async def test_an_earlier_chain_is_followed_as_far_as_it_is_taken(world: World) -> None:
    """What is being written when the cloud refuses may hide why, once: the next session begins where this one ended."""
    cloud, gateway = world.cloud, world.gateway
    await world.relay.refuse()
    gateway.earlier = {0: earlier(0, 40)}
    cloud.wanted = {}
    cloud.refuses = {b"earlier 7 of 0": grpc.StatusCode.ALREADY_EXISTS}
    await gateway.seal(1)
    await world.relay.start()
    await gateway.until(lambda: gateway.receipted == 1)
    assert cloud.wanted == {0: 6}
    assert len(cloud.hellos) <= 2


async def test_an_earlier_chain_that_has_to_wait_is_sent_once_more(world: World) -> None:
    """Another gateway has not yet shown a restored ledger what it was told: that passes, and the order stays."""
    cloud, gateway = world.cloud, world.gateway
    await world.relay.refuse()
    gateway.earlier = {0: earlier(0, 3)}
    cloud.wanted = {}
    cloud.refuses = {b"earlier 2 of 0": grpc.StatusCode.FAILED_PRECONDITION}
    await world.relay.start()
    await until(lambda: len(cloud.hellos) == 3)
    assert set(cloud.pushed) == {1, 2}
    cloud.refuses = {}
    await gateway.seal(1)
    await gateway.until(lambda: gateway.receipted == 1)
    assert cloud.pushed[-3:] == [2, 3, 1]


async def test_a_showing_that_the_cloud_ends_while_directives_are_written_says_why(world: World) -> None:
    """Writing to a call that is over is an error of its own: it ended the whole gateway."""
    cloud, gateway = world.cloud, world.gateway
    await cloud.welcome()
    for records in range(rewinding.DIRECTIVES_AT_ONCE * 3):
        await cloud.direct(seal=directive_pb2.SealPolicy(records=records))
    await gateway.until(lambda: gateway.version == len(cloud.chain))
    cloud.chain[1:] = []
    cloud.showings_refused = 1
    server = aio.server()
    add_GatewaySyncServicer_to_server(cloud, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        showing = GatewaySyncStub(channel).ShowDirectives()

        class Slow(Gateway):
            """The call is over before the second page is read."""

            async def directives(self, after_version: int, most: int, /) -> Sequence[DirectiveApplied]:
                if after_version > rewinding.DIRECTIVES_AT_ONCE:
                    await showing.code()
                return await super().directives(after_version, most)

        slow = Slow(applied=gateway.applied)
        stub = SimpleNamespace(ShowDirectives=lambda *, timeout: showing)  # noqa: ARG005  # gRPC's name
        with pytest.raises(aio.AioRpcError, match="say hello again"):
            await rewinding.show(stub, slow, gateway.version, timeout_s=60)  # type: ignore[arg-type]  # the one call of it
    await server.stop(0)
