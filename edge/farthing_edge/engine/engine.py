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
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import structlog

from farthing.clock import BusinessClock, Instant
from farthing.device.messages import Answer, Intent
from farthing.ids import START_ID_SIZE
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.commands import (
    Command,
    DeviceStatement,
    DirectiveArrived,
    TicksArrived,
)
from farthing_edge.authorization.deciding import decide
from farthing_edge.authorization.decision import Decision
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
)
from farthing_edge.authorization.events import encode as encode_event
from farthing_edge.authorization.state import CoreSettings, GatewayState, StateError
from farthing_edge.engine.answering import Answering, Drafts, Signing, cancel
from farthing_edge.engine.asked import Bell, EngineError, EngineLimits, Item, Waiting
from farthing_edge.engine.batches import Batches
from farthing_edge.engine.kernel_clock import is_synchronised
from farthing_edge.engine.lanes import Lanes
from farthing_edge.engine.quota_waits import QuotaWaits
from farthing_edge.engine.record import QuotaRequestRow, Record
from farthing_edge.engine.sealed_witness import SealedWitness
from farthing_edge.engine.signing import BatchSigner, GrantSigner
from farthing_edge.engine.upkeep import Upkeep, UpkeepLimits
from farthing_edge.engine.view import GatewayView
from farthing_edge.journal import snapshots
from farthing_edge.journal.errors import JournalError, JournalFull, JournalRejected
from farthing_edge.journal.replaying import Recalled, recall
from farthing_edge.journal.store import Entry, Group, Journal
from farthing_edge.journal.thread import JournalThread
from farthing_edge.metering.drafting import LeafDrafts

T = TypeVar("T")
_log = structlog.get_logger(__name__)
_NS = 1_000_000_000
#: Records whose leaves are drafted in one turn of the loop: a tenth of a millisecond in which nobody is heard.
_DRAFTED_IN_ONE_TURN = 8
#: A batch waits for a moment in which nobody does, until there is so many times what makes it due.
_PATIENCE = 2
#: Events with an index row of their own in the journal; and those that somebody is told of once they are durable. Nearly all are neither.
_INDEXED = frozenset({Sealed, Started, DirectiveApplied})
_NEWS = frozenset({Sealed, QuotaRequested, QuotaRequestClosed, UplinkSeen, DirectiveApplied, UseSetAside, HelloSeen})
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Written(NamedTuple):
    """A group, decided: what is to be written of it, and what is said then."""

    group: Group
    items: list[Item]
    drafts: Drafts
    signing: Signing | None
    happened: list[Event]
    #: Who waits for the signatures of batches that it keeps.
    kept: Sequence["asyncio.Future[None]"]


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
        is_synchronised: Callable[[], bool] = is_synchronised,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._clock = clock
        #: Whether the kernel vouches for the wall clock.
        self._is_synchronised = is_synchronised
        self._limits = limits or EngineLimits()
        self._monotonic_ns = monotonic_ns
        self._random_bytes = random_bytes
        self._state = GatewayState(settings)
        self.view = GatewayView(lambda: self._state, lambda: journal.position)
        #: Called after a directive is durable and obeyed, on the event loop.
        self.on_directive: list[Callable[[directive_pb2.Directive], None]] = []
        self._journal_thread: JournalThread | None = None
        self._queue: Lanes[Item] = Lanes()
        #: Set for ``run`` to look: something has ended, or is to be seen to.
        self._attend = asyncio.Event()
        self._trouble: Callable[[], Awaitable[None]] | None = None
        self._is_running = False
        self._is_woken = False
        self._alarm: asyncio.TimerHandle | None = None
        #: Leaves of what the next batch bills, made while there is nothing to decide.
        self._drafts = LeafDrafts()
        self._is_drafting = False
        #: The group whose commit is under way.
        self._writing: _Written | None = None
        #: Signatures of batches, which the next group keeps: a transaction of their own would keep everybody waiting.
        self._signatures: list[tuple[tuple[bytes, bytes, int, int], asyncio.Future[None]]] = []
        self._room = Bell()
        self._is_busy = False
        self._idle_bell = Bell()
        self._request_bell = Bell()
        #: Requests up to this are durable: only they may be sent.
        self._durable_request = 0
        self._unsaid_since_ns = 0
        self._next_tick_ns = 0
        self._storage_full = False
        self._stopping = False
        self._failure: BaseException | None = None
        self._boot_id = ""
        self.poisoned = 0
        self.groups = 0
        self.decided = 0
        #: Which batch of this incarnation is the last whose detail the cloud has proven: the uplink knows.
        self.proven_sequence: Callable[[], int] = lambda: 0
        self._waits = QuotaWaits(
            most=self._limits.parked_for_quota,
            wait_ms=self._limits.quota_wait_ms,
            monotonic_ns=monotonic_ns,
            put_back=self._queue.put_back,
        )
        self._answering = Answering(
            signer=grant_signer,
            limits=self._limits,
            state=lambda: self._state,
            durable_position=lambda: journal.position,
            has_room=self._wake,
        )
        #: What the journal has for the uplink to send.
        self.record = Record(journal=journal, gateway_id=settings.gateway_id, state=lambda: self._state)
        #: What becomes of sealed batches.
        self.batches = Batches(
            journal=journal,
            signer=batch_signer,
            witness=sealed_witness,
            state=lambda: self._state,
            submit=self.submit,
            check_running=self._check_running,
            in_journal_thread=self._in_journal_thread,
            keep=self._keep_signature,
        )
        self.upkeep = Upkeep(
            journal=journal,
            settings=settings,
            limits=upkeep or UpkeepLimits(),
            state=lambda: self._state,
            surely=lambda: self._state.clock.surely(self.now()),
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
            await self.batches.find_unsigned()
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
            asyncio.create_task(self.batches.sign(), name="sign batches"),
            asyncio.create_task(self.batches.seal_again(), name="seal again"),
            asyncio.create_task(self.upkeep.run(), name="upkeep"),
            asyncio.create_task(self.upkeep.keep_log_short(), name="keep log short"),
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
            await self._answering.said()
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
        for item in self._waits.take_all():
            self._queue.put(item.no_longer_waiting())
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
            *self._waits.take_all(),
        ]
        self._queue.clear()
        for item in items:
            item.fail(error)
        for future in (*(() if written is None else written.kept), *(future for _, future in self._signatures)):
            future.cancel()
        self._signatures.clear()
        self._is_busy = False
        self.batches.end()
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

    async def _commit_start(self, recalled: Recalled) -> None:
        clock = self._clock
        monotonic_us = clock.monotonic_ns() // 1_000
        lost = recalled.beyond
        self._boot_id = _boot_id()
        started = commands.Started(
            start_id=self._random_bytes(START_ID_SIZE),
            boot_id=self._boot_id,
            clock_epoch_us=clock.epoch_us,
            clock_real_epoch_us=clock.real_epoch_us,
            clock_rate=clock.rate,
            check_salt=self._random_bytes(START_ID_SIZE),
            entries_lost="" if lost is None else f"{lost.name} is of more entries than this journal has",
            real_us=clock.offset_us + monotonic_us,
            monotonic_us=monotonic_us,
            synchronised=self._is_synchronised(),
            journal_at=recalled.last_at,
        )
        group = Group()
        self._take(group, started, clock.now())
        remembered = await self.batches.remembered()
        if remembered is not None:
            self._take(group, remembered, clock.now())
        await self._commit(group)
        if lost is not None:
            # It has said what it had to say, and the journal remembers.
            snapshots.set_aside(lost, "beyond")
        self._durable_request = self._state.request_counter
        await self.batches.repair_witness()

    # Commands ---------------------------------------------------------------------------------------------------------

    async def submit(self, command: Command) -> Answer | None:
        """Decide ``command``; return when what follows is durable: an answer to a statement, None to all others.

        A statement that finds the queue full is answered "later"; other commands wait for room. ``EngineError`` when the engine
        has stopped: say nothing then.
        """
        while len(self._queue) >= self._limits.queue:
            if isinstance(command, DeviceStatement):
                return self._answering.later(command, Refusal.OVERLOADED)
            await self._room.wait()
            self._check_running()
        self._check_running()
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._queue.put(Item(command, future))
        self._wake()
        return await future

    def hear(self, command: DeviceStatement | TicksArrived, waiting: Waiting) -> None:
        """As ``submit`` of a statement, or of ticks (which find no room without a word: the next ones prove them), for who does not wait in a task of its own: ``waiting`` gets the answer, or the ``EngineError``."""
        if self._failure is not None or self._stopping:
            waiting.set_exception(EngineError("the engine has stopped"))
        elif len(self._queue) >= self._limits.queue:
            waiting.set_result(
                self._answering.later(command, Refusal.OVERLOADED) if isinstance(command, DeviceStatement) else None
            )
        else:
            self._queue.put(Item(command, waiting))
            self._wake()

    def _check_running(self) -> None:
        if self._failure is not None or self._stopping:
            raise EngineError("the engine has stopped") from self._failure

    def answer_refusal(
        self, *, answers: tuple[int, int] | None, refusal: Refusal, retry_after_ms: int | None = None
    ) -> Answer:
        """What ingress says on its own, before anything reaches the engine: the status follows from the number."""
        return self._answering.refusal(answers=answers, refusal=refusal, retry_after_ms=retry_after_ms)

    @property
    def refused_unrecorded(self) -> dict[int, int]:
        """Refusals that are not journaled (unknown devices, reused counters...), by number; volatile."""
        return self._answering.refused_unrecorded

    # The loop ---------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Look for work once this turn of the loop has brought all that it brings, and what was said is written."""
        thread = self._journal_thread
        self._wake_by(asyncio.get_running_loop().call_soon if thread is None else thread.soon)

    def _wake_by(self, soon: Callable[[Callable[[], None]], object]) -> None:
        if not self._is_woken:
            self._is_woken = True
            soon(self._woken)

    def _woken(self) -> None:
        self._is_woken = False
        self._go_on()

    def _go_on(self) -> None:
        """Decide what waits, unless a group is being written; else see to it that time itself is not forgotten."""
        if not self._is_running or self._writing is not None or self._trouble is not None:
            return
        if self._answering.is_full:
            # Too many grants wait for the token: their signatures wake us.
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._queue and not self._signatures:
            self._is_busy = False
            self._idle_bell.ring()
            if self._stopping:
                self._attend.set()
                return
            wait_s = (self._due_ns() - self._monotonic_ns()) / _NS
            if wait_s > 0:
                self._draft()
                self._alarm = asyncio.get_running_loop().call_later(wait_s, self._go_on)
                return
        self._is_busy = True
        self._next_group()

    def _draft(self) -> None:
        """Go on with the next batch's leaves, for as long as there is nothing to decide."""
        if not self._is_drafting and self._drafts.go_on(self._state, _DRAFTED_IN_ONE_TURN):
            self._is_drafting = True
            asyncio.get_running_loop().call_soon(self._draft_on)

    def _draft_on(self) -> None:
        self._is_drafting = False
        if self._is_running and (self._writing is not None or not self._is_busy):
            self._draft()

    def _due_ns(self) -> int:
        due = self._next_tick_ns
        if self._unsaid_since_ns:
            if self._is_batch_due(1):
                return 0
            due = min(due, self._unsaid_since_ns + self._state.seal_policy.age_s * _NS)
        return self._waits.due_ns(due)

    def _next_group(self) -> None:
        """Decide, and hand what follows to the journal and the token; the loop goes on meanwhile."""
        self._waits.expire()
        was_full = len(self._queue) >= self._limits.queue
        items = self._queue.take(self._limits.group)
        if was_full:
            self._room.ring()
        group = Group()
        drafts = Drafts()
        happened: list[Event] = []
        try:
            stepped_us = self._clock.strayed_us()
            if stepped_us:
                # Before anything is decided by it.
                happened.extend(self._follow_the_step(group, stepped_us))
            now = self._clock.now()
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
        signatures, self._signatures = self._signatures, []
        group.signatures += [row for row, _ in signatures]
        kept = [future for _, future in signatures]
        written = _Written(group, items, drafts, self._answering.sign(drafts), happened, kept)
        if group.is_empty:
            self._written(written, None, None)
            return
        assert self._journal_thread is not None  # it runs
        self._writing = written
        self._journal_thread.tell(partial(self._written, written), self._journal.commit, group)
        if not self._is_drafting and self._drafts.waiting(self._state) >= _DRAFTED_IN_ONE_TURN:
            # Nothing can be decided before it has returned: a writer that is never idle would draw up whole batches in one turn.
            self._is_drafting = True
            asyncio.get_running_loop().call_soon(self._draft_on)

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
            for future in written.kept:
                if not future.done():
                    future.set_result(None)
            self._after_commit(written.items, written.drafts, written.signing, written.happened)
        except BaseException as fault:  # noqa: BLE001  # a bug: it ends the engine, as its run's own exception
            self._see_to(partial(self._give_up, written.items, fault))
            return
        # What was said goes out first: who has his answer does not wait for others' decisions. Then what has come meanwhile is read: it shares the next commit.
        self._wake_by(asyncio.get_running_loop().call_soon)

    async def _not_written(self, written: _Written, err: BaseException) -> None:
        cancel(written.signing)
        for future in written.kept:
            if not future.done():
                future.set_exception(err)
        if isinstance(err, JournalFull):
            await self._nothing_written(written.items, err)
        elif isinstance(err, JournalRejected):
            _log.error("the journal refused a group", exc_info=err)
            await self._one_by_one(written.items)
        else:
            await self._give_up(written.items, err)

    async def _give_up(self, items: Sequence[Item], err: BaseException) -> None:
        """End the engine, and leave nobody waiting."""
        for item in items:
            item.fail(EngineError("the engine has failed"))
        raise err

    def _keep_signature(self, row: tuple[bytes, bytes, int, int]) -> "asyncio.Future[None]":
        """Keep a batch's signature with the next group; what became of that group, or of a group of its own where nobody else asks."""
        # Also while it stops: what is not kept any more is signed again at the next start.
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._signatures.append((row, future))
        self._wake()
        return future

    def _decide_item(self, item: Item, group: Group, drafts: Drafts, happened: list[Event], now: Instant) -> None:
        command = item.command
        if isinstance(command, DeviceStatement):
            if self._storage_full and isinstance(command.statement, Intent):
                self._answering.unwritten(item, Refusal.STORAGE_FULL)
                return
            if command.may_wait and self._waits.is_full:
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
            self._waits.add(item, decision.wait)
            return
        if decision.refused is not None:
            self._answering.count(decision.refused)
        self._answering.draft(drafts, item, decision.reply)
        self.decided += 1

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
            if event.__class__ not in _INDEXED:
                continue
            if isinstance(event, Sealed):
                group.batches.append((event.incarnation, event.sequence, state.position, event.batch_hash))
            elif isinstance(event, Started):
                group.starts.append((state.position, event.start_id, state.incarnation))
            elif isinstance(event, DirectiveApplied):
                group.directives.append((event.version, state.position, state.directive_hash))
                if isinstance(command, DirectiveArrived) and command.body.WhichOneof("body") == "device":
                    device = command.body.device
                    group.devices.append((device.device_id, state.position, device.status))

    def now(self) -> Instant:
        """What the gateway's clock shows, with every step of the wall clock that was seen."""
        return self._clock.now()

    def _clock_read(self, *, stepped_us: int, synchronised: bool) -> commands.ClockRead:
        clock = self._clock
        monotonic_us = clock.monotonic_ns() // 1_000
        return commands.ClockRead(
            boot_id=self._boot_id,
            real_us=clock.offset_us + monotonic_us,
            monotonic_us=monotonic_us,
            stepped_us=stepped_us,
            synchronised=synchronised,
        )

    def _follow_the_step(self, group: Group, stepped_us: int) -> Sequence[Event]:
        """The wall clock was put on or back: from here on so is ours, and the journal says so."""
        self._clock = self._clock.put_on(stepped_us)
        read = self._clock_read(stepped_us=stepped_us, synchronised=self._is_synchronised())
        happened = self._take(group, read, self._clock.now()).events
        _log.warning("the wall clock was stepped", by_s=stepped_us / 1_000_000, trusted=self._state.clock.trusted)
        return happened

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
        if tick_due and not state.clock.trusted and self._is_synchronised():
            happened.extend(self._take(group, self._clock_read(stepped_us=0, synchronised=True), now).events)
        if tick_due or state.low or state.due:
            happened.extend(self._take(group, commands.Tick(), now).events)
        if state.incarnation == 0 or not state.has_something_to_say():
            self._unsaid_since_ns = 0
            return
        if not self._unsaid_since_ns:
            self._unsaid_since_ns = monotonic
        age_ns = state.seal_policy.age_s * _NS
        # Who waits for an answer of this group would wait for its batch too.
        if self._is_batch_due(_PATIENCE if group.entries else 1) or monotonic - self._unsaid_since_ns >= age_ns:
            happened.extend(self._take(group, commands.Tick(), now).events)
            decision = self._take(group, commands.SealDue(drafted=self._drafts), now)
            happened.extend(decision.events)
            self._drafts.forget(state.sealed_position)
            if decision.leaves and isinstance(decision.events[0], Sealed):
                self.batches.drawn_up(decision.events[0], decision.leaves)
            # What one batch could not bill is overdue: the next group's batch goes on with it.
            self._unsaid_since_ns = max(1, monotonic - age_ns) if state.unsealed or state.ended else 0

    def _is_batch_due(self, times: int) -> bool:
        """Whether there are so many times the records, or the amount, that make a batch due."""
        state = self._state
        policy = state.seal_policy
        return (
            len(state.unsealed) >= times * policy.records or state.unsealed_micros >= times * policy.amount_micros > 0
        )

    def _after_commit(
        self,
        items: Sequence[Item],
        drafts: Drafts,
        signing: Signing | None,
        happened: Iterable[Event],
    ) -> None:
        self.groups += 1
        self._durable_request = self._state.request_counter
        self._see_the_reserve()
        self._answering.say(drafts, signing)
        wake = False
        for event in happened:
            if event.__class__ not in _NEWS:
                continue
            if isinstance(event, Sealed):
                self.batches.sealed(event)
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
                self.batches.look_again()
        self.batches.begin_chain(self._state.incarnation)
        if wake and self._waits:
            self._waits.wake(self._state)
            if self._queue:
                self._wake()
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

    # What failed ------------------------------------------------------------------------------------------------------

    async def _rebuild(self) -> None:
        """Become again what the journal says; what is volatile stays."""
        old = self._state
        state = (await self._in_journal_thread(self._replay)).state
        state.online = old.online
        state.expected_incarnation = old.expected_incarnation
        state.waits = old.waits
        state.head_at = max(state.head_at, old.head_at)
        if state.clock.offset_us is not None:
            # A step that is not in the journal has not been followed: the next group sees it again.
            self._clock = self._clock.put_on(state.clock.offset_us - self._clock.offset_us)
        self._state = state
        self._drafts.begin_again()

    async def _nothing_written(self, items: Sequence[Item], err: JournalFull) -> None:
        """The disk is full and the reserve is gone: as if nobody had asked."""
        _log.error("disk full", fault=str(err))
        self._waits.forget(items)
        await self._rebuild()
        self._storage_full = True
        for item in items:
            self._answering.unwritten(item, Refusal.STORAGE_FULL)

    async def _one_by_one(self, items: Sequence[Item]) -> None:
        """Decide and commit each alone; park what fails alone."""
        self._waits.forget(items)
        await self._rebuild()
        for item in items:
            if item.waiting.done():
                continue
            group, drafts, happened = Group(), Drafts(), list[Event]()
            try:
                self._decide_item(item, group, drafts, happened, self._clock.now())
                if group.entries:
                    await self._commit(group)
            except JournalFull as err:
                await self._nothing_written([item], err)
                continue
            except (StateError, JournalRejected) as err:
                self._waits.forget([item])
                await self._rebuild()
                self._poison(item, err)
                await self._park(item, err)
                continue
            self._after_commit([item], drafts, self._answering.sign(drafts), happened)

    def _poison(self, item: Item, err: Exception) -> None:
        self.poisoned += 1
        _log.error("a command could not be decided", command=type(item.command).__name__, exc_info=err)
        self._answering.unwritten(item, Refusal.OVERLOADED)

    async def _park(self, item: Item, err: Exception) -> None:
        command = item.command
        body = command.cose if isinstance(command, DeviceStatement) else getattr(command, "raw", b"")
        with contextlib.suppress(JournalFull, JournalRejected):
            await self._in_journal_thread(
                self._journal.park, self._clock.now(), type(command).__name__, body, f"{type(err).__name__}: {err}"
            )

    # For the uplink ---------------------------------------------------------------------------------------------------

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

    async def detail(self, sequence: int, incarnation: int | None = None) -> list[bytes]:
        """The leaves of a batch (None: of this incarnation), in order: as they were sealed a moment ago, or rebuilt from the journal in a thread
        of their own. The latter comes last: it waits while devices wait, for a bounded time.
        """
        of = self._state.incarnation if incarnation is None else incarnation
        leaves = self.batches.take_leaves(of, sequence)
        if leaves is not None:
            return list(leaves)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.detail_waits_ms / 1_000):
                while self._is_busy:
                    await self._idle_bell.wait()
        return await asyncio.to_thread(self.record.detail, of, sequence)


def _boot_id() -> str:
    """Which boot of the machine this is; empty where the kernel does not say."""
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""
