"""Detail on its way up: several batches' at once, when the rest of the line is quiet; what was drawn for audit first.

Rule 1: the cloud answers in the order in which detail was sent. What has no answer when the line breaks is sent again: the next Hello says
from where, and what was drawn stays drawn until it is answered.
Rule 2: more goes before the answers are there while it is little: of a large one, only that is under way, so that a batch never waits behind
more than one of them on a slow line.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from farthing.evidence.batches import compress_leaves
from farthing.v1 import gateway_sync_pb2
from farthing_edge.config import UplinkSection
from farthing_edge.metrics import Metrics
from farthing_edge.uplink.ending import SessionOver
from farthing_edge.uplink.pace import Pace

if TYPE_CHECKING:
    from grpc import aio

    Call = aio.StreamStreamCall[gateway_sync_pb2.UploadEvidenceRequest, gateway_sync_pb2.UploadEvidenceResponse]

_log = structlog.get_logger(__name__)

#: Batches drawn for audit and not yet sent: the cloud draws one in a hundred; beyond it the oldest goes in its turn.
MAX_DRAWN: Final = 256
#: Bytes under way beyond which nothing more goes before an answer.
MAX_UNDER_WAY_BYTES: Final = 256 * 1024

#: (incarnation, sequence).
Batch = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    batch: Batch
    size_bytes: int


class DetailUpload:
    """Which detail goes next, and what of it is under way. One for all connections: what was drawn outlives a break."""

    def __init__(
        self,
        *,
        section: UplinkSection,
        pace: Pace,
        metrics: Metrics,
        detail: Callable[[int, int], Awaitable[Sequence[bytes] | None]],
        receipted_sequence: Callable[[], int],
    ) -> None:
        self._section = section
        self._pace = pace
        self._metrics = metrics
        self._detail = detail
        self._receipted_sequence = receipted_sequence
        #: The highest batch whose detail the cloud verified in this connection's account of it.
        self.proven_sequence = 0
        self._incarnation = 0
        # Set by every receipt and batch: detail waits for their silence.
        self._stirred = asyncio.Event()
        #: Nothing has stirred since it was quiet: a backlog of detail goes up without a pause before each batch.
        self._quiet = False
        self._drawn: deque[Batch] = deque(maxlen=MAX_DRAWN)
        self._sent: deque[_Sent] = deque()
        self._answered = asyncio.Event()
        #: How many of what is under way the line has taken: the clock of an answer starts then, however slow the line is.
        self._taken = 0
        self._going = asyncio.Event()

    def stir(self) -> None:
        """Something else goes up or came down."""
        self._stirred.set()

    def draw(self, incarnation: int, sequence: int) -> None:
        """A batch was drawn for audit: its detail goes next."""
        self._drawn.append((incarnation, sequence))
        self._stirred.set()

    def begin(self, incarnation: int, proven_sequence: int) -> None:
        """A connection begins: ``proven_sequence`` is the highest batch of ``incarnation`` that the cloud says is proven, it and all before it."""
        self._incarnation = incarnation
        self.proven_sequence = proven_sequence
        self._sent.clear()
        self._taken = 0
        self._going.clear()

    async def send(self, call: "Call", earlier: Iterable[Batch], others_under_way: Callable[[], int]) -> None:
        """What was drawn first, then this incarnation's batches from the proven one on, then ``earlier`` ones. Does not end by itself."""
        uploaded = self.proven_sequence
        owed = deque(earlier)
        while True:
            drawn = self._next_drawn()
            left = drawn is not None or uploaded < self._receipted_sequence() or owed
            if not left or not await self._is_quiet(others_under_way):
                await self._stirred.wait()
                self._stirred.clear()
            elif len(self._sent) >= self._section.details_in_flight:
                # Looked at again afterwards: what is drawn meanwhile goes before the others.
                self._answered.clear()
                await self._answered.wait()
            elif drawn is not None:
                await self._upload(call, drawn)
            elif uploaded < self._receipted_sequence():
                uploaded += 1
                await self._upload(call, (self._incarnation, uploaded))
            else:
                await self._upload(call, owed.popleft())

    def _next_drawn(self) -> Batch | None:
        under_way = {sent.batch for sent in self._sent}
        return next((batch for batch in self._drawn if batch not in under_way), None)

    async def _upload(self, call: "Call", batch: Batch) -> None:
        """Send a batch's detail, or that there is none any more."""
        incarnation, sequence = batch
        leaves = await self._detail(incarnation, sequence)
        request = gateway_sync_pb2.UploadEvidenceRequest(incarnation=incarnation, sequence=sequence)
        if leaves is None:
            _log.warning("detail_gone", incarnation=incarnation, sequence=sequence)
            request.gone = "the journal does not have all of it"
        else:
            request.compressed_leaves = await asyncio.to_thread(compress_leaves, leaves)
        size = request.ByteSize()
        while self._sent and sum(sent.size_bytes for sent in self._sent) + size > MAX_UNDER_WAY_BYTES:
            self._answered.clear()
            await self._answered.wait()
        await self._pace.detail(size)
        self._sent.append(_Sent(batch=batch, size_bytes=size))
        await call.write(request)
        self._taken += 1
        self._going.set()
        self._metrics.sent_bytes.labels("detail").inc(size)

    async def take_answers(self, call: "Call") -> None:
        """Hear of each whether it holds. Does not end by itself."""
        while True:
            while not self._taken:
                self._going.clear()
                await self._going.wait()
            # It may be megabytes, on a line that is no faster than the cap.
            within_s = self._section.receipt_timeout_s + self._pace.takes_s(self._sent[0].size_bytes)
            try:
                async with asyncio.timeout(within_s):
                    answer = await call.read()
            except TimeoutError as err:
                raise SessionOver(f"no answer to detail within {within_s:g} s") from err
            if not isinstance(answer, gateway_sync_pb2.UploadEvidenceResponse):
                raise SessionOver("the cloud ended the stream of detail")
            self._take(answer)

    def _take(self, answer: gateway_sync_pb2.UploadEvidenceResponse) -> None:
        sent = self._sent[0].batch
        if (answer.incarnation, answer.sequence) != sent:
            raise SessionOver(
                f"the cloud answered detail {answer.incarnation}/{answer.sequence}, not {sent[0]}/{sent[1]}"
            )
        # Not before: a line that breaks meanwhile leaves it drawn.
        if sent in self._drawn:
            self._drawn.remove(sent)
        self._sent.popleft()
        self._taken -= 1
        self._answered.set()
        self._metrics.evidence.labels(str(answer.verified).lower()).inc()
        if not answer.verified:
            # The cloud opens a case; sending the same bytes again would not change it.
            _log.error("detail_refused", incarnation=sent[0], sequence=sent[1], fault=answer.fault[:500])
        elif sent[0] == self._incarnation:
            self.proven_sequence = max(self.proven_sequence, sent[1])

    async def _is_quiet(self, others_under_way: Callable[[], int]) -> bool:
        """Whether nothing is waiting for a receipt, and nothing stirred for a moment; once quiet, until something stirs."""
        if others_under_way():
            return False
        if self._quiet and not self._stirred.is_set():
            return True
        self._quiet = False
        self._stirred.clear()
        try:
            async with asyncio.timeout(self._section.evidence_quiet_s):
                await self._stirred.wait()
        except TimeoutError:
            self._quiet = True
            return True
        # Something did, but a gateway that is never quiet would never prove anything: between batches is quiet enough.
        return not others_under_way()
