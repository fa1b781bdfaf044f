"""One connection with the cloud after another: batches up, receipts and directives down.

Rule 1: a connection is one attempt: whatever breaks ends it whole, and the next one begins with Hello and goes on from the
high-water marks that both sides keep. So nothing is lost by a cut, and what was under way is sent again.
Rule 2: a line that swallows is found out by keepalive within seconds; a line that refuses by the refusal. Both are tried again for
ever, with a capped wait.
Rule 3: nothing from the cloud is believed before its signature held (``uplink.signed``).
Rule 4: directives and receipts first, batches next, detail when the rest is quiet; within ``bytes_per_s`` (``uplink.pace``).
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import structlog

from farthing.device.cose import VerifyingKey
from farthing.evidence.batches import batch_hash
from farthing.hsm import HsmError
from farthing.ids import GatewayId
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_edge.authorization.commands import (
    Connected,
    DirectiveArrived,
    HeadArrived,
    QuotaAnswered,
    ReceiptArrived,
    UplinkChanged,
)
from farthing_edge.backoff import Backoff
from farthing_edge.config import UplinkSection
from farthing_edge.metrics import Metrics
from farthing_edge.uplink import rewinding
from farthing_edge.uplink.detail import DetailUpload
from farthing_edge.uplink.ending import SessionOver, ending
from farthing_edge.uplink.pace import Pace, Progress
from farthing_edge.uplink.rewinding import SignedBatch
from farthing_edge.uplink.signed import NotSigned, check_directive, check_head, check_receipt

if TYPE_CHECKING:
    # gRPC is a tenth of a gateway's start, and devices are answered without it: it is loaded beside the loop, by what runs (``run``).
    import grpc
    from grpc import aio

    from farthing.v1.gateway_sync_pb2_grpc import GatewaySyncAsyncStub

_log = structlog.get_logger(__name__)

#: Of one message. A batch of 2,000 records is below 300 kB, its compressed detail below 4 MB.
MAX_MESSAGE_SIZE = 16 * 1024 * 1024
#: Longest that a showing, or a bunch of batches of an earlier incarnation, may take: a hundred thousand directives are verified.
SHOWING_TIMEOUT_S = 600.0
#: Batches read from the journal at once.
BATCHES_READ = 64

Command: TypeAlias = Connected | UplinkChanged | DirectiveArrived | HeadArrived | ReceiptArrived | QuotaAnswered


class QuotaRequest(Protocol):
    """A request for money that has no answer yet."""

    @property
    def counter(self) -> int: ...
    @property
    def account_id(self) -> str: ...
    @property
    def currency(self) -> str: ...
    @property
    def wanted_micros(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far this gateway is, as Hello says it."""

    incarnation: int
    start_id: bytes
    position: int
    directive_version: int
    directive_hash: bytes
    last_sealed_sequence: int
    #: A witness proved that the journal went backwards.
    suspects_rollback: bool


class Engine(rewinding.Journal, Protocol):
    """What the uplink asks of the engine."""

    async def submit(self, command: Command, /) -> object:
        """Return when what follows from ``command`` is durable."""
        ...

    def position(self) -> Position:
        """How far this gateway is."""
        ...

    def receipted_sequence(self) -> int:
        """The highest batch receipted in this incarnation."""
        ...

    async def batches_to_send(self, after_sequence: int, most: int, /) -> Sequence[SignedBatch]:
        """Signed batches of this incarnation after a sequence, in order, no more than ``most``."""
        ...

    async def wait_for_batch(self, after_sequence: int, /) -> None:
        """Return when a batch after this sequence is signed."""
        ...

    def outstanding_quota_requests(self) -> Sequence[QuotaRequest]:
        """Requests without an answer."""
        ...

    async def wait_for_quota_request(self, after_counter: int, /) -> None:
        """Return when a request with a higher counter has been made, answered since or not."""
        ...

    async def detail(self, incarnation: int, sequence: int, /) -> Sequence[bytes] | None:
        """The leaves of a batch, rebuilt from the journal; None if it has none of it any more."""
        ...


class Uplink:
    """Keeps one session with the cloud alive for as long as it runs."""

    def __init__(
        self,
        *,
        gateway: GatewayId,
        section: UplinkSection,
        engine: Engine,
        directive_key: VerifyingKey,
        make_credentials: Callable[[], "grpc.ChannelCredentials"],
        obey_site_key: Callable[[directive_pb2.SiteKey], Awaitable[None]],
        metrics: Metrics,
        now_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._now_ns = now_ns
        self._pace = Pace(section.bytes_per_s, now_ns=now_ns, sleep=sleep)
        self._progress = Progress()
        self._gateway = gateway
        self._section = section
        self._engine = engine
        self._directive_key = directive_key
        self._make_credentials = make_credentials
        self._obey_site_key = obey_site_key
        self._metrics = metrics
        self.online = False
        #: Why the last session ended, for people; empty while there is one.
        self.fault = "not connected yet"
        self._detail = DetailUpload(
            section=section,
            pace=self._pace,
            metrics=metrics,
            detail=engine.detail,
            receipted_sequence=engine.receipted_sequence,
        )

    async def run(self) -> None:
        """Connect, sync, and connect again, until cancelled."""
        section = self._section
        backoff = Backoff(least_s=section.min_backoff_s, most_s=section.max_backoff_s)
        credentials = await asyncio.to_thread(self._make_credentials)
        await asyncio.to_thread(_load_grpc)
        from grpc import aio

        said = ""
        while True:
            cause = "over"
            try:
                await self._session(credentials, backoff)
            except* SessionOver as over:
                self.fault = _first(over)
            except* TimeoutError:
                cause = "line"
                self.fault = "no answer in time"
            except* aio.AioRpcError as err:
                cause = "line"
                self.fault = _describe(err)
            except* NotSigned as err:
                cause = "not_signed"
                self.fault = _first(err)
                self._metrics.directives_refused.inc()
            except* HsmError as err:
                cause = "token"
                self.fault = _first(err)
            self._metrics.uplink_breaks.labels(cause).inc()
            # One line per outage and cause, not one per attempt.
            if self.fault != said:
                tell = _log.info if cause == "over" else _log.warning
                tell("uplink_down", address=section.address, cause=cause, reason=self.fault)
                said = self.fault
            if self.online:
                said = ""
                self.online = False
                self._metrics.uplink_up.set(0)
                await self._engine.submit(UplinkChanged(online=False))
            await asyncio.sleep(backoff.next_s())

    async def _session(self, credentials: "grpc.ChannelCredentials", backoff: Backoff) -> None:
        from grpc import aio

        from farthing.v1.gateway_sync_pb2_grpc import GatewaySyncStub

        section = self._section
        async with aio.secure_channel(section.address, credentials, options=_options(section)) as channel:
            stub: GatewaySyncAsyncStub = GatewaySyncStub(channel)
            at = self._engine.position()
            hello: gateway_sync_pb2.HelloResponse = await stub.Hello(
                gateway_sync_pb2.HelloRequest(
                    incarnation=at.incarnation,
                    start_id=at.start_id,
                    position=at.position,
                    directive_version=at.directive_version,
                    last_sealed_sequence=at.last_sealed_sequence,
                    suspects_rollback=at.suspects_rollback,
                    hears_standing=True,
                    last_directive=await rewinding.last_directive(self._engine, at.directive_version),
                    last_receipt=rewinding.last_receipt(self._engine),
                ),
                timeout=section.call_timeout_s,
            )
            if hello.standing == gateway_sync_pb2.HELLO_STANDING_REWIND:
                await self._show(stub, at)
            await self._engine.submit(Connected(hello=hello))
            self._check_suspicion(at)
            self.online = True
            self.fault = ""
            self._metrics.uplink_up.set(1)
            backoff.reset()
            _log.info(
                "uplink_up",
                address=section.address,
                incarnation=hello.incarnation,
                posted=hello.posted_sequence,
                sealed=at.last_sealed_sequence,
            )
            await self._engine.submit(UplinkChanged(online=True))
            in_flight = InFlight(most=section.batches_in_flight)
            self._progress.began(self._now_ns())
            waits = hello.standing == gateway_sync_pb2.HELLO_STANDING_WAITS
            if waits:
                _log.warning("waiting_for_a_new_incarnation", reason=hello.waits_because)
            same = hello.incarnation == at.incarnation and not waits
            if same and hello.wants_batches:
                posted_before = {chain.incarnation: chain.posted_sequence for chain in hello.earlier}
                again = await rewinding.send_earlier(
                    stub, self._engine, self._gateway, posted_before, timeout_s=SHOWING_TIMEOUT_S
                )
                _log.info("earlier_batches_sent_again", batches=again)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ending(self._follow_directives(stub, at)))
                # A chain that the cloud does not know yet, or no longer, has nothing to say before its welcome.
                if same and at.incarnation > 0:
                    posted = min(hello.posted_sequence, at.last_sealed_sequence)
                    call = stub.PushBatches()  # type: ignore[call-arg]  # the stubs forget that aio's iterator is optional
                    tasks.create_task(ending(self._push(call, posted, in_flight)))
                    tasks.create_task(ending(self._take_receipts(call, at.incarnation, in_flight)))
                    earlier = [(batch.incarnation, batch.sequence) for batch in hello.wants_detail]
                    details = stub.UploadEvidence()  # type: ignore[call-arg]  # as above
                    self._detail.begin(at.incarnation, hello.proven_sequence)
                    tasks.create_task(ending(self._detail.send(details, earlier, lambda: len(in_flight))))
                    tasks.create_task(ending(self._detail.take_answers(details)))
                    tasks.create_task(ending(self._request_quotas(stub, at.incarnation)))

    async def _show(self, stub: "GatewaySyncAsyncStub", at: Position) -> None:
        """Hand back what the cloud signed and the restored ledger has lost; then this connection is over."""
        taken = await rewinding.show(stub, self._engine, at.directive_version, timeout_s=SHOWING_TIMEOUT_S)
        _log.warning(
            "the_ledger_was_restored",
            shown=taken.directives,
            quotas=taken.quotas,
            after_version=taken.after_version,
            directive_version=taken.directive_version,
        )
        raise SessionOver("the ledger was restored, and has seen what it told this gateway")

    # Down -------------------------------------------------------------------------------------------------------------

    def _check_suspicion(self, told: Position) -> None:
        """What this gateway has begun to suspect of its journal since it said hello, it says in the next one."""
        if self._engine.position().suspects_rollback and not told.suspects_rollback:
            raise SessionOver("the journal went backwards: a new incarnation is to be asked for")

    async def _follow_directives(self, stub: "GatewaySyncAsyncStub", told: Position) -> None:
        at = self._engine.position()
        incarnation = told.incarnation
        version, previous_hash = at.directive_version, at.directive_hash
        call = stub.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=version))
        async for response in call:
            item = response.WhichOneof("item")
            if item == "head":
                head = check_head(
                    response.head,
                    key=self._directive_key,
                    gateway=self._gateway,
                    version=version,
                    previous_hash=previous_hash,
                )
                await self._engine.submit(head)
                self._check_suspicion(told)
                continue
            if item != "directive":
                # A kind of a later version of the protocol, that is neither a directive nor a head.
                continue
            arrived = check_directive(
                response.directive,
                key=self._directive_key,
                gateway=self._gateway,
                version=version,
                previous_hash=previous_hash,
            )
            if arrived is None:
                continue
            if arrived.body.WhichOneof("body") == "site_key":
                # Into the token first: once journaled, it is obeyed.
                await self._obey_site_key(arrived.body.site_key)
            await self._engine.submit(arrived)
            if arrived.body.WhichOneof("body") == "audit_drawn":
                self._detail.draw(arrived.body.audit_drawn.incarnation, arrived.body.audit_drawn.sequence)
            version, previous_hash = arrived.body.version, batch_hash(arrived.raw)
            now_at = self._engine.position()
            if now_at.directive_version != version:
                raise SessionOver(f"the journal did not take directive {version}")
            self._metrics.directives.inc()
            if now_at.incarnation != incarnation:
                raise SessionOver("a new incarnation has begun")
        raise SessionOver("the cloud ended the stream of directives")

    async def _take_receipts(
        self,
        call: "aio.StreamStreamCall[batch_pb2.SignedBatch, batch_pb2.SignedReceipt]",
        incarnation: int,
        in_flight: "InFlight",
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(self._section.receipt_timeout_s if len(in_flight) else None) as limit:
                    in_flight.on_change = lambda: _reschedule(limit, in_flight, self._section.receipt_timeout_s)
                    signed = await call.read()
            except TimeoutError as err:
                raise SessionOver(f"no receipt within {self._section.receipt_timeout_s:g} s") from err
            finally:
                in_flight.on_change = None
            if not isinstance(signed, batch_pb2.SignedReceipt):
                raise SessionOver("the cloud ended the stream of receipts")
            arrived = check_receipt(
                signed, keys=self._engine.receipt_keys(), gateway=self._gateway, incarnation=incarnation
            )
            sent_hash = in_flight.hash_of(arrived.receipt.sequence)
            if sent_hash is not None and sent_hash != arrived.receipt.batch_hash:
                raise NotSigned(f"the receipt for batch {arrived.receipt.sequence} is for another batch")
            await self._engine.submit(arrived)
            self._metrics.receipts.inc()
            self._progress.receipted(*in_flight.receipted(arrived.receipt.sequence), self._now_ns())
            self._detail.stir()

    # Up ---------------------------------------------------------------------------------------------------------------

    async def _push(
        self,
        call: "aio.StreamStreamCall[batch_pb2.SignedBatch, batch_pb2.SignedReceipt]",
        posted: int,
        in_flight: "InFlight",
    ) -> None:
        sent = posted
        # What the cloud posted before a break but whose receipt was lost is asked for again: a replay gets the first one.
        sent = min(sent, self._engine.receipted_sequence())
        while True:
            rows = await self._engine.batches_to_send(sent, BATCHES_READ)
            if not rows:
                await self._engine.wait_for_batch(sent)
                continue
            for row in rows:
                if row.sequence != sent + 1:
                    # Nothing prunes what is not receipted; what is receipted need not be sent.
                    raise SessionOver(f"batch {sent + 1} is not in the journal, {row.sequence} is")
                await in_flight.room()
                signed = batch_pb2.SignedBatch(batch=row.batch, signature=row.signature, key_id=row.key_id)
                size = signed.ByteSize()
                # Before it waits: detail that waits too sees that the rest is not quiet.
                self._detail.stir()
                await self._pace.batch(size)
                in_flight.sent(row.sequence, batch_hash(row.batch), size)
                await call.write(signed)
                self._metrics.batches_sent.inc()
                self._metrics.sent_bytes.labels("batches").inc(size)
                sent = row.sequence

    async def _request_quotas(self, stub: "GatewaySyncAsyncStub", incarnation: int) -> None:
        asked: set[int] = set()
        room = asyncio.Semaphore(self._section.quota_requests_in_flight)
        after = 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                outstanding = self._engine.outstanding_quota_requests()
                # Forget what is no longer outstanding, so that this stays as small as the engine's own table.
                asked &= {request.counter for request in outstanding}
                for request in outstanding:
                    after = max(after, request.counter)
                    if request.counter not in asked:
                        await room.acquire()
                        asked.add(request.counter)
                        task = tasks.create_task(ending(self._request_quota(stub, incarnation, request), endless=False))
                        task.add_done_callback(lambda _: room.release())
                await self._engine.wait_for_quota_request(after)
                # There is a higher one, or there was and it is answered: it is looked for among the outstanding ones.
                after += 1

    async def _request_quota(self, stub: "GatewaySyncAsyncStub", incarnation: int, request: QuotaRequest) -> None:
        asked = gateway_sync_pb2.RequestQuotaRequest(
            incarnation=incarnation,
            counter=request.counter,
            account_id=request.account_id,
            currency=request.currency,
            wanted_micros=request.wanted_micros,
        )
        self._pace.at_once(asked.ByteSize())
        self._metrics.sent_bytes.labels("quota_requests").inc(asked.ByteSize())
        response: gateway_sync_pb2.RequestQuotaResponse = await stub.RequestQuota(
            asked, timeout=self._section.call_timeout_s
        )
        await self._engine.submit(QuotaAnswered(counter=request.counter, answer=response.answer))

    def measure(self, backlog: int) -> tuple[int, float]:
        """Of ``backlog`` batches that have no receipt: about how many bytes they are, and in how many seconds they will have one.

        Set as gauges too. Infinite while the cloud does not answer, or nothing moves.
        """
        size = self._progress.bytes_of(backlog)
        drains_in_s = self._progress.drains_in_s(backlog, self._now_ns()) if self.online or not backlog else math.inf
        self._metrics.backlog_batches.set(backlog)
        self._metrics.backlog_bytes.set(size)
        self._metrics.drain_seconds.set(drains_in_s)
        return size, drains_in_s

    @property
    def proven_sequence(self) -> int:
        """The highest batch whose detail the cloud verified in this connection's account of it."""
        return self._detail.proven_sequence


class InFlight:
    """Batches sent and not yet receipted: a bounded window."""

    __slots__ = ("_hashes", "_most", "_room", "_sizes", "on_change")

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._hashes: dict[int, bytes] = {}
        self._sizes: dict[int, int] = {}
        self._room = asyncio.Event()
        self.on_change: Callable[[], None] | None = None

    async def room(self) -> None:
        """Return when another batch may be sent."""
        while len(self._hashes) >= self._most:
            self._room.clear()
            await self._room.wait()

    def sent(self, sequence: int, digest: bytes, size: int) -> None:
        """``sequence`` is on its way."""
        self._hashes[sequence] = digest
        self._sizes[sequence] = size
        if self.on_change is not None:
            self.on_change()

    def hash_of(self, sequence: int) -> bytes | None:
        """The hash of a batch in flight."""
        return self._hashes.get(sequence)

    def receipted(self, sequence: int) -> tuple[int, int]:
        """A high-water mark: everything up to ``sequence`` has arrived; how many that were, and their bytes."""
        arrived = [each for each in self._hashes if each <= sequence]
        size = 0
        for each in arrived:
            del self._hashes[each]
            size += self._sizes.pop(each)
        self._room.set()
        return len(arrived), size

    def __len__(self) -> int:
        return len(self._hashes)


def _reschedule(limit: asyncio.Timeout, in_flight: InFlight, seconds: float) -> None:
    # The clock of a receipt starts with the first batch in flight, not with the wait for one.
    if limit.when() is None and len(in_flight):
        limit.reschedule(asyncio.get_running_loop().time() + seconds)


def _options(section: UplinkSection) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_SIZE),
        ("grpc.max_send_message_length", MAX_MESSAGE_SIZE),
        # A session is one attempt: its own connection, no waits of gRPC's own between ours.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", int(section.min_backoff_s * 1_000)),
        ("grpc.max_reconnect_backoff_ms", int(section.max_backoff_s * 1_000)),
        ("grpc.keepalive_time_ms", int(section.keepalive_s * 1_000)),
        ("grpc.keepalive_timeout_ms", int(section.keepalive_timeout_s * 1_000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A ping for another reason (bandwidth) takes the keepalive's place, and its own timeout is a minute.
        ("grpc.http2.ping_timeout_ms", int(section.keepalive_timeout_s * 1_000)),
    ]


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    err: BaseException = group
    while isinstance(err, BaseExceptionGroup):
        err = err.exceptions[0]
    return str(err)


def _load_grpc() -> None:
    """What a session imports, once, away from the loop."""
    from grpc import aio

    from farthing.v1.gateway_sync_pb2_grpc import GatewaySyncStub

    del aio, GatewaySyncStub


def _describe(group: "BaseExceptionGroup[aio.AioRpcError]") -> str:
    from grpc import aio

    err: BaseException = group
    while isinstance(err, BaseExceptionGroup):
        err = err.exceptions[0]
    assert isinstance(err, aio.AioRpcError)
    return f"{err.code().name}: {(err.details() or '')[:300]}"
