"""Sealed batches after their commit: remembered by the token's witness, signed in order; and an earlier chain's, sealed again.

Rule 1: a batch's bytes are durable before they are signed, and after a crash the same bytes are signed.
Rule 2: the journal, then the token's witness, then anybody else.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing

import structlog

from farthing.device import cose
from farthing.evidence.batches import BATCH_RECIPIENT, batch_hash
from farthing.hsm import HsmError
from farthing_edge.authorization.commands import Command, SealAgain, TokenWitnessed
from farthing_edge.authorization.events import Sealed
from farthing_edge.authorization.state import GatewayState
from farthing_edge.engine.asked import Bell
from farthing_edge.engine.record import read_batch, sealed_at
from farthing_edge.engine.sealed_witness import Sealed as SealedInToken
from farthing_edge.engine.sealed_witness import SealedWitness
from farthing_edge.engine.signing import BatchSigner
from farthing_edge.engine.upkeep import InJournalThread
from farthing_edge.journal.errors import JournalFull, JournalRejected
from farthing_edge.journal.store import Journal, read_entry, read_unsigned_batches

_log = structlog.get_logger(__name__)
#: First and longest wait before a batch's signature is tried again, seconds: the token is beside us, not across a network.
_SIGN_AGAIN_S = 0.2
_SIGN_AGAIN_AT_MOST_S = 5.0
#: Leaves kept for who proves them as soon as their batch is receipted: a second of them at 500 uses a second. What is older the journal says again.
KEPT_LEAVES_SIZE = 1024 * 1024


class Batches:
    """What becomes of batches in this process. Nothing is started before :meth:`sign` and :meth:`seal_again`."""

    def __init__(
        self,
        *,
        journal: Journal,
        signer: BatchSigner,
        witness: SealedWitness | None,
        state: Callable[[], GatewayState],
        submit: Callable[[Command], Awaitable[object]],
        check_running: Callable[[], None],
        in_journal_thread: InJournalThread,
        keep: Callable[[tuple[bytes, bytes, int, int]], Awaitable[None]],
    ) -> None:
        self._journal = journal
        self._signer = signer
        self._witness = witness
        #: (incarnation, sequence) that the witness remembers.
        self._witnessed = (0, 0)
        self._state = state
        self._submit = submit
        self._check_running = check_running
        self._in_journal_thread = in_journal_thread
        #: Returns when (signature, key id, incarnation, sequence) is durable.
        self._keep_signature = keep
        self._unsigned: deque[tuple[int, int, bytes]] = deque()
        self._unsigned_bell = Bell()
        #: Leaves of the batch that is being written, by its hash; then, by incarnation and sequence, of those that are durable, the oldest first.
        self._drawn_up: tuple[bytes, tuple[bytes, ...]] = (b"", ())
        self._leaves: dict[tuple[int, int], tuple[bytes, ...]] = {}
        self._leaves_size = 0
        self._signed_incarnation = 0
        self._signed_sequence = 0
        self._signed_bell = Bell()
        self._again_bell = Bell()

    # What the writer tells --------------------------------------------------------------------------------------------

    async def find_unsigned(self) -> None:
        """What a process before this one sealed and did not sign."""
        self._unsigned.extend(await self._in_journal_thread(_read_unsigned, self._journal))
        state = self._state()
        unsigned = [sequence for incarnation, sequence, _ in self._unsigned if incarnation == state.incarnation]
        self._signed_incarnation = state.incarnation
        self._signed_sequence = min(unsigned) - 1 if unsigned else state.sequence

    async def remembered(self) -> TokenWitnessed | None:
        """What the token's witness remembers, for the core to compare; None without a witness or a batch."""
        remembered = None if self._witness is None else await self._witness.highest()
        if remembered is None:
            return None
        self._witnessed = remembered[:2]
        return TokenWitnessed(**remembered._asdict())

    async def repair_witness(self) -> None:
        """A token that is behind the journal lost its last write."""
        state = self._state()
        if state.sequence:
            await self._remember(state.incarnation, state.sequence, state.batch_hash)

    def sealed(self, event: Sealed) -> None:
        """A batch is durable."""
        batch_hashed, leaves = self._drawn_up
        if batch_hashed == event.batch_hash:
            self._keep(event.incarnation, event.sequence, leaves)
        self._drawn_up = b"", ()
        self._unsigned.append((event.incarnation, event.sequence, event.batch))
        self._unsigned_bell.ring()

    def drawn_up(self, event: Sealed, leaves: tuple[bytes, ...]) -> None:
        """A batch is decided, with these leaves; it is nobody's before it is ``sealed``."""
        self._drawn_up = event.batch_hash, leaves

    def _keep(self, incarnation: int, sequence: int, leaves: tuple[bytes, ...]) -> None:
        self._leaves[incarnation, sequence] = leaves
        self._leaves_size += sum(map(len, leaves))
        while self._leaves_size > KEPT_LEAVES_SIZE:
            self.take_leaves(*next(iter(self._leaves)))

    def take_leaves(self, incarnation: int, sequence: int) -> tuple[bytes, ...] | None:
        """The leaves of a batch sealed a moment ago, once; None where the journal has to say them."""
        leaves = self._leaves.pop((incarnation, sequence), None)
        if leaves is not None:
            self._leaves_size -= sum(map(len, leaves))
        return leaves

    def begin_chain(self, incarnation: int) -> None:
        """The chain is that of ``incarnation``; of a new one nothing is signed yet."""
        if self._signed_incarnation != incarnation:
            self._signed_incarnation, self._signed_sequence = incarnation, 0

    def look_again(self) -> None:
        """There may be something to seal again, or leave to do it."""
        self._again_bell.ring()

    def end(self) -> None:
        """There will be no more: whoever waits looks whether the engine runs."""
        self._signed_bell.ring()

    # For the uplink ---------------------------------------------------------------------------------------------------

    async def wait_for(self, after_sequence: int) -> None:
        """Return when a signed batch with a higher sequence exists; ``EngineError`` when there will be none."""
        while self._signed_sequence <= after_sequence:
            self._check_running()
            await self._signed_bell.wait()

    # Beside the writer ------------------------------------------------------------------------------------------------

    async def sign(self) -> None:
        """Sign what is sealed, in order, until cancelled."""
        wait_s = _SIGN_AGAIN_S
        while True:
            if not self._unsigned:
                await self._unsigned_bell.wait()
                continue
            incarnation, sequence, batch = self._unsigned[0]
            try:
                await self._remember(incarnation, sequence, batch_hash(batch))
                signature = await self._signer.sign(cose.to_be_signed("batch", BATCH_RECIPIENT, batch))
            except HsmError as err:
                _log.warning("a batch could not be signed yet", sequence=sequence, fault=str(err))
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _SIGN_AGAIN_AT_MOST_S)
                continue
            wait_s = _SIGN_AGAIN_S
            try:
                await self._keep_signature((signature, self._signer.kid, incarnation, sequence))
            except (JournalFull, JournalRejected) as err:
                _log.error("a batch's signature could not be kept", sequence=sequence, fault=str(err))
                await asyncio.sleep(_SIGN_AGAIN_AT_MOST_S)
                continue
            self._unsigned.popleft()
            if incarnation == self._signed_incarnation:
                self._signed_sequence = sequence
            self._signed_bell.ring()

    async def seal_again(self) -> None:
        """After a new incarnation: hand the core the batches, one by one, that the chain before left without a receipt."""
        while True:
            state = self._state()
            if not state.to_seal_again or not state.may_seal:
                await self._again_bell.wait()
                continue
            old = state.to_seal_again[0]
            raw = await self._in_journal_thread(read_batch, self._journal, old.incarnation, old.sequence)
            await self._submit(SealAgain(raw=raw))
            if self._state() is state and state.to_seal_again and state.to_seal_again[0] is old:
                # Not taken: something is to be decided first.
                await self._again_bell.wait()

    async def _remember(self, incarnation: int, sequence: int, sealed: bytes) -> None:
        """After the journal, before anybody else hears of the batch whose hash is ``sealed``."""
        if self._witness is not None and (incarnation, sequence) > self._witnessed:
            await self._witness.remember(SealedInToken(incarnation, sequence, sealed))
            self._witnessed = (incarnation, sequence)


def _read_unsigned(journal: Journal) -> Sequence[tuple[int, int, bytes]]:
    with closing(journal.reader()) as connection:
        return [
            (incarnation, sequence, sealed_at(read_entry(connection, position)).batch)
            for incarnation, sequence, position in read_unsigned_batches(connection)
        ]
