"""Beside the writer: snapshots by another process, old entries taken away, a journal that has lost entries found out."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from edge_playbook import M, Meter, until
from engine_site import Here, Site, said

from farthing.device import cose
from farthing.device.messages import AnswerStatus, decode_grant
from farthing.evidence.batches import batch_hash
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2
from farthing_edge.authorization import commands, events
from farthing_edge.engine import Engine
from farthing_edge.engine.upkeep import UpkeepLimits
from farthing_edge.journal import snapshots, verify


class Watched:
    """Rings at every snapshot that was written, or could not be: who waits for another process leaves it the processor."""

    def __init__(self, engine: Engine) -> None:
        self.upkeep = engine.upkeep
        self.rang = asyncio.Event()
        self.real = self.upkeep._run_snapshotting
        self.upkeep._run_snapshotting = self.run

    async def run(self, path: Path) -> str:
        try:
            return await self.real(path)
        finally:
            self.rang.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await self.rang.wait()
                self.rang.clear()
                await asyncio.sleep(0)


async def begin(engine, meter: Meter) -> None:
    granted = await engine.submit(said(meter.intent(Here()), "card"))
    meter.authorization = decode_grant(cose.decode_sign1(granted.grant).payload).authorization


async def use(engine, meter: Meter, times: int) -> None:
    for _ in range(times):
        answer = await engine.submit(said(meter.reading(Here(), meter.value + 10)))
        assert answer.status is AnswerStatus.RECORDED


async def test_snapshots_come_by_themselves_and_the_next_start_uses_one(bench) -> None:
    bench.upkeep = UpkeepLimits(snapshot_entries=15)
    meter = Meter("c1", 0)
    async with bench.running() as engine:
        watched = Watched(engine)
        await Site(engine).open(quota=10 * M)
        await begin(engine, meter)
        # The writer answers while the other process works.
        await use(engine, meter, 10)
        await watched.until(lambda: engine.upkeep.snapshot_position > 0)
        page = engine.upkeep.page()
        assert page["snapshot_position"] == snapshots.position_of(snapshots.found(bench.path)[0])
        assert page["snapshot_size"] == snapshots.found(bench.path)[0].stat().st_size
        first = engine.upkeep.snapshot_position
        await use(engine, meter, 20)
        await watched.until(lambda: engine.upkeep.snapshot_position > first)
        await use(engine, meter, 3)
    async with bench.running() as engine:
        assert engine.upkeep.snapshot_position > first
        answer = await engine.submit(said(meter.end(Here(), meter.value)))
        assert answer.closed
    report = verify(bench.path, bench.settings)
    assert report.fault is None
    assert report.snapshots >= 1
    assert report.billed_micros == 500_000 * 12 // 10 + -(-meter.value // 100) * 100 * 250 * 12 // 10


async def test_a_snapshot_that_cannot_be_written_is_tried_again_and_stops_nobody(bench) -> None:
    bench.upkeep = UpkeepLimits(snapshot_entries=12)
    meter = Meter("c1", 0)
    # In the way of the folder.
    folder = snapshots.folder_of(bench.path)
    folder.write_text("a file")
    async with bench.running() as engine:
        watched = Watched(engine)
        await Site(engine).open(quota=10 * M)
        await begin(engine, meter)
        await use(engine, meter, 6)
        await watched.until(lambda: engine.upkeep.failures > 0)
        folder.unlink()
        await use(engine, meter, 12)
        await watched.until(lambda: engine.upkeep.snapshot_position > 0)


async def test_a_journal_that_lost_entries_is_found_out_by_its_snapshot(bench) -> None:
    """Yesterday's copy of the file beside today's snapshot: no new authorization, metering goes on, and it is remembered."""
    bench.upkeep = UpkeepLimits(snapshot_entries=0)
    meter, other = Meter("c1", 0), Meter("x1", 7, tariff="toll-1")
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        await begin(engine, meter)
    shutil.copy(bench.path, bench.path.with_name("yesterday"))
    bench.upkeep = UpkeepLimits(snapshot_entries=1)
    async with bench.running() as engine:
        watched = Watched(engine)
        await use(engine, meter, 3)
        await watched.until(lambda: engine.upkeep.snapshot_position >= bench.journal.position - 1)
    bench.upkeep = UpkeepLimits(snapshot_entries=0)
    bench.path.with_name("yesterday").replace(bench.path)
    for suffix in ("-wal", "-shm"):
        bench.path.with_name(bench.path.name + suffix).unlink(missing_ok=True)
    for _ in range(2):
        async with bench.running() as engine:
            assert "more entries than this journal has" in engine.view.not_authorizing_reason
            refused = await engine.submit(said(other.intent(Here(), one_shot=1), "card"))
            assert refused.refusal is Refusal.NOT_AUTHORIZING
            await use(engine, meter, 1)
    assert [each.name for each in snapshots.folder_of(bench.path).iterdir() if each.name.endswith(".beyond")]
    assert verify(bench.path, bench.settings).fault is None


async def test_what_is_receipted_proven_and_old_is_taken_away_while_it_runs(bench) -> None:
    day_us = 24 * 3_600 * 1_000_000
    bench.upkeep = UpkeepLimits(
        snapshot_entries=10, retention_us=3 * day_us, backup_horizon_us=day_us, prune_every_s=0.01
    )
    meter = Meter("c1", 0)
    async with bench.running() as engine:
        watched = Watched(engine)
        engine.proven_sequence = lambda: engine.view.receipted_sequence
        await Site(engine).open(quota=10 * M, seal_age_s=0)
        await begin(engine, meter)
        await use(engine, meter, 30)
        await until(lambda: engine.view.sealed_sequence > 0 and engine.record.batches_to_send(0))
        last = engine.record.batches_to_send(0)[-1]
        receipt = batch_pb2.Receipt(
            gateway_id="G1", incarnation=1, sequence=last.sequence, batch_hash=batch_hash(last.batch)
        )
        await engine.submit(commands.ReceiptArrived(receipt=receipt, raw=b""))
        await watched.until(lambda: engine.upkeep.snapshot_position > 0)
        await use(engine, meter, 12)
        await watched.until(lambda: snapshots.covered(bench.path) > 0)
        assert engine.upkeep.pruned_position == 0  # nothing is old
        bench.hand.ns += 4 * day_us * 1_000
        await until(lambda: engine.upkeep.pruned_position > 0)
        # The session that began before it goes on, and its grant's entry is there to explain it.
        answer = await engine.submit(said(meter.end(Here(), meter.value)))
        assert answer.closed
        await until(lambda: engine.record.batches_to_send(last.sequence))
        newest = engine.record.batches_to_send(last.sequence)[-1].sequence
        assert await engine.detail(newest) is not None
    report = verify(bench.path, bench.settings)
    assert report.fault is None
    assert report.pruned > 0
    async with bench.running() as engine:
        assert engine.upkeep.pruned_position == report.pruned
        assert engine.view.counts()["open_authorizations"] == 0


async def test_a_group_with_a_statement_that_the_database_refuses_is_decided_one_by_one(
    bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement of SQL that really fails: the trigger refuses grants to one device."""
    # It reads bodies, so they are not packed.
    monkeypatch.setattr(events, "pack", lambda body: body)
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        with closing(sqlite3.connect(bench.path)) as connection:
            connection.execute(
                "CREATE TRIGGER refuses BEFORE INSERT ON entries WHEN NEW.kind = 10 AND instr(NEW.body, CAST('bc1' AS BLOB)) "
                "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            )
            connection.commit()
        answers = await asyncio.gather(
            engine.submit(said(Meter("c1", 0).intent(Here()), "card")),
            engine.submit(said(Meter("x1", 7, tariff="toll-1").intent(Here(), one_shot=1), "card")),
        )
        assert [answer.status for answer in answers] == [AnswerStatus.LATER, AnswerStatus.GRANTED]
        assert engine.poisoned == 1
        # What was refused left nothing behind: neither in memory nor in the file.
        assert engine.view.counts()["open_authorizations"] == 0
        assert engine.view.counts()["quota_held_micros"] == 0
        with closing(sqlite3.connect(bench.path)) as connection:
            ((what, fault),) = connection.execute("SELECT what, fault FROM parked")
            connection.execute("DROP TRIGGER refuses")
            connection.commit()
        assert what == "DeviceStatement"
        assert "not this one" in fault
        assert (await engine.submit(said(Meter("c1", 0).intent(Here()), "card"))).status is AnswerStatus.GRANTED
    assert verify(bench.path, bench.settings).fault is None
