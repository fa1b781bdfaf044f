"""Consume the ledger's outbox: at least once in, exactly once in effect.

Rule 1: what a handler writes, the inbox and the cursor commit in one transaction: a crash between them is a crash before
all of them.
Rule 2: an event is known by its place (transaction id, sequence), and the inbox says whether it has been handled: one that
comes twice is passed over, one that comes late is not.
Rule 3: a broken world (ledger, database or a peer gone) is waited for; a broken event is parked with its reason, counted,
and tried again later. Nothing is dropped.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import grpc
import grpc.aio
import psycopg
import structlog
from prometheus_client import Counter, Gauge
from psycopg.rows import dict_row

from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.database import Pool, sentence

_EVENTS = Counter(
    "farthing_cloud_events", "Events read from the outbox, by what became of them.", ("consumer", "outcome")
)
_PARKED = Gauge("farthing_cloud_events_parked", "Events parked now, each with its reason.", ("consumer",))
_CONNECTED = Gauge("farthing_cloud_events_connected", "1 while the outbox is followed, else 0.", ("consumer",))

_log = structlog.stdlib.get_logger(__name__)

_ADVANCE_CURSOR = sentence(__package__, "advance_cursor")
_COUNT_PARKED = sentence(__package__, "count_parked")
_ENTER_INBOX = sentence(__package__, "enter_inbox")
_KEEP_PARKED = sentence(__package__, "keep_parked")
_LIST_PARKED = sentence(__package__, "list_parked")
_LOCK_CURSOR = sentence(__package__, "lock_cursor")
_LOCK_PARKED = sentence(__package__, "lock_parked")
_OPEN_CURSOR = sentence(__package__, "open_cursor")
_PARK_EVENT = sentence(__package__, "park_event")
_PRUNE_INBOX = sentence(__package__, "prune_inbox")
_UNPARK_EVENT = sentence(__package__, "unpark_event")

#: Rows of one transaction: large enough that its commit costs little per event, small enough to be redone quickly.
BATCH_EVENTS = 200
#: Read ahead of the transaction under way; gRPC's flow control holds back the rest.
QUEUED_EVENTS = 2 * BATCH_EVENTS
#: Places remembered to recognise an event that comes twice. A stream repeats at most what was not committed, and the
#: cursor goes with the commit, so a few batches would do; the rest covers a ledger that sends again from further back.
INBOX_ROWS = 100_000
#: So many broken events are a broken consumer: it stops and keeps its place until they have been dealt with.
PARKED_EVENTS = 100_000
#: Parked events tried again in one pass.
REPLAYED_EVENTS = 1_000
#: What came before its cause (a statement of a device that the registry does not name yet) is tried again this often.
REPLAY_INTERVAL_S = 60.0
#: How often the ledger is told how far we have durably come: events are kept for days, so a minute more or less is nothing.
ACKNOWLEDGE_INTERVAL_S = 60.0
#: What the ledger has to answer that in: it writes one row.
ACKNOWLEDGE_TIMEOUT_S = 5.0
#: First pause after a failure, then twice as long each time up to the cap: back within seconds of whom we wait for.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
#: A reason is a sentence for a person.
MAX_REASON_SIZE = 500
#: PostgreSQL keeps signed 64-bit integers.
_MAX_PLACE = 2**63 - 1


class PoisonEvent(Exception):
    """This event cannot be handled as it is; the message says why. It is parked."""


class WorldNotReady(Exception):
    """A peer this handler needs is gone or behind: the same events are handled again after a pause."""


class _ParkedLimit(Exception):
    """Too many events are parked."""


#: Faults of the world around us, not of an event.
_WORLD = (psycopg.OperationalError, psycopg.InterfaceError, grpc.RpcError, WorldNotReady, OSError)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """Where in the outbox an event stands."""

    transaction_id: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of the outbox. ``value`` is a message of ``events.proto``, by ``kind``; ``at_us`` is business time."""

    place: Place
    kind: str
    key: str
    at_us: int
    value: bytes
    traceparent: str


Connection = psycopg.AsyncConnection[Any]


class Handler(Protocol):
    """What a consumer does with events."""

    async def prepare(self, events: Sequence[Event]) -> None:
        """Ask others what handling these events will need, before a transaction is open. May raise ``WorldNotReady``."""

    async def handle(self, connection: Connection, events: Sequence[Event]) -> None:
        """Write what ``events`` cause, in the caller's transaction.

        A fault that is not of the world rolls all of it back; the events are then handled one by one, and the one that
        fails again is parked.
        """

    def committed(self) -> None:
        """What ``handle`` wrote is durable now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLimits:
    """Bounds of one consumer; each default with its reason at the constant."""

    batch_events: int = BATCH_EVENTS
    inbox_rows: int = INBOX_ROWS
    parked_events: int = PARKED_EVENTS
    replay_interval_s: float = REPLAY_INTERVAL_S
    acknowledge_interval_s: float = ACKNOWLEDGE_INTERVAL_S
    first_pause_s: float = FIRST_PAUSE_S
    longest_pause_s: float = LONGEST_PAUSE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """What a consumer has done since it was built, for metrics and tests."""

    connected: bool = False
    handled: int = 0
    repeated: int = 0
    parked: int = 0
    replayed: int = 0
    failures: int = 0
    #: Why it waits; empty while it works.
    waits_for: str = ""
    place: Place = field(default_factory=lambda: Place(transaction_id=0, sequence=0))


class Consumer:
    """One named reader of the outbox; its cursor, inbox and parked events live in the pool's schema."""

    def __init__(
        self,
        *,
        name: str,
        kinds: Sequence[str],
        pool: Pool,
        ledger: grpc.aio.Channel,
        handler: Handler,
        limits: ConsumerLimits | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._kinds = tuple(kinds)
        self._pool = pool
        self._ledger = ledger
        self._handler = handler
        self._limits = limits or ConsumerLimits()
        self._jitter = jitter
        self._pause_s = self._limits.first_pause_s
        self._replay_due_s = 0.0
        self._acknowledge_due_s = 0.0
        self._state = ConsumerState()

    @property
    def state(self) -> ConsumerState:
        """A snapshot of the counts."""
        return self._state

    async def run(self) -> None:
        """Follow the outbox until cancelled; whatever is gone is waited for."""
        while True:
            why = "the ledger ended the stream"
            try:
                await self._follow()
            except _WORLD as err:
                why = _why(err)
            except _ParkedLimit:
                why = f"{self._limits.parked_events} events are parked: read their reasons and deal with them"
            except Exception as err:  # noqa: BLE001 - a fault here must not end the services beside us (P8)
                _log.exception("events_fault", consumer=self._name)
                why = _why(err)
            if why != self._state.waits_for:
                _log.warning("events_wait", consumer=self._name, why=why)
            self._state = replace(self._state, connected=False, failures=self._state.failures + 1, waits_for=why)
            _CONNECTED.labels(self._name).set(0)
            await asyncio.sleep(self._pause_s * (0.5 + self._jitter() / 2))
            self._pause_s = min(self._pause_s * 2, self._limits.longest_pause_s)

    async def _follow(self) -> None:
        place = await self.place()
        self._state = replace(self._state, place=place)
        await self._replay_when_due()
        request = ledger_pb2.FollowEventsRequest(
            after=ledger_pb2.EventCursor(transaction_id=place.transaction_id, sequence=place.sequence),
            follow=True,
            kinds=self._kinds,
        )
        call = ledger_pb2_grpc.LedgerStub(self._ledger).FollowEvents(request)
        async with _reading(call) as queue:
            await call.wait_for_connection()
            self._state = replace(self._state, connected=True, waits_for="")
            _CONNECTED.labels(self._name).set(1)
            # A database that was restored stands further back than the ledger was told.
            self._acknowledge_due_s = 0.0
            while True:
                await self._acknowledge_when_due()
                batch = await self._next_batch(queue)
                if batch is None:
                    return
                if batch:
                    await self._take(batch)
                await self._replay_when_due()

    async def _next_batch(self, queue: "asyncio.Queue[_Item]") -> list[Event] | None:
        """What has arrived, at most a batch; empty when it is time to replay or acknowledge; None at the end of the stream."""
        wait_s = max(0.0, min(self._replay_due_s, self._acknowledge_due_s) - time.monotonic())
        try:
            async with asyncio.timeout(wait_s):
                item = await queue.get()
        except TimeoutError:
            return []
        batch: list[Event] = []
        while True:
            if isinstance(item, BaseException):
                if batch:
                    # What came before the end counts; the end is met again at once.
                    queue.put_nowait(item)
                    return batch
                raise item
            if item is None:
                if batch:
                    queue.put_nowait(item)
                    return batch
                return None
            batch.append(item)
            if len(batch) >= self._limits.batch_events or queue.empty():
                return batch
            item = queue.get_nowait()

    async def take(self, events: Sequence[Event]) -> None:
        """Handle ``events`` exactly once, however often they are given; park those that are broken."""
        await self._take(list(events))

    async def _take(self, batch: list[Event]) -> None:
        await self._prepare(batch)
        try:
            outcome = await self._transact(batch, one_by_one=False)
        except (*_WORLD, _ParkedLimit):
            raise
        except Exception as err:  # noqa: BLE001 - whatever one event breaks must not stop the others: done again one by one
            _log.warning("events_one_by_one", consumer=self._name, why=_why(err))
            outcome = await self._transact(batch, one_by_one=True)
        self._handler.committed()
        self._pause_s = self._limits.first_pause_s
        _EVENTS.labels(self._name, "handled").inc(outcome.handled)
        _EVENTS.labels(self._name, "repeated").inc(outcome.repeated)
        _EVENTS.labels(self._name, "parked").inc(outcome.parked)
        self._state = replace(
            self._state,
            connected=True,
            waits_for="",
            handled=self._state.handled + outcome.handled,
            repeated=self._state.repeated + outcome.repeated,
            parked=self._state.parked + outcome.parked,
            place=max(self._state.place, *(event.place for event in batch)),
        )

    async def _prepare(self, events: Sequence[Event]) -> None:
        try:
            await self._handler.prepare(events)
        except _WORLD:
            raise
        except Exception as err:  # noqa: BLE001 - what it stumbles over fails again in ``handle``, where it is parked
            _log.warning("events_unprepared", consumer=self._name, why=_why(err))

    async def _transact(self, batch: Sequence[Event], *, one_by_one: bool) -> "_Outcome":
        async with self._pool.connection() as connection, connection.transaction():
            row = await (await connection.execute(_LOCK_CURSOR, {"consumer": self._name})).fetchone()
            assert row is not None
            forgotten = Place(transaction_id=row[0], sequence=row[1])
            fresh_places = await self._enter(connection, batch)
            fresh: list[Event] = []
            poisoned: list[tuple[Event, str]] = []
            for event in batch:
                if event.place not in fresh_places:
                    continue
                # The second of two equal ones in this batch is no longer fresh.
                fresh_places.remove(event.place)
                if event.place <= forgotten:
                    poisoned.append((event, "comes from before what the inbox remembers: it may have been handled"))
                else:
                    fresh.append(event)
            repeated = len(batch) - len(fresh) - len(poisoned)
            if one_by_one:
                handled, more = await self._handle_one_by_one(connection, fresh)
                poisoned += more
            else:
                if fresh:
                    await self._handler.handle(connection, fresh)
                handled = len(fresh)
            for event, reason in poisoned:
                await self._park(connection, event, reason)
            if poisoned and await self._count_parked(connection) > self._limits.parked_events:
                raise _ParkedLimit
            last = max(event.place for event in batch)
            await connection.execute(
                _ADVANCE_CURSOR,
                {"consumer": self._name, "transaction_id": last.transaction_id, "sequence": last.sequence},
            )
            await connection.execute(_PRUNE_INBOX, {"consumer": self._name, "rows": self._limits.inbox_rows})
        return _Outcome(handled=handled, repeated=repeated, parked=len(poisoned))

    async def _enter(self, connection: Connection, batch: Sequence[Event]) -> set[Place]:
        """Write the places into the inbox; those that were not in it."""
        rows = await connection.execute(
            _ENTER_INBOX,
            {
                "consumer": self._name,
                "transaction_ids": [event.place.transaction_id for event in batch],
                "sequences": [event.place.sequence for event in batch],
            },
        )
        return {Place(transaction_id=row[0], sequence=row[1]) for row in await rows.fetchall()}

    async def _handle_one_by_one(
        self, connection: Connection, events: Sequence[Event]
    ) -> tuple[int, list[tuple[Event, str]]]:
        handled = 0
        poisoned: list[tuple[Event, str]] = []
        for event in events:
            reason = await self._attempt(connection, event)
            if reason is None:
                handled += 1
            else:
                poisoned.append((event, reason))
        return handled, poisoned

    async def _attempt(self, connection: Connection, event: Event) -> str | None:
        """Handle one event in a savepoint; why it cannot be handled, or None."""
        try:
            async with connection.transaction():
                await self._handler.handle(connection, [event])
        except _WORLD:
            raise
        except PoisonEvent as err:
            reason = str(err)
        except Exception as err:  # noqa: BLE001 - parked with its reason, logged with its trace: the others go on
            _log.exception("event_fault", consumer=self._name, kind=event.kind, key=event.key)
            reason = _why(err)
        else:
            return None
        _log.warning("event_parked", consumer=self._name, kind=event.kind, key=event.key, why=reason)
        return reason

    async def _park(self, connection: Connection, event: Event, reason: str) -> None:
        await connection.execute(
            _PARK_EVENT,
            {
                "consumer": self._name,
                "transaction_id": event.place.transaction_id,
                "sequence": event.place.sequence,
                "kind": event.kind,
                "key": event.key,
                "at_us": event.at_us,
                "value": event.value,
                "traceparent": event.traceparent,
                "reason": reason,
            },
        )

    async def _count_parked(self, connection: Connection) -> int:
        row = await (await connection.execute(_COUNT_PARKED, {"consumer": self._name})).fetchone()
        assert row is not None
        _PARKED.labels(self._name).set(row[0])
        return int(row[0])

    async def place(self) -> Place:
        """The durable cursor: everything up to it has been handled or parked."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(_OPEN_CURSOR, {"consumer": self._name})).fetchone()
        assert row is not None
        return Place(transaction_id=row[0], sequence=row[1])

    async def parked(self) -> int:
        """How many events are parked now."""
        async with self._pool.connection() as connection:
            return await self._count_parked(connection)

    async def replay_parked(self, limit: int = REPLAYED_EVENTS) -> int:
        """Try parked events again, those tried longest ago first; how many could be handled now."""
        async with self._pool.connection() as connection:
            events = await self._parked_events(connection, limit)
            if events:
                await self._count_parked(connection)
        if not events:
            return 0
        await self._prepare(events)
        done = 0
        for event in events:
            key = {
                "consumer": self._name,
                "transaction_id": event.place.transaction_id,
                "sequence": event.place.sequence,
            }
            async with self._pool.connection() as connection, connection.transaction():
                locked = await (await connection.execute(_LOCK_PARKED, key)).fetchone()
                if locked is None:
                    continue  # another process has it, or had it
                reason = await self._attempt(connection, event)
                if reason is None:
                    await connection.execute(_UNPARK_EVENT, key)
                    done += 1
                else:
                    await connection.execute(_KEEP_PARKED, {**key, "reason": reason})
        if done:
            self._handler.committed()
            _EVENTS.labels(self._name, "replayed").inc(done)
            await self.parked()
            self._state = replace(self._state, replayed=self._state.replayed + done)
        return done

    async def _parked_events(self, connection: Connection, limit: int) -> list[Event]:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_LIST_PARKED, {"consumer": self._name, "limit": limit})
            return [
                Event(
                    place=Place(transaction_id=row["transaction_id"], sequence=row["sequence"]),
                    kind=row["kind"],
                    key=row["key"],
                    at_us=row["at_us"],
                    value=row["value"],
                    traceparent=row["traceparent"],
                )
                for row in await cursor.fetchall()
            ]

    async def _replay_when_due(self) -> None:
        if time.monotonic() < self._replay_due_s:
            return
        self._replay_due_s = time.monotonic() + self._limits.replay_interval_s
        await self.replay_parked()

    async def _acknowledge_when_due(self) -> None:
        """Tell the ledger how far the durable cursor is. That it does not hear us costs it room, nothing else."""
        if time.monotonic() < self._acknowledge_due_s:
            return
        self._acknowledge_due_s = time.monotonic() + self._limits.acknowledge_interval_s
        place = await self.place()
        up_to = ledger_pb2.EventCursor(transaction_id=place.transaction_id, sequence=place.sequence)
        try:
            await ledger_pb2_grpc.LedgerStub(self._ledger).AcknowledgeEvents(
                ledger_pb2.AcknowledgeEventsRequest(up_to=up_to), timeout=ACKNOWLEDGE_TIMEOUT_S
            )
        except grpc.RpcError as err:
            # A ledger of before has no such call; the stream itself says when the ledger is gone.
            _log.info("events_unacknowledged", consumer=self._name, why=_why(err))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    handled: int
    repeated: int
    parked: int


#: An event, the end of the stream, or how it broke.
_Item = Event | BaseException | None


@asynccontextmanager
async def _reading(call: Any) -> AsyncIterator["asyncio.Queue[_Item]"]:
    """Read the stream ``call`` into a bounded queue while the body works; the call ends with the body."""
    queue: asyncio.Queue[_Item] = asyncio.Queue(QUEUED_EVENTS)

    async def read() -> None:
        try:
            async for response in call:
                await queue.put(_event(response))
        except Exception as err:  # noqa: BLE001  # not handled here: raised to who takes from the queue, who else would wait for ever
            await queue.put(err)
        else:
            await queue.put(None)

    reader = asyncio.create_task(read())
    try:
        yield queue
    finally:
        call.cancel()
        reader.cancel()
        with suppress(asyncio.CancelledError):
            await reader


def _event(response: ledger_pb2.FollowEventsResponse) -> Event:
    place = Place(transaction_id=response.cursor.transaction_id, sequence=response.cursor.sequence)
    if max(place.transaction_id, place.sequence) > _MAX_PLACE:
        raise WorldNotReady(f"the ledger names an impossible place: {place}")
    return Event(
        place=place,
        kind=response.kind,
        key=response.key,
        at_us=response.at_us,
        value=response.value,
        traceparent=response.traceparent,
    )


def _why(err: BaseException) -> str:
    if isinstance(err, grpc.aio.AioRpcError):
        return f"{err.code().name}: {err.details()}"[:MAX_REASON_SIZE]
    return f"{type(err).__name__}: {err}".replace("\x00", "")[:MAX_REASON_SIZE]
