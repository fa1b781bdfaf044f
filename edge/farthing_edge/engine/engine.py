"""The writer: queue, decide, commit, answer.

Rule 1 (P2): nothing is said before the commit that holds it has returned; a reply that wrote nothing waits for its group all the same, as
it may rest on what the group writes.
Rule 2: while a commit runs in its thread, the next group gathers. Signatures of grants are made meanwhile and thrown away when the commit
fails.
Rule 3: a commit that fails for I/O ends the process. One that fails otherwise is rolled back, the state is rebuilt from the journal, and
the group is decided one by one: what fails alone is parked.
Rule 4: every queue here has a bound; above it the answer is "later".
"""

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import structlog

from farthing.clock import BusinessClock, Instant
from farthing.device import cose
from farthing.device.messages import Answer, AnswerStatus, Grant, Intent, Witness, encode
from farthing.evidence.batches import BATCH_RECIPIENT, batch_hash
from farthing.hsm import HsmError
from farthing.ids import START_ID_SIZE, AccountId, StartId
from farthing.money import Currency
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.commands import (
    Command,
    DeviceStatement,
    DirectiveArrived,
    Reply,
    SealAgain,
    TicksArrived,
)
from farthing_edge.authorization.deciding import decide
from farthing_edge.authorization.decision import Decision, status_of
from farthing_edge.authorization.events import (
    KIND_OF,
    DirectiveApplied,
    Event,
    HelloSeen,
    QuotaRequestClosed,
    QuotaRequested,
    Sealed,
    Started,
    UplinkSeen,
    UseSetAside,
    decode,
)
from farthing_edge.authorization.events import encode as encode_event
from farthing_edge.authorization.state import CoreSettings, GatewayState, StateError
from farthing_edge.engine.lanes import Lanes
from farthing_edge.engine.sealed_witness import Sealed as SealedInToken
from farthing_edge.engine.sealed_witness import SealedWitness
from farthing_edge.engine.signing import BatchSigner, GrantSigner
from farthing_edge.engine.upkeep import Upkeep, UpkeepLimits
from farthing_edge.engine.view import GatewayView
from farthing_edge.journal import snapshots
from farthing_edge.journal.errors import JournalError, JournalFull, JournalRejected
from farthing_edge.journal.replaying import Recalled, recall
from farthing_edge.journal.store import (
    Entry,
    Group,
    Journal,
    read_batch_position,
    read_directive_links,
    read_directive_positions,
    read_earlier_incarnations,
    read_entries,
    read_entry,
    read_signed_batches,
    read_start_at,
    read_unsigned_batches,
)
from farthing_edge.journal.thread import JournalThread
from farthing_edge.metering.detail import Placed, billed_by, leaves_of_entries

T = TypeVar("T")
_log = structlog.get_logger(__name__)
_NS = 1_000_000_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: First and longest wait before a batch's signature is tried again, seconds: the token is beside us, not across a network.
_SIGN_AGAIN_S = 0.2
_SIGN_AGAIN_AT_MOST_S = 5.0


class Waiting(Protocol):
    """Who waits for what becomes of a command; a future of asyncio's is one."""

    def done(self) -> bool:
        """Whether it has its answer, or no longer wants it."""
        ...

    def set_result(self, answer: Answer | None, /) -> None:
        """What follows is durable: the answer to a statement, None to all others."""
        ...

    def set_exception(self, err: BaseException, /) -> None:
        """It is not known what became of it."""
        ...


class EngineError(Exception):
    """The engine has stopped: nothing more is decided in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What bounds the engine. Times are real."""

    #: Commands that wait: at 5,000 decisions a second, under a second of work; beyond it "later" is the honest answer.
    queue: int = 4_096
    #: Commands in one commit: 128 rows already reach 69,000 rows/s; twice that bounds the memory and the wait.
    group: int = 256
    #: Statements that wait for a quota at once, and for how long each.
    parked_for_quota: int = 1_024
    quota_wait_ms: int = 1_500
    #: How often time itself is a command: quotas that are over, accounts that are low.
    tick_ms: int = 250
    #: What "later" tells a device to wait.
    retry_after_ms: int = 500
    #: Longest that a batch's detail waits for a moment without statements: a site that is never idle is proven all the same.
    detail_waits_ms: int = 2_000
    #: Grants being signed at once: the token makes some 5,000 a second, so a tenth of a second of its work.
    signing: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBatchRow:
    """A batch ready to be sent."""

    incarnation: int
    sequence: int
    batch: bytes
    signature: bytes
    key_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRequestRow:
    """A request for money that the cloud has not answered."""

    incarnation: int
    counter: int
    account_id: AccountId
    currency: Currency
    wanted_micros: int


@dataclass(slots=True)
class _Item:
    """A command and who waits for its answer."""

    command: Command
    waiting: Waiting
    #: Monotonic nanoseconds after which a statement no longer waits for a quota; 0 before it does.
    deadline_ns: int = 0
    #: It waits for the cloud's word, and is decided with what is there once it came.
    waits_once: bool = False


@dataclass(slots=True)
class _Draft:
    """An answer before its commit and signature."""

    item: _Item
    reply: Reply | None
    grant: Grant | None
    receipted_counter: int


class _Signing(NamedTuple):
    """Payloads of grants, and their signatures under way."""

    payloads: list[bytes]
    signatures: "asyncio.Future[list[bytes]]"


class _Written(NamedTuple):
    """A group, decided: what is to be written of it, and what is said then."""

    group: Group
    items: list[_Item]
    drafts: list[_Draft]
    signing: _Signing | None
    happened: list[Event]


class _Bell:
    """Wakes everybody who waits for something to have changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Engine:
    """The one writer of a gateway. Nothing is opened before :meth:`start`."""

    def __init__(
        self,
        *,
        journal: Journal,
        settings: CoreSettings,
        grant_signer: GrantSigner,
        batch_signer: BatchSigner,
        clock: BusinessClock,
        limits: EngineLimits | None = None,
        upkeep: UpkeepLimits | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        random_bytes: Callable[[int], bytes] = os.urandom,
        sealed_witness: SealedWitness | None = None,
    ) -> None:
        self._sealed_witness = sealed_witness
        #: (incarnation, sequence) that the witness remembers.
        self._witnessed = (0, 0)
        self._journal = journal
        self._settings = settings
        self._grant_signer = grant_signer
        self._batch_signer = batch_signer
        self._clock = clock
        self._limits = limits or EngineLimits()
        self._monotonic_ns = monotonic_ns
        self._random_bytes = random_bytes
        self._state = GatewayState(settings)
        self.view = GatewayView(lambda: self._state, lambda: journal.position)
        #: Called after a directive is durable and obeyed, on the event loop.
        self.on_directive: list[Callable[[directive_pb2.Directive], None]] = []
        self._journal_thread: JournalThread | None = None
        self._queue: Lanes[_Item] = Lanes()
        #: Set for ``run`` to look: something has ended, or is to be seen to.
        self._attend = asyncio.Event()
        self._trouble: Callable[[], Awaitable[None]] | None = None
        self._is_running = False
        self._is_woken = False
        self._alarm: asyncio.TimerHandle | None = None
        #: The group whose commit is under way.
        self._writing: _Written | None = None
        self._room = _Bell()
        self._is_busy = False
        self._idle_bell = _Bell()
        self._waiting: dict[AccountId, list[_Item]] = {}
        self._waiting_count = 0
        self._answering: set[asyncio.Future[list[bytes]]] = set()
        self._signing_count = 0
        self._unsigned: deque[tuple[int, int, bytes]] = deque()
        self._unsigned_bell = _Bell()
        self._signed_incarnation = 0
        self._signed_sequence = 0
        self._batch_bell = _Bell()
        self._again_bell = _Bell()
        self._request_bell = _Bell()
        #: Requests up to this are durable: only they may be sent.
        self._durable_request = 0
        self._unsaid_since_ns = 0
        self._next_tick_ns = 0
        self._storage_full = False
        self._stopping = False
        self._failure: BaseException | None = None
        #: Refusals that are not journaled (unknown devices, reused counters...), by number; volatile.
        self.refused_unrecorded: dict[int, int] = {}
        self.poisoned = 0
        self.groups = 0
        self.decided = 0
        #: Which batch of this incarnation is the last whose detail the cloud has proven: the uplink knows.
        self.proven_sequence: Callable[[], int] = lambda: 0
        self.upkeep = Upkeep(
            journal=journal,
            settings=settings,
            limits=upkeep or UpkeepLimits(),
            state=lambda: self._state,
            now=clock.now,
            is_idle=lambda: not self._is_busy,
            proven_sequence=lambda: self.proven_sequence(),
            in_journal_thread=self._in_journal_thread,
            monotonic_ns=monotonic_ns,
        )

    # Life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the journal, become what it says, and journal this start. ``JournalError`` says what is wrong."""
        self._journal_thread = JournalThread()
        try:
            await self._in_journal_thread(self._journal.open)
            recalled = await self._in_journal_thread(self._replay)
            self._state = recalled.state
            await self._in_journal_thread(self._find_unsigned)
            await self._commit_start(recalled)
            self._see_the_reserve()
            self.upkeep.begin(recalled.from_snapshot, recalled.pruned)
        except BaseException:
            await self._close()
            raise
        if self._journal.moved_aside is not None:
            _log.warning("journal copied after a failed disk", moved_aside=str(self._journal.moved_aside))
        for fault in recalled.faults:
            _log.warning("a snapshot was passed over", fault=fault)
        _log.info(
            "journal read",
            position=self._state.position,
            from_snapshot=recalled.from_snapshot,
            replayed=recalled.replayed,
            incarnation=self._state.incarnation,
            directive_version=self._state.directive_version,
        )

    @property
    def storage_full(self) -> bool:
        """Whether new uses are told to come later because the journal's disk is full."""
        return self._storage_full

    @property
    def failure(self) -> Exception | None:
        """What ended it; None while it runs, and when it was stopped. Who is cancelled while it ends hears no other way."""
        return self._failure if isinstance(self._failure, Exception) else None

    async def run(self) -> None:
        """Decide until :meth:`stop`; raise what ended the journal."""
        beside = (
            asyncio.create_task(self._sign_batches(), name="sign batches"),
            asyncio.create_task(self._seal_again(), name="seal again"),
            asyncio.create_task(self.upkeep.run(), name="upkeep"),
        )
        for task in beside:
            # One that ends has failed.
            task.add_done_callback(lambda _: self._attend.set())
        self._is_running = True
        self._go_on()
        try:
            while not (self._stopping and not self._queue and self._writing is None):
                await self._attend.wait()
                self._attend.clear()
                for task in beside:
                    if task.done():
                        task.result()
                if self._trouble is not None:
                    await self._trouble()
                    self._trouble = None
                self._go_on()
            while self._answering:
                await asyncio.wait(self._answering)
        except BaseException as err:
            self._failure = err
            raise
        finally:
            self._is_running = False
            for task in beside:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, EngineError, JournalError):
                    await task
            self._fail_all()
            await self._close()

    async def stop(self) -> None:
        """Let what waits be decided, then let :meth:`run` return. Nothing is sealed."""
        self._stopping = True
        for items in self._waiting.values():
            for item in items:
                self._queue.put(_no_longer_waiting(item))
        self._waiting.clear()
        self._waiting_count = 0
        self._attend.set()

    async def _close(self) -> None:
        if self._journal_thread is not None:
            await self._in_journal_thread(self._journal.close)
            self._journal_thread.close()
            self._journal_thread = None

    def _fail_all(self) -> None:
        error = EngineError("the engine has stopped")
        written, self._writing = self._writing, None
        items = [
            *([] if written is None else written.items),
            *self._queue,
            *(item for items in self._waiting.values() for item in items),
        ]
        self._queue.clear()
        self._waiting.clear()
        for item in items:
            if not item.waiting.done():
                item.waiting.set_exception(error)
        self._is_busy = False
        self._batch_bell.ring()
        self._request_bell.ring()
        self._room.ring()
        self._idle_bell.ring()

    async def _in_journal_thread(self, call: Callable[..., T], *arguments: object) -> T:
        thread = self._journal_thread
        if thread is None:
            raise EngineError("the engine is not running")
        return await thread.ask(call, *arguments)

    async def _commit(self, group: Group) -> None:
        await self._in_journal_thread(self._journal.commit, group)
        self.upkeep.committed(sum(len(entry.body) for entry in group.entries), len(group.entries))

    def _replay(self) -> Recalled:
        with contextlib.closing(self._journal.reader()) as connection:
            return recall(self._journal.path, connection, self._settings)

    def _find_unsigned(self) -> None:
        connection = self._journal.reader()
        try:
            for incarnation, sequence, position in read_unsigned_batches(connection):
                sealed = _sealed_at(read_entry(connection, position))
                self._unsigned.append((incarnation, sequence, sealed.batch))
        finally:
            connection.close()
        state = self._state
        unsigned = [sequence for incarnation, sequence, _ in self._unsigned if incarnation == state.incarnation]
        self._signed_incarnation = state.incarnation
        self._signed_sequence = min(unsigned) - 1 if unsigned else state.sequence

    async def _commit_start(self, recalled: Recalled) -> None:
        clock = self._clock
        lost = recalled.beyond
        started = commands.Started(
            start_id=self._random_bytes(START_ID_SIZE),
            boot_id=_boot_id(),
            clock_epoch_us=clock.epoch_us,
            clock_real_epoch_us=clock.real_epoch_us,
            clock_rate=clock.rate,
            check_salt=self._random_bytes(START_ID_SIZE),
            entries_lost="" if lost is None else f"{lost.name} is of more entries than this journal has",
        )
        group = Group()
        self._take(group, started, clock.now())
        remembered = None if self._sealed_witness is None else await self._sealed_witness.highest()
        if remembered is not None:
            self._witnessed = remembered[:2]
            self._take(group, commands.TokenWitnessed(**remembered._asdict()), clock.now())
        await self._commit(group)
        if lost is not None:
            # It has said what it had to say, and the journal remembers.
            snapshots.set_aside(lost, "beyond")
        self._durable_request = self._state.request_counter
        if self._state.sequence:
            # A token that is behind lost its last write: it is repaired.
            await self._witness_seal(self._state.incarnation, self._state.sequence, self._state.batch_hash)

    # Commands ---------------------------------------------------------------------------------------------------------

    async def submit(self, command: Command) -> Answer | None:
        """Decide ``command``; return when what follows is durable: an answer to a statement, None to all others.

        A statement that finds the queue full is answered "later"; other commands wait for room. ``EngineError`` when the engine
        has stopped: say nothing then.
        """
        while len(self._queue) >= self._limits.queue:
            if isinstance(command, DeviceStatement):
                return self._later(command, Refusal.OVERLOADED)
            await self._room.wait()
            self._check_running()
        self._check_running()
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._queue.put(_Item(command, future))
        self._wake()
        return await future

    def hear(self, command: DeviceStatement | TicksArrived, waiting: Waiting) -> None:
        """As ``submit`` of a statement, or of ticks (which find no room without a word: the next ones prove them), for who does not wait in a task of its own: ``waiting`` gets the answer, or the ``EngineError``."""
        if self._failure is not None or self._stopping:
            waiting.set_exception(EngineError("the engine has stopped"))
        elif len(self._queue) >= self._limits.queue:
            waiting.set_result(
                self._later(command, Refusal.OVERLOADED) if isinstance(command, DeviceStatement) else None
            )
        else:
            self._queue.put(_Item(command, waiting))
            self._wake()

    def _check_running(self) -> None:
        if self._failure is not None or self._stopping:
            raise EngineError("the engine has stopped") from self._failure

    def answer_refusal(
        self, *, answers: tuple[int, int] | None, refusal: Refusal, retry_after_ms: int | None = None
    ) -> Answer:
        """What ingress says on its own, before anything reaches the engine: the status follows from the number."""
        status = status_of(refusal)
        if status is AnswerStatus.LATER and retry_after_ms is None:
            retry_after_ms = self._limits.retry_after_ms
        self.refused_unrecorded[refusal] = self.refused_unrecorded.get(refusal, 0) + 1
        return Answer(
            gateway=self._state.gateway_id,
            witness=self._witness(),
            answers=answers,
            status=status,
            receipted_counter=0,
            refusal=refusal,
            retry_after_ms=retry_after_ms if status is AnswerStatus.LATER else None,
        )

    def _later(self, command: DeviceStatement, refusal: Refusal) -> Answer:
        return self.answer_refusal(answers=(command.statement.device_epoch, command.statement.counter), refusal=refusal)

    def _witness(self) -> Witness:
        state = self._state
        return Witness(
            incarnation=state.incarnation,
            start_id=StartId(state.start_id or bytes(START_ID_SIZE)),
            # What is durable, not what is being decided.
            position=state.vouched_position(self._journal.position),
        )

    # The loop ---------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Look for work once this turn of the loop has brought all that it brings."""
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._woken)

    def _woken(self) -> None:
        self._is_woken = False
        self._go_on()

    def _go_on(self) -> None:
        """Decide what waits, unless a group is being written; else see to it that time itself is not forgotten."""
        if not self._is_running or self._writing is not None or self._trouble is not None:
            return
        if self._signing_count > self._limits.signing and self._answering:
            # Too many grants wait for the token: their signatures wake us.
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._queue:
            self._is_busy = False
            self._idle_bell.ring()
            if self._stopping:
                self._attend.set()
                return
            wait_s = (self._due_ns() - self._monotonic_ns()) / _NS
            if wait_s > 0:
                self._alarm = asyncio.get_running_loop().call_later(wait_s, self._go_on)
                return
        self._is_busy = True
        self._next_group()

    def _due_ns(self) -> int:
        due = self._next_tick_ns
        if self._unsaid_since_ns:
            due = min(due, self._unsaid_since_ns + self._state.seal_policy.age_s * _NS)
        for items in self._waiting.values():
            for item in items:
                due = min(due, item.deadline_ns)
        return due

    def _next_group(self) -> None:
        """Decide, and hand what follows to the journal and the token; the loop goes on meanwhile."""
        self._expire_waiting()
        was_full = len(self._queue) >= self._limits.queue
        items = self._queue.take(self._limits.group)
        if was_full:
            self._room.ring()
        now = self._clock.now()
        group = Group()
        drafts: list[_Draft] = []
        happened: list[Event] = []
        try:
            for item in items:
                self._decide_item(item, group, drafts, happened, now)
            self._time_itself(group, happened, now)
        except StateError:
            _log.exception("an event did not follow from the state")
            self._see_to(partial(self._one_by_one, items))
            return
        except BaseException as err:  # noqa: BLE001  # a bug: it ends the engine, as its run's own exception
            self._see_to(partial(self._give_up, items, err))
            return
        written = _Written(group, items, drafts, self._start_signing(drafts), happened)
        if not group.entries:
            self._written(written, None, None)
            return
        assert self._journal_thread is not None  # it runs
        self._writing = written
        self._journal_thread.tell(partial(self._written, written), self._journal.commit, group)

    def _see_to(self, trouble: Callable[[], Awaitable[None]]) -> None:
        """Nothing more is decided before ``run`` has done this."""
        self._trouble = trouble
        self._attend.set()

    def _written(self, written: _Written, _: None, err: BaseException | None) -> None:
        """The commit of a group has returned: answer, and go on with what gathered meanwhile."""
        if not self._is_running:
            return  # whoever waits for it hears with all others that the engine has stopped
        self._writing = None
        if err is not None:
            self._see_to(partial(self._not_written, written, err))
            return
        try:
            if written.group.entries:
                self.upkeep.committed(
                    sum(len(entry.body) for entry in written.group.entries), len(written.group.entries)
                )
            self._after_commit(written.items, written.drafts, written.signing, written.happened)
        except BaseException as fault:  # noqa: BLE001  # a bug: it ends the engine, as its run's own exception
            self._see_to(partial(self._give_up, written.items, fault))
            return
        if written.group.entries:
            self._go_on()
        else:
            # Nothing made it wait: everybody else has his turn first.
            self._wake()

    async def _not_written(self, written: _Written, err: BaseException) -> None:
        _cancel(written.signing)
        if isinstance(err, JournalFull):
            await self._nothing_written(written.items, err)
        elif isinstance(err, JournalRejected):
            _log.error("the journal refused a group", exc_info=err)
            await self._one_by_one(written.items)
        else:
            await self._give_up(written.items, err)

    async def _give_up(self, items: Sequence[_Item], err: BaseException) -> None:
        """End the engine, and leave nobody waiting."""
        for item in items:
            if not item.waiting.done():
                item.waiting.set_exception(EngineError("the engine has failed"))
        raise err

    def _decide_item(
        self, item: _Item, group: Group, drafts: list[_Draft], happened: list[Event], now: Instant
    ) -> None:
        command = item.command
        if isinstance(command, DeviceStatement):
            if self._storage_full and isinstance(command.statement, Intent):
                self._answer_unwritten(item, Refusal.STORAGE_FULL)
                return
            if command.may_wait and self._waiting_count >= self._limits.parked_for_quota:
                command = replace(command, may_wait=False)
        try:
            decision = decide(self._state, command, now=now)
        except StateError:
            raise
        except Exception as err:  # noqa: BLE001  # a bug in a rule must not stop the site: nothing has changed yet
            self._poison(item, err)
            return
        self._let_happen(group, command, decision, now)
        happened.extend(decision.events)
        if decision.wait is not None:
            item.waits_once = decision.wait.once
            if not item.deadline_ns:
                item.deadline_ns = self._monotonic_ns() + self._limits.quota_wait_ms * 1_000_000
            self._waiting.setdefault(decision.wait.account, []).append(item)
            self._waiting_count += 1
            return
        if decision.refused is not None:
            count = self.refused_unrecorded
            count[decision.refused] = count.get(decision.refused, 0) + 1
        drafts.append(self._draft(item, decision.reply))
        self.decided += 1

    def _draft(self, item: _Item, reply: Reply | None) -> _Draft:
        if reply is None:
            return _Draft(item, None, None, 0)
        state = self._state
        grant = None
        if reply.grant_of is not None:
            authorization = state.authorizations.get(reply.grant_of)
            grant = None if authorization is None else authorization.grant(state.gateway_id)
        device = state.devices.get(reply.device)
        receipted = 0 if device is None else state.receipted_counter(device)
        return _Draft(item, reply, grant, receipted)

    def _take(self, group: Group, command: Command, now: Instant) -> Decision:
        decision = decide(self._state, command, now=now)
        self._let_happen(group, command, decision, now)
        return decision

    def _let_happen(self, group: Group, command: Command, decision: Decision, now: Instant) -> None:
        state = self._state
        for event in decision.events:
            try:
                apply(state, event)
            except StateError:
                raise
            except Exception as err:
                raise StateError(f"applying {type(event).__name__} failed") from err
            if event.__class__ not in KIND_OF:
                continue
            kind, body = encode_event(event)
            group.entries.append(Entry(state.position, now, kind, body))
            if isinstance(event, Sealed):
                group.batches.append((event.incarnation, event.sequence, state.position, event.batch_hash))
            elif isinstance(event, Started):
                group.starts.append((state.position, event.start_id, state.incarnation))
            elif isinstance(event, DirectiveApplied):
                group.directives.append((event.version, state.position, state.directive_hash))
                if isinstance(command, DirectiveArrived) and command.body.WhichOneof("body") == "device":
                    device = command.body.device
                    group.devices.append((device.device_id, state.position, device.status))

    def _time_itself(self, group: Group, happened: list[Event], now: Instant) -> None:
        """Tick when it is time or an account ran low; seal when a threshold is reached."""
        state = self._state
        monotonic = self._monotonic_ns()
        tick_due = monotonic >= self._next_tick_ns
        if tick_due:
            self._next_tick_ns = monotonic + self._limits.tick_ms * 1_000_000
            if self._storage_full and self._journal.try_to_reserve():
                self._storage_full = False
                _log.info("room on the disk again")
        if tick_due or state.low or state.due:
            happened.extend(self._take(group, commands.Tick(), now).events)
        if state.incarnation == 0 or not state.has_something_to_say():
            self._unsaid_since_ns = 0
            return
        if not self._unsaid_since_ns:
            self._unsaid_since_ns = monotonic
        policy = state.seal_policy
        if (
            len(state.unsealed) >= policy.records
            or state.unsealed_micros >= policy.amount_micros > 0
            or monotonic - self._unsaid_since_ns >= policy.age_s * _NS
        ):
            happened.extend(self._take(group, commands.Tick(), now).events)
            happened.extend(self._take(group, commands.SealDue(), now).events)
            # What one batch could not bill is overdue: the next group's batch goes on with it.
            self._unsaid_since_ns = max(1, monotonic - policy.age_s * _NS) if state.unsealed or state.ended else 0

    def _after_commit(
        self,
        items: Sequence[_Item],
        drafts: Sequence[_Draft],
        signing: _Signing | None,
        happened: Iterable[Event],
    ) -> None:
        self.groups += 1
        self._durable_request = self._state.request_counter
        self._see_the_reserve()
        witness = self._witness()
        signed = [draft for draft in drafts if draft.grant is not None]
        for draft in drafts:
            if draft.grant is None:
                _resolve(draft.item, self._answer(draft, witness, None))
        if signing is not None:
            if signing.signatures.done():
                self._answer_signed(signed, witness, signing)
            else:
                self._answering.add(signing.signatures)
                signing.signatures.add_done_callback(lambda _: self._answer_signed(signed, witness, signing))
        wake = False
        for event in happened:
            if isinstance(event, Sealed):
                self._unsigned.append((event.incarnation, event.sequence, event.batch))
                self._unsigned_bell.ring()
            elif isinstance(event, QuotaRequested):
                self._request_bell.ring()
            elif isinstance(event, QuotaRequestClosed | UplinkSeen | DirectiveApplied):
                wake = True
            elif isinstance(event, UseSetAside):
                _log.error(
                    "a use is set aside: no batch can bill it",
                    authorization=event.authorization.hex(),
                    reason=event.reason,
                )
            if isinstance(event, DirectiveApplied | HelloSeen):
                self._again_bell.ring()
        if self._signed_incarnation != self._state.incarnation:
            # A new chain: nothing of it is signed yet.
            self._signed_incarnation, self._signed_sequence = self._state.incarnation, 0
        if wake and self._waiting:
            self._wake_waiting()
        for item in items:
            if isinstance(item.command, DirectiveArrived):
                self._tell_of_directive(item.command.body)

    def _see_the_reserve(self) -> None:
        if not self._journal.has_reserve and not self._storage_full:
            self._storage_full = True
            _log.error("disk full; the reserve keeps metering and closing going, new uses are told to come later")

    def _tell_of_directive(self, directive: directive_pb2.Directive) -> None:
        if directive.version > self._state.directive_version or directive.gateway_id != self._state.gateway_id:
            return
        for call in self.on_directive:
            try:
                call(directive)
            except Exception:  # noqa: BLE001  # what listens must not stop who writes
                _log.exception("a listener failed on a directive", version=directive.version)

    # Waiting for a quota ----------------------------------------------------------------------------------------------

    def _wake_waiting(self) -> None:
        """Decide again what waited for an account whose request is answered, or for an uplink that is gone."""
        state = self._state
        for account_id in list(self._waiting):
            account = state.accounts.get(account_id)
            if not state.online or account is None or account.request is None:
                items = self._waiting.pop(account_id)
                self._waiting_count -= len(items)
                self._queue.put_back([_no_longer_waiting(item) if item.waits_once else item for item in items])
        if self._queue:
            self._wake()

    def _expire_waiting(self) -> None:
        if not self._waiting:
            return
        now_ns = self._monotonic_ns()
        for account_id, items in list(self._waiting.items()):
            over = [item for item in items if item.deadline_ns <= now_ns]
            if not over:
                continue
            left = [item for item in items if item.deadline_ns > now_ns]
            if left:
                self._waiting[account_id] = left
            else:
                del self._waiting[account_id]
            self._waiting_count -= len(over)
            self._queue.put_back(_no_longer_waiting(item) for item in over)

    # Answers ----------------------------------------------------------------------------------------------------------

    def _start_signing(self, drafts: Sequence[_Draft]) -> _Signing | None:
        grants = [draft.grant for draft in drafts if draft.grant is not None]
        if not grants:
            return None
        payloads = [encode(grant) for grant in grants]
        to_be_signed = [
            cose.to_be_signed("grant", grant.recipient, payload)
            for grant, payload in zip(grants, payloads, strict=True)
        ]
        try:
            signatures: asyncio.Future[list[bytes]] = asyncio.ensure_future(self._grant_signer.sign_many(to_be_signed))
        except HsmError as err:
            signatures = asyncio.get_running_loop().create_future()
            signatures.set_exception(err)
        self._signing_count += len(grants)
        signatures.add_done_callback(lambda _: self._signed(len(grants)))
        return _Signing(payloads, signatures)

    def _signed(self, count: int) -> None:
        if self._signing_count > self._limits.signing:
            self._wake()
        self._signing_count -= count

    def _answer_signed(self, drafts: Sequence[_Draft], witness: Witness, signing: _Signing) -> None:
        self._answering.discard(signing.signatures)
        try:
            signatures = signing.signatures.result()
        except HsmError as err:
            # The grants are durable: their devices ask again and hear them then.
            _log.warning("grants could not be signed", count=len(drafts), fault=str(err))
            for draft in drafts:
                self._answer_unwritten(draft.item, Refusal.OVERLOADED)
            return
        kid = self._grant_signer.kid
        for draft, payload, signature in zip(drafts, signing.payloads, signatures, strict=True):
            _resolve(draft.item, self._answer(draft, witness, cose.encode_sign1(kid, payload, signature)))

    def _answer(self, draft: _Draft, witness: Witness, grant: bytes | None) -> Answer | None:
        reply = draft.reply
        if reply is None:
            return None
        return Answer(
            gateway=self._state.gateway_id,
            witness=witness,
            answers=reply.answers,
            status=reply.status,
            receipted_counter=draft.receipted_counter,
            refusal=reply.refusal,
            grant=grant,
            retry_after_ms=self._limits.retry_after_ms if reply.status is AnswerStatus.LATER else None,
            closed=reply.closed,
            ticked=reply.ticked,
            asks=reply.asks,
        )

    def _answer_unwritten(self, item: _Item, refusal: Refusal) -> None:
        command = item.command
        _resolve(item, self._later(command, refusal) if isinstance(command, DeviceStatement) else None)

    # What failed ------------------------------------------------------------------------------------------------------

    async def _rebuild(self) -> None:
        """Become again what the journal says; what is volatile stays."""
        old = self._state
        state = (await self._in_journal_thread(self._replay)).state
        state.online = old.online
        state.expected_incarnation = old.expected_incarnation
        state.waits = old.waits
        state.head_at = max(state.head_at, old.head_at)
        self._state = state

    async def _nothing_written(self, items: Sequence[_Item], err: JournalFull) -> None:
        """The disk is full and the reserve is gone: as if nobody had asked."""
        _log.error("disk full", fault=str(err))
        self._stop_waiting(items)
        await self._rebuild()
        self._storage_full = True
        for item in items:
            self._answer_unwritten(item, Refusal.STORAGE_FULL)

    def _stop_waiting(self, items: Sequence[_Item]) -> None:
        """What these wait for was rolled back with their group."""
        gone = {id(item) for item in items}
        for account_id, waiting in list(self._waiting.items()):
            left = [item for item in waiting if id(item) not in gone]
            self._waiting_count -= len(waiting) - len(left)
            if left:
                self._waiting[account_id] = left
            else:
                del self._waiting[account_id]

    async def _one_by_one(self, items: Sequence[_Item]) -> None:
        """Decide and commit each alone; park what fails alone."""
        self._stop_waiting(items)
        await self._rebuild()
        for item in items:
            if item.waiting.done():
                continue
            group, drafts, happened = Group(), list[_Draft](), list[Event]()
            try:
                self._decide_item(item, group, drafts, happened, self._clock.now())
                if group.entries:
                    await self._commit(group)
            except JournalFull as err:
                await self._nothing_written([item], err)
                continue
            except (StateError, JournalRejected) as err:
                self._stop_waiting([item])
                await self._rebuild()
                self._poison(item, err)
                await self._park(item, err)
                continue
            self._after_commit([item], drafts, self._start_signing(drafts), happened)

    def _poison(self, item: _Item, err: Exception) -> None:
        self.poisoned += 1
        _log.error("a command could not be decided", command=type(item.command).__name__, exc_info=err)
        self._answer_unwritten(item, Refusal.OVERLOADED)

    async def _park(self, item: _Item, err: Exception) -> None:
        command = item.command
        body = command.cose if isinstance(command, DeviceStatement) else getattr(command, "raw", b"")
        with contextlib.suppress(JournalFull, JournalRejected):
            await self._in_journal_thread(
                self._journal.park, self._clock.now(), type(command).__name__, body, f"{type(err).__name__}: {err}"
            )

    # Batches ----------------------------------------------------------------------------------------------------------

    async def _sign_batches(self) -> None:
        """Sign sealed batches in order: their bytes are durable, and after a crash the same bytes are signed."""
        wait_s = _SIGN_AGAIN_S
        while True:
            if not self._unsigned:
                await self._unsigned_bell.wait()
                continue
            incarnation, sequence, batch = self._unsigned[0]
            try:
                await self._witness_seal(incarnation, sequence, batch_hash(batch))
                signature = await self._batch_signer.sign(cose.to_be_signed("batch", BATCH_RECIPIENT, batch))
            except HsmError as err:
                _log.warning("a batch could not be signed yet", sequence=sequence, fault=str(err))
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _SIGN_AGAIN_AT_MOST_S)
                continue
            wait_s = _SIGN_AGAIN_S
            try:
                await self._in_journal_thread(
                    self._journal.sign, incarnation, sequence, signature, self._batch_signer.kid
                )
            except (JournalFull, JournalRejected) as err:
                _log.error("a batch's signature could not be kept", sequence=sequence, fault=str(err))
                await asyncio.sleep(_SIGN_AGAIN_AT_MOST_S)
                continue
            self._unsigned.popleft()
            if incarnation == self._signed_incarnation:
                self._signed_sequence = sequence
            self._batch_bell.ring()

    async def _seal_again(self) -> None:
        """After a new incarnation: hand the core the batches, one by one, that the chain before left without a receipt."""
        while True:
            state = self._state
            if not state.to_seal_again or not state.may_seal:
                await self._again_bell.wait()
                continue
            old = state.to_seal_again[0]
            raw = await self._in_journal_thread(self._read_batch, old.incarnation, old.sequence)
            await self.submit(SealAgain(raw=raw))
            if self._state is state and state.to_seal_again and state.to_seal_again[0] is old:
                # Not taken: something is to be decided first.
                await self._again_bell.wait()

    def _read_batch(self, incarnation: int, sequence: int) -> bytes:
        connection = self._journal.reader()
        try:
            return _sealed_at(read_entry(connection, read_batch_position(connection, incarnation, sequence))).batch
        finally:
            connection.close()

    async def _witness_seal(self, incarnation: int, sequence: int, sealed: bytes) -> None:
        """After the journal, before anybody else hears of the batch whose hash is ``sealed``."""
        if self._sealed_witness is not None and (incarnation, sequence) > self._witnessed:
            await self._sealed_witness.remember(SealedInToken(incarnation, sequence, sealed))
            self._witnessed = (incarnation, sequence)

    def batches_to_send(
        self, after_sequence: int, limit: int = 64, *, incarnation: int | None = None
    ) -> list[SignedBatchRow]:
        """Signed batches of this incarnation (or an earlier one) with a higher sequence, ascending, at most ``limit``."""
        connection = self._journal.reader()
        try:
            return [
                SignedBatchRow(
                    incarnation=incarnation,
                    sequence=sequence,
                    batch=_sealed_at(read_entry(connection, position)).batch,
                    signature=signature,
                    key_id=key_id,
                )
                for incarnation, sequence, position, signature, key_id in read_signed_batches(
                    connection,
                    self._state.incarnation if incarnation is None else incarnation,
                    after_sequence,
                    limit,
                )
            ]
        finally:
            connection.close()

    def earlier_incarnations(self) -> list[int]:
        """The incarnations before this one of which the journal has batches."""
        with contextlib.closing(self._journal.reader()) as connection:
            return read_earlier_incarnations(connection, self._state.incarnation)

    def directives(self, after_version: int, limit: int = 64) -> list[DirectiveApplied]:
        """Directives after a version as they were signed, ascending, at most ``limit``."""
        with contextlib.closing(self._journal.reader()) as connection:
            return [
                _directive_at(read_entry(connection, position))
                for position in read_directive_positions(connection, after_version, limit)
            ]

    def directive_links(self) -> list[tuple[int, bytes]]:
        """(version, hash): the newest directive, older ones at distances that double, and the oldest that is not pruned."""
        links: list[tuple[int, bytes]] = []
        distance, wanted = 1, self._state.directive_version
        last = None
        with contextlib.closing(self._journal.reader()) as connection:
            for last in read_directive_links(connection):
                if last[0] <= wanted:
                    links.append(last)
                    wanted, distance = last[0] - distance, 2 * distance
        return links if last is None or links[-1] == last else [*links, last]

    async def wait_for_batch(self, after_sequence: int) -> None:
        """Return when a signed batch with a higher sequence exists; ``EngineError`` when there will be none."""
        while self._signed_sequence <= after_sequence:
            self._check_running()
            await self._batch_bell.wait()

    def outstanding_quota_requests(self) -> list[QuotaRequestRow]:
        """Requests that the cloud has not answered, oldest first: send each until it is."""
        return [
            QuotaRequestRow(
                incarnation=self._state.incarnation,
                counter=request.counter,
                account_id=request.account_id,
                currency=request.currency,
                wanted_micros=request.wanted_micros,
            )
            for request in self._state.requests.values()
            if request.counter <= self._durable_request
        ]

    async def wait_for_quota_request(self, after_counter: int) -> None:
        """Return when a request with a higher counter has been made; ``EngineError`` when there will be none."""
        while self._durable_request <= after_counter:
            self._check_running()
            await self._request_bell.wait()

    async def detail(self, sequence: int) -> list[bytes]:
        """The leaves of a batch of this incarnation, in order, rebuilt from the journal in a thread of their own.

        Detail comes last: it waits while devices wait, for a bounded time.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.detail_waits_ms / 1_000):
                while self._is_busy:
                    await self._idle_bell.wait()
        return await asyncio.to_thread(self._read_detail, self._state.incarnation, sequence)

    def _read_detail(self, incarnation: int, sequence: int) -> list[bytes]:
        connection = self._journal.reader()
        try:
            sealed = _sealed_at(read_entry(connection, read_batch_position(connection, incarnation, sequence)))
            rows = read_entries(connection, sealed.first_position, sealed.last_position)

            def event_at(position: int) -> Event:
                entry = read_entry(connection, position)
                return decode(entry.kind, entry.body)

            return leaves_of_entries(
                billed_by(sealed.batch, (Placed(entry.position, decode(entry.kind, entry.body)) for entry in rows)),
                gateway_id=self._settings.gateway_id,
                event_at=event_at,
                start_id_at=lambda position: read_start_at(connection, position),
            )
        finally:
            connection.close()


def _no_longer_waiting(item: _Item) -> _Item:
    """The item, to be decided with what is there."""
    if isinstance(item.command, DeviceStatement):
        item.command = replace(item.command, may_wait=False)
    return item


def _boot_id() -> str:
    """Which boot of the machine this is; empty where the kernel does not say."""
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""


def _resolve(item: _Item, answer: Answer | None) -> None:
    if not item.waiting.done():
        item.waiting.set_result(answer)


def _cancel(signing: _Signing | None) -> None:
    if signing is not None:
        signing.signatures.cancel()


def _directive_at(entry: Entry) -> DirectiveApplied:
    event = decode(entry.kind, entry.body)
    if not isinstance(event, DirectiveApplied):
        raise JournalError(f"position {entry.position} is no directive")
    return event


def _sealed_at(entry: Entry) -> Sealed:
    event = decode(entry.kind, entry.body)
    if not isinstance(event, Sealed):
        raise JournalError(f"position {entry.position} is no batch")
    return event
