"""Random audits: the draw is the checkpoint's and anybody's to make again; what fails is said, once."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_parts import append, batch, opened, sequencer
from typing_extensions import override

from farthing.tlog.draw import drawn, seed
from farthing.tlog.note import parse_note
from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.database import Pool
from farthing_cloud.publiclog import audits as auditing
from farthing_cloud.publiclog.audits import Audits, AuditTerms, Posted, keep_posted
from farthing_cloud.publiclog.sequencer import Sequencer

DAY_US = 86_400 * 1_000_000


# --- the draw ---------------------------------------------------------------------------------------------------------


def test_a_draw_by_hand() -> None:
    of = seed("example.com/log\n1\nAAAA\n")
    assert of == hashlib.sha256(b"farthing/audit/1\nexample.com/log\n1\nAAAA\n").digest()
    batch_hash = bytes(32)
    number = int.from_bytes(hashlib.sha256(of + batch_hash).digest()[:8], "big")
    # The least rate that draws it, and one less.
    rate = number * 1_000_000 // 2**64 + 1
    assert drawn(of, batch_hash, rate_ppm=rate)
    assert not drawn(of, batch_hash, rate_ppm=rate - 1)


@settings(max_examples=30)
@given(st.text(max_size=20), st.binary(min_size=32, max_size=32), st.integers(0, 1_000_000))
def test_who_is_drawn_at_a_rate_is_drawn_at_every_higher_one(text: str, batch_hash: bytes, rate_ppm: int) -> None:
    of = seed(text)
    assert drawn(of, batch_hash, rate_ppm=1_000_000)
    assert not drawn(of, batch_hash, rate_ppm=0)
    if drawn(of, batch_hash, rate_ppm=rate_ppm):
        assert drawn(of, batch_hash, rate_ppm=min(1_000_000, rate_ppm + 1))


def test_a_rate_draws_as_many_as_it_says() -> None:
    of = seed("a checkpoint")
    count = sum(drawn(of, number.to_bytes(32, "big"), rate_ppm=100_000) for number in range(10_000))
    # Four standard deviations: the seed is fixed, so it is so for ever.
    assert 880 <= count <= 1_120


# --- drawing and judging ----------------------------------------------------------------------------------------------


@dataclass
class Ledger(ledger_pb2_grpc.LedgerServicer):
    """Says of each batch what it is told to say."""

    says: dict[int, "ledger_pb2.AuditOutcome.ValueType"] = field(default_factory=dict)
    asked: list[tuple[int, bool]] = field(default_factory=list)

    @override
    async def AuditBatch(self, request: ledger_pb2.AuditBatchRequest, context: Any) -> Any:
        sequence = request.batch.sequence
        self.asked.append((sequence, request.due))
        waits = ledger_pb2.AUDIT_OUTCOME_UNANSWERED if request.due else ledger_pb2.AUDIT_OUTCOME_WAITS
        return ledger_pb2.AuditBatchResponse(outcome=self.says.get(sequence, waits), detail="as told")


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with opened(database_url) as found:
        yield found


@pytest.fixture
async def ledger() -> AsyncIterator[tuple[Ledger, grpc.aio.Channel]]:
    servicer, server = Ledger(), grpc.aio.server()
    ledger_pb2_grpc.add_LedgerServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, channel
    await server.stop(None)


class Clock:
    """Real time, as far as a test goes."""

    def __init__(self) -> None:
        self.us = 1_000

    def __call__(self) -> int:
        return self.us


async def post(log: Sequencer, pool: Pool, start: int, end: int) -> None:
    """The ledger posted batches: of g-1 the even ones, of g-2 the odd ones."""
    async with pool.connection() as connection, connection.transaction():
        await keep_posted(
            connection,
            [
                Posted(
                    batch_hash=batch(number).subject,
                    operator_id="city",
                    gateway_id=f"g-{1 + number % 2}",
                    incarnation=1,
                    sequence=number,
                )
                for number in range(start, end)
            ],
        )
    await append(log, pool, [batch(number) for number in range(start, end)])
    await log.publish()


def terms(rate_ppm: int, *, watch_s: int = 0, **of: int) -> AuditTerms:
    return AuditTerms(
        rate_ppm=rate_ppm,
        rate_ppm_of={name.replace("_", "-"): ppm for name, ppm in of.items()},
        due_s=86_400,
        watch_s=watch_s,
    )


@pytest.mark.real
async def test_what_is_drawn_follows_from_the_checkpoints(
    pool: Pool, ledger: tuple[Ledger, grpc.aio.Channel], tmp_path: Path
) -> None:
    log = sequencer(pool, tmp_path / "log")
    clock = Clock()
    audits = Audits(pool=pool, ledger=ledger[1], terms=terms(300_000, g_2=0), now_us=clock)
    await post(log, pool, 0, 100)
    first = log.files.published()
    while await audits.draw():
        pass
    await post(log, pool, 100, 150)
    second = log.files.published()
    while await audits.draw():
        pass
    assert first is not None
    assert second is not None
    listed = await audits.list("", 1_000)
    expected = {
        number
        for number in range(0, 150, 2)
        for checkpoint in [first if number < 100 else second]
        if drawn(seed(parse_note(checkpoint.note).text), batch(number).subject, rate_ppm=300_000)
    }
    assert {each.sequence for each in listed} == expected
    assert 5 < len(expected) < 60
    # Each says from what it was drawn, and at what rate: anybody can draw again.
    assert all(
        drawn(seed(parse_note(each.checkpoint).text), each.batch_hash, rate_ppm=each.rate_ppm) for each in listed
    )
    assert {each.gateway_id for each in listed} == {"g-1"}
    assert await audits.list("g-2", 10) == []
    # Nothing is drawn twice.
    assert not await audits.draw()
    assert await audits.list("", 1_000) == listed


@pytest.mark.real
async def test_each_audit_waits_until_it_is_answered_or_due(
    pool: Pool, ledger: tuple[Ledger, grpc.aio.Channel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "AUDITS_AT_ONCE", 2)
    servicer, channel = ledger
    log = sequencer(pool, tmp_path / "log")
    clock = Clock()
    audits = Audits(pool=pool, ledger=channel, terms=terms(1_000_000), now_us=clock)
    await post(log, pool, 0, 5)
    while await audits.draw():
        pass
    servicer.says = {1: ledger_pb2.AUDIT_OUTCOME_PASSED, 2: ledger_pb2.AUDIT_OUTCOME_FALSE}
    assert await audits.judge() == 2
    assert sorted(servicer.asked) == [(number, False) for number in range(5)]
    servicer.asked.clear()
    assert await audits.judge() == 0
    assert sorted(servicer.asked) == [(0, False), (3, False), (4, False)]
    servicer.says[3] = ledger_pb2.AUDIT_OUTCOME_PASSED
    clock.us += DAY_US
    assert await audits.judge() == 3
    assert {each.sequence: (each.outcome, each.detail) for each in await audits.list("", 10)} == {
        0: ("unanswered", "as told"),
        1: ("passed", "as told"),
        2: ("false", "as told"),
        3: ("passed", "as told"),
        4: ("unanswered", "as told"),
    }
    servicer.asked.clear()
    assert await audits.judge() == 0
    assert servicer.asked == []


@pytest.mark.real
async def test_whose_audit_failed_is_watched_for_a_while(
    pool: Pool, ledger: tuple[Ledger, grpc.aio.Channel], tmp_path: Path
) -> None:
    servicer, channel = ledger
    log = sequencer(pool, tmp_path / "log")
    clock = Clock()
    # Of g-1 (the even ones) all are drawn, of g-2 none.
    audits = Audits(pool=pool, ledger=channel, terms=terms(0, g_1=1_000_000, watch_s=3 * 86_400), now_us=clock)
    await post(log, pool, 0, 2)
    assert await audits.draw()
    servicer.says[0] = ledger_pb2.AUDIT_OUTCOME_FALSE
    assert await audits.judge() == 1
    lax = Audits(pool=pool, ledger=channel, terms=terms(0, watch_s=3 * 86_400), now_us=clock)
    await post(log, pool, 2, 6)
    assert await lax.draw()
    assert {each.sequence: each.rate_ppm for each in await lax.list("", 10)} == dict.fromkeys((0, 2, 4), 1_000_000)
    # It was due after a day: three days later nobody is watched any more.
    clock.us += 4 * DAY_US + 1
    await post(log, pool, 6, 8)
    assert await lax.draw()
    assert {each.sequence for each in await lax.list("", 10)} == {0, 2, 4}


def test_a_gateways_rate_counts_before_its_operators() -> None:
    of = terms(1, city=2, g_1=3)
    assert of.rate_of(operator_id="town", gateway_id="g-9") == 1
    assert of.rate_of(operator_id="city", gateway_id="g-9") == 2
    assert of.rate_of(operator_id="city", gateway_id="g-1") == 3
