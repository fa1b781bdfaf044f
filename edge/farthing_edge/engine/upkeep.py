"""What a journal needs beside being written: its log folded back, snapshots of it, old entries taken away, a look at how long its disk lasts.

Rule 1: nothing here stands in a decision's way: a snapshot is another process's work, the log is folded back in another thread, pruning goes in
pieces of some milliseconds, and when the writer has something to do it goes first.
Rule 2: nothing here is needed for an answer: what fails is logged and tried again later; only a disk that fails ends the process.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from farthing.clock import SECOND_US, Instant
from farthing_edge.authorization.state import CoreSettings, GatewayState
from farthing_edge.journal import retention, snapshots
from farthing_edge.journal.errors import JournalFull, JournalRejected
from farthing_edge.journal.snapshotting import command, settings_to_json
from farthing_edge.journal.store import Journal, read_batch_span

T = TypeVar("T")
_log = structlog.get_logger(__name__)
#: A day.
DAY_US = 24 * 3_600 * SECOND_US
_HOUR_S = 3_600
#: Longest time a snapshot may take: a replay of ten million entries.
SNAPSHOT_AT_MOST_S = 600.0
#: A failed one is tried again after this part of the usual number of entries.
_TRY_AGAIN_PART = 4
#: How long pruning waits for the writer to have nothing to do, before it takes its turn all the same.
_PATIENCE_S = 1.0
#: What a row costs beside its body: position, times, hash, page share.
ROW_OVERHEAD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepLimits:
    """When there is something to do."""

    #: A start replays at most some more than this: half a second. 0: no snapshots.
    snapshot_entries: int = 20_000
    #: Entries older than this may go, business time; None keeps them for ever.
    retention_us: int | None = None
    #: A ledger restored from a backup may ask for anything younger than this, business time.
    backup_horizon_us: int = 35 * DAY_US
    #: How often it is looked at whether entries may go, real time.
    prune_every_s: float = 60.0

    def __post_init__(self) -> None:
        if self.retention_us is not None and self.retention_us < self.backup_horizon_us:
            raise ValueError("entries are kept at least as long as the backup horizon")


class BufferGauge:
    """How fast the journal grows, over the last hour, in real time."""

    def __init__(self, monotonic_ns: Callable[[], int]) -> None:
        self._monotonic_ns = monotonic_ns
        self._since_ns = monotonic_ns()
        #: (minute, bytes): sixty of them.
        self._minutes: deque[list[int]] = deque(maxlen=60)

    def note(self, size: int) -> None:
        """So many bytes have become durable."""
        minute = self._monotonic_ns() // 60_000_000_000
        if self._minutes and self._minutes[-1][0] == minute:
            self._minutes[-1][1] += size
        else:
            self._minutes.append([minute, size])

    def bytes_per_hour(self) -> int:
        """Over the last hour, or since the start when that is less (never less than a minute)."""
        now_ns = self._monotonic_ns()
        oldest = now_ns // 60_000_000_000 - 60
        size = sum(each for minute, each in self._minutes if minute > oldest)
        seconds = min(_HOUR_S, max(60, (now_ns - self._since_ns) // 1_000_000_000))
        return size * _HOUR_S // seconds


class InJournalThread(Protocol):
    """Runs a call in the one thread that uses the journal."""

    def __call__(self, call: Callable[..., T], /, *arguments: object) -> Awaitable[T]: ...


class Upkeep:
    """Looks after one journal. Nothing is started before :meth:`run`."""

    def __init__(
        self,
        *,
        journal: Journal,
        settings: CoreSettings,
        limits: UpkeepLimits,
        state: Callable[[], GatewayState],
        surely: Callable[[], Instant],
        is_idle: Callable[[], bool],
        proven_sequence: Callable[[], int],
        in_journal_thread: InJournalThread,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._limits = limits
        self._state = state
        #: What has surely passed: nothing is taken away by a clock that may be ahead.
        self._surely = surely
        self._is_idle = is_idle
        self._proven_sequence = proven_sequence
        self._in_journal_thread = in_journal_thread
        self._due = asyncio.Event()
        self._log_is_long = asyncio.Event()
        self._try_at = limits.snapshot_entries
        self.gauge = BufferGauge(monotonic_ns)
        #: Of the newest snapshot; 0 for none.
        self.snapshot_position = 0
        self.snapshot_size = 0
        self.pruned_position = 0
        #: Snapshots that could not be written, in this process.
        self.failures = 0

    def begin(self, snapshot_position: int, pruned_position: int) -> None:
        """What the start found."""
        self.snapshot_position = snapshot_position
        self.pruned_position = pruned_position
        self._try_at = snapshot_position + self._limits.snapshot_entries
        # The start's own entry was written before this was known.
        self._due.clear()
        self._see_whether_due()

    def committed(self, bodies: int, entries: int) -> None:
        """A group has become durable: ``entries`` of them, ``bodies`` bytes in all."""
        self.gauge.note(bodies + entries * ROW_OVERHEAD)
        self._see_whether_due()
        if self._journal.has_long_log:
            self._log_is_long.set()

    def _see_whether_due(self) -> None:
        if self._limits.snapshot_entries and self._journal.position >= self._try_at:
            self._due.set()

    def hours_left(self) -> int | None:
        """How many hours the disk lasts at the present rate; None while nothing is written."""
        rate = self.gauge.bytes_per_hour()
        return self._journal.room() // rate if rate else None

    def page(self) -> dict[str, int | None]:
        """For people and metrics: positions, bytes, and hours (None while nothing is written)."""
        return {
            "snapshot_position": self.snapshot_position,
            "snapshot_size": self.snapshot_size,
            "pruned_position": self.pruned_position,
            "bytes_per_hour": self.gauge.bytes_per_hour(),
            "free_bytes": self._journal.room(),
            "hours_left": self.hours_left(),
        }

    async def run(self) -> None:
        """Do what is due, until cancelled; raise ``JournalBroken`` when the disk fails."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.prune_every_s):
                    await self._due.wait()
            if self._due.is_set():
                await self._write_snapshot()
                # What became due meanwhile may be in it.
                self._due.clear()
                self._see_whether_due()
            if self._limits.retention_us is not None:
                await self._prune(self._limits.retention_us)

    async def keep_log_short(self) -> None:
        """Fold the write-ahead log back whenever it is long, until cancelled; raise ``JournalBroken`` when the disk fails."""
        while True:
            await self._log_is_long.wait()
            try:
                beside = await _to_its_end(asyncio.create_task(asyncio.to_thread(self._journal.fold_beside)))
                await self._in_journal_thread(self._journal.fold, beside)
            except (JournalFull, JournalRejected) as err:
                _log.warning("the write-ahead log could not be folded back", fault=str(err))
                await asyncio.sleep(_PATIENCE_S)
            self._log_is_long.clear()
            if self._journal.has_long_log:
                self._log_is_long.set()

    # Snapshots --------------------------------------------------------------------------------------------------------

    async def _write_snapshot(self) -> None:
        position = self._journal.position
        fault = await self._run_snapshotting(self._journal.path)
        if fault:
            self.failures += 1
            self._try_at = position + max(1, self._limits.snapshot_entries // _TRY_AGAIN_PART)
            _log.warning("a snapshot could not be written; the next start takes longer", fault=fault)
            return
        self._try_at = self.snapshot_position + self._limits.snapshot_entries
        _log.info("snapshot written", position=self.snapshot_position, size=self.snapshot_size)

    async def _run_snapshotting(self, path: Path) -> str:
        """Let a process of its own write one; what went wrong, or nothing."""
        program = await asyncio.create_subprocess_exec(
            *command(path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(SNAPSHOT_AT_MOST_S):
                said, fault = await program.communicate(settings_to_json(self._settings))
        except TimeoutError:
            return f"it took longer than {SNAPSHOT_AT_MOST_S:.0f} s"
        finally:
            if program.returncode is None:
                # What it had begun has a name of its own, and the next one does not mind.
                program.kill()
                await asyncio.shield(program.wait())
        if program.returncode != 0:
            return fault.decode(errors="replace").strip()[-500:] or f"it ended with {program.returncode}"
        written = json.loads(said)
        self.snapshot_position, self.snapshot_size = written["position"], written["size"]
        return ""

    # Retention --------------------------------------------------------------------------------------------------------

    async def _prune(self, retention_us: int) -> None:
        may = await asyncio.to_thread(self._prunable, retention_us)
        began = self.pruned_position
        try:
            while may.position > self.pruned_position:
                await self._a_quiet_moment()
                up_to = await self._in_journal_thread(self._journal.change, partial(retention.prune, may))
                if up_to == self.pruned_position:
                    break
                self.pruned_position = up_to
            if self.pruned_position > began:
                await self._in_journal_thread(self._journal.change, partial(retention.let_go, may))
                _log.info("entries pruned", up_to=self.pruned_position)
        except (JournalFull, JournalRejected) as err:
            _log.warning("entries could not be pruned", fault=str(err))

    def _prunable(self, retention_us: int) -> retention.Prunable:
        state = self._state()
        with closing(self._journal.reader()) as connection:
            proven = read_batch_span(connection, state.incarnation, self._proven_sequence())
            receipted = retention.receipted_by(connection, self._surely() - self._limits.backup_horizon_us)
        return retention.prunable(
            state,
            proven_position=min(proven, receipted),
            covered=snapshots.covered(self._journal.path),
            at_us=self._surely() - max(retention_us, self._limits.backup_horizon_us),
        )

    async def _a_quiet_moment(self) -> None:
        until = asyncio.get_running_loop().time() + _PATIENCE_S
        while not self._is_idle() and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110  # a queue that is empty rings no bell
            await asyncio.sleep(0.01)


async def _to_its_end(task: "asyncio.Task[int]") -> int:
    """Wait for what a thread does also when it is no longer wanted: it must not be at the journal's files when others are."""
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done():
            await asyncio.wait([task])
