"""Which detail goes when, against a line that only remembers."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from farthing.v1.gateway_sync_pb2 import UploadEvidenceRequest, UploadEvidenceResponse
from farthing_edge.config import UplinkSection
from farthing_edge.metrics import Metrics
from farthing_edge.uplink.detail import MAX_UNDER_WAY_BYTES, DetailUpload
from farthing_edge.uplink.ending import SessionOver
from farthing_edge.uplink.pace import Pace

LARGE = MAX_UNDER_WAY_BYTES * 3 // 4


@dataclass
class Line:
    """What went up, and the answers that were put on it."""

    written: list[int] = field(default_factory=list)
    answers: asyncio.Queue[UploadEvidenceResponse] = field(default_factory=asyncio.Queue)

    #: The line takes what is written while this is set.
    takes: asyncio.Event = field(default_factory=asyncio.Event)
    reads: int = 0

    def __post_init__(self) -> None:
        self.takes.set()

    async def write(self, request: UploadEvidenceRequest) -> None:
        self.written.append(request.sequence)
        await self.takes.wait()

    async def read(self) -> UploadEvidenceResponse:
        self.reads += 1
        return await self.answers.get()

    def answer(self, sequence: int, *, verified: bool = True) -> None:
        self.answers.put_nowait(UploadEvidenceResponse(incarnation=1, sequence=sequence, verified=verified))


@dataclass
class Site:
    """A gateway whose batches all have receipts; of some the detail is large, and nothing of it can be compressed."""

    sizes: dict[int, int] = field(default_factory=dict)
    receipted: int = 0
    read: list[int] = field(default_factory=list)
    line: Line = field(default_factory=Line)
    running: list[asyncio.Task[None]] = field(default_factory=list)

    async def detail(self, incarnation: int, sequence: int) -> list[bytes]:  # noqa: ARG002  # the uplink's call
        self.read.append(sequence)
        return [hashlib.shake_256(b"%d" % sequence).digest(self.sizes.get(sequence, 10))]

    async def went(self, *sequences: int) -> None:
        """Wait until just these went up, and nothing more will by itself."""
        await _until(lambda: len(self.line.written) >= len(sequences))
        for _ in range(50):
            # What is ready takes its turn, on the loop and in its threads.
            await asyncio.to_thread(int)
        assert self.line.written == list(sequences)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.to_thread(int)


@asynccontextmanager
async def uploading(site: Site, *, at_once: int) -> AsyncIterator[DetailUpload]:
    section = UplinkSection(address="127.0.0.1:1", evidence_quiet_s=0.0, details_in_flight=at_once)
    upload = DetailUpload(
        section=section,
        pace=Pace(None, now_ns=lambda: 0),
        metrics=Metrics(),
        detail=site.detail,
        receipted_sequence=lambda: site.receipted,
    )
    upload.begin(1, 0)
    line: Any = site.line
    site.running = [
        asyncio.create_task(upload.send(line, (), lambda: 0)),
        asyncio.create_task(upload.take_answers(line)),
    ]
    try:
        yield upload
    finally:
        for task in site.running:
            task.cancel()
        await asyncio.gather(*site.running, return_exceptions=True)


async def test_so_many_go_before_an_answer_and_each_answer_lets_one_more_go() -> None:
    site = Site(receipted=6)
    async with uploading(site, at_once=3) as upload:
        await site.went(1, 2, 3)
        site.line.answer(1)
        await site.went(1, 2, 3, 4)
        assert upload.proven_sequence == 1
        site.line.answer(2, verified=False)
        site.line.answer(3)
        await site.went(1, 2, 3, 4, 5, 6)
        assert upload.proven_sequence == 3


async def test_large_detail_goes_alone() -> None:
    site = Site(receipted=4, sizes={2: LARGE, 3: LARGE})
    async with uploading(site, at_once=8):
        await site.went(1, 2)
        site.line.answer(1)
        await site.went(1, 2)
        site.line.answer(2)
        await site.went(1, 2, 3, 4)


async def test_an_answer_is_waited_for_once_the_line_has_taken_what_it_is_to() -> None:
    site = Site(receipted=1)
    site.line.takes.clear()
    async with uploading(site, at_once=2) as upload:
        await site.went(1)
        assert site.line.reads == 0
        site.line.takes.set()
        site.line.answer(1)
        await _until(lambda: upload.proven_sequence == 1)


async def test_what_is_larger_than_the_bound_goes_all_the_same() -> None:
    site = Site(receipted=2, sizes={1: 3 * LARGE})
    async with uploading(site, at_once=8):
        await site.went(1)
        site.line.answer(1)
        await site.went(1, 2)


async def test_what_is_drawn_meanwhile_goes_before_the_others() -> None:
    site = Site(receipted=9)
    async with uploading(site, at_once=2) as upload:
        await site.went(1, 2)
        upload.draw(1, 7)
        upload.draw(1, 2)  # on its way already
        site.line.answer(1)
        site.line.answer(2)
        await site.went(1, 2, 7, 3)


async def test_an_answer_to_other_detail_is_over_and_proves_nothing() -> None:
    site = Site(receipted=2)
    async with uploading(site, at_once=2) as upload:
        await site.went(1, 2)
        site.line.answer(2)
        with pytest.raises(SessionOver, match="answered detail 1/2, not 1/1"):
            await site.running[1]
        assert upload.proven_sequence == 0
