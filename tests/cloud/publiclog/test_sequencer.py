"""The public log's sequencer on a real PostgreSQL: each entry once, in order, and never a checkpoint that contradicts another."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from log_parts import MemorySigner, Watching, append, batch, batches, opened, sequencer
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from farthing.evidence import merkle
from farthing.tlog import tree
from farthing.tlog.tiles import TileError
from farthing_cloud.database import Pool
from farthing_cloud.publiclog import sequencer as sequencing
from farthing_cloud.publiclog.files import Contradiction, LogFiles
from farthing_cloud.publiclog.sequencer import Sequencer

pytestmark = pytest.mark.real


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with opened(database_url) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "batches"


@pytest.fixture
def log(pool: Pool, folder: Path) -> Sequencer:
    return sequencer(pool, folder)


@pytest.fixture
def watching(folder: Path) -> Watching:
    return Watching(folder)


async def test_what_is_appended_is_published_once_and_in_order(log: Sequencer, pool: Pool, watching: Watching) -> None:
    assert await log.publish() == 0
    assert watching.look() == 0
    assert watching.last is not None  # an empty tree was signed: witnesses may begin
    size = 0
    for more in (1, 1, 253, 1, 1, 300):
        assert await append(log, pool, batches(size, size + more)) == more
        # Told again, whole or in part: nothing is added.
        assert await append(log, pool, batches(max(0, size - 2), size + more)) == 0
        assert await log.publish() == more
        assert await log.publish() == 0
        size += more
        assert watching.look() == size
    assert watching.entries() == [leaf.entry for leaf in batches(0, size)]
    # One told twice in one go is added once.
    assert await append(log, pool, [batch(9_000), batch(9_000)]) == 1
    # Another receipt of the same batch, after a restore of the ledger, is another thing to say.
    assert await append(log, pool, [batch(3, receipt=77), batch(3, receipt=77)]) == 1


async def test_a_backlog_is_published_in_pieces(
    log: Sequencer, pool: Pool, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequencing, "LEAVES_AT_ONCE", 100)
    await append(log, pool, batches(0, 250))
    assert [await log.publish() for _ in range(4)] == [100, 100, 50, 0]
    assert watching.entries() == [leaf.entry for leaf in batches(0, 250)]


async def test_processes_beside_each_other_give_each_index_once(pool: Pool, folder: Path, watching: Watching) -> None:
    logs = [sequencer(pool, folder) for _ in range(3)]

    async def work(log: Sequencer, start: int) -> None:
        for first in range(start, start + 60, 10):
            await append(log, pool, batches(first, first + 15))
            await log.publish()
            watching.look()

    await asyncio.gather(*(work(log, 30 * number) for number, log in enumerate(logs)))
    await logs[0].publish()
    entries = watching.entries()
    assert sorted(entries) == sorted(leaf.entry for leaf in batches(0, 125))


class Killed(BaseException):
    """What a test throws where a process would die."""


async def test_a_death_at_any_step_is_made_good(
    pool: Pool, folder: Path, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[str] = []
    size = 250
    await append(sequencer(pool, folder), pool, batches(0, size))
    await sequencer(pool, folder).publish()
    watching.look()

    def dies(where: str) -> Callable[..., Any]:
        def die(*_: object, **__: object) -> None:
            died.append(where)
            raise Killed

        return die

    # Each is where a process would die; the third argument is what it would have called next.
    steps: list[tuple[str, Any, str]] = [
        ("before the first file", LogFiles, "write"),
        ("with full tiles and no partial ones", sequencing.Edge, "partials"),
        ("before it signed", MemorySigner, "sign_ed25519"),
        ("before the database knew", sequencing.store, "add_checkpoint"),
        ("before it showed", LogFiles, "publish"),
        ("before it tidied", LogFiles, "tidy"),
    ]
    for where, owner, name in steps:
        # Over the edge of a tile, and short of it.
        await append(sequencer(pool, folder), pool, batches(size, size + 130))
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dies(where))
            with pytest.raises(Killed):
                await sequencer(pool, folder).publish()
        watching.look()
        after = sequencer(pool, folder)
        await append(after, pool, batches(size + 100, size + 140))
        while await after.publish():
            pass
        size += 140
        assert watching.look() == size
    assert died == [where for where, _, _ in steps]
    assert watching.entries() == [leaf.entry for leaf in batches(0, size)]


async def test_kill_nine(
    database_url: str, pool: Pool, folder: Path, watching: Watching, until: Callable[..., Any]
) -> None:
    """A real process, really killed, at a moment nobody chose; another goes on."""
    seen = 0
    # Once here; the long run says how often.
    for _ in range(int(os.environ.get("FARTHING_LOG_KILLS", "1"))):
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).parent / "publishing.py"), database_url, str(folder), str(seen)
        )
        try:
            target = seen + 100
            await until(
                lambda target=target, process=process: process.returncode is not None or watching.look() >= target
            )
            assert process.returncode is None
        finally:
            process.kill()
            await process.wait()
        seen = watching.look()
    # What the dead one had appended and not published is published now.
    log = sequencer(pool, folder)
    while await log.publish():
        pass
    entries = watching.entries()
    assert len(entries) >= seen
    assert entries == [leaf.entry for leaf in batches(0, len(entries))]


async def test_the_database_lets_nobody_change_a_leaf(log: Sequencer, pool: Pool) -> None:
    await append(log, pool, batches(0, 3))
    await log.publish()
    for statement in (
        "UPDATE leaf SET entry = '\\x00' WHERE leaf_index = 1",
        "DELETE FROM leaf WHERE leaf_index = 2",
        "TRUNCATE leaf CASCADE",
        "UPDATE checkpoint SET root = '\\x00'",
        "DELETE FROM checkpoint",
    ):
        async with pool.connection() as connection:
            with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                await connection.execute(statement)  # type: ignore[arg-type]  # written above, not made up
            await connection.rollback()


async def test_proofs_hold_under_what_was_published(log: Sequencer, pool: Pool) -> None:
    await append(log, pool, batches(0, 300))
    await log.publish()
    await append(log, pool, [batch(5, receipt=9), batch(300)])
    published, found = await log.entries_about([batch(5).subject, batch(300).subject], limit=8)
    # Nothing is shown that was not published.
    assert [(index, entry) for index, entry, _ in found] == [(5, batch(5).entry)]
    await log.publish()
    published, found = await log.entries_about([batch(5).subject, batch(300).subject], limit=8)
    assert [index for index, _, _ in found] == [5, 300, 301]
    for index, entry, path in found:
        assert merkle.verify_inclusion(entry, index, published.size, path, published.root)
    published, old_root, proof = await log.growth(300)
    assert tree.verify_consistency(300, published.size, old_root, published.root, proof)
    with pytest.raises(Contradiction):
        await log.growth(published.size + 1)


# --- after a restore --------------------------------------------------------------------------------------------------


class Backup:
    """A copy of the database as it stood, brought back later."""

    def __init__(self, server: str, url: str) -> None:
        self.server = server
        self.name = str(conninfo_to_dict(url)["dbname"])
        self.url = make_conninfo(server, dbname=f"{self.name}_restored")

    def take(self) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(f"{self.name}_restored"), sql.Identifier(self.name)
                )
            )

    def drop(self) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(f"{self.name}_restored"))
            )


@pytest.fixture
async def restored(
    database_server: str, database_url: str, folder: Path, watching: Watching
) -> AsyncIterator[tuple[Sequencer, Pool]]:
    """A log of 310 published leaves whose database knows 265, and published 260 as it remembers."""
    backup = Backup(database_server, database_url)
    async with opened(database_url) as pool:
        log = sequencer(pool, folder)
        await append(log, pool, batches(0, 260))
        await log.publish()
        await append(log, pool, batches(260, 265))
    backup.take()
    async with opened(database_url) as pool:
        log = sequencer(pool, folder)
        await append(log, pool, batches(265, 310))
        await log.publish()
    assert watching.look() == 310
    try:
        async with opened(backup.url) as pool:
            yield sequencer(pool, folder), pool
    finally:
        backup.drop()


async def refused(log: Sequencer, pool: Pool) -> None:
    """Neither appended nor published, and the database is as before."""
    before, _ = await log.shown()
    with pytest.raises(Contradiction):
        await append(log, pool, [batch(7_777)])
    with pytest.raises(Contradiction):
        await log.publish()
    assert (await log.shown())[0] == before
    assert log.waits_for


async def test_a_restored_database_does_not_fork_the_log(restored: tuple[Sequencer, Pool], watching: Watching) -> None:
    log, pool = restored
    await refused(log, pool)
    assert watching.look() == 310
    assert await log.reconcile(None) == (45, 0)
    assert log.waits_for == ""
    # The ledger posts again what it lost, and some of it anew.
    assert await append(log, pool, [*batches(262, 310), batch(265, epoch=2), *batches(310, 312)], epoch=2) == 3
    assert await log.publish() == 3
    assert watching.look() == 313
    assert watching.entries()[:310] == [leaf.entry for leaf in batches(0, 310)]


async def test_without_its_files_the_log_asks_for_what_others_saw(
    restored: tuple[Sequencer, Pool], folder: Path, watching: Watching, tmp_path: Path
) -> None:
    log, pool = restored
    newest = log.files.published()
    assert newest is not None
    mirror = tmp_path / "mirror"
    shutil.move(folder, mirror)
    await refused(log, pool)
    with pytest.raises(Contradiction, match="newest-checkpoint"):
        await log.reconcile(None)
    # A witness saw 310, the database has 265 and the files are gone: no tree can be made of that.
    with pytest.raises(Contradiction, match="mirror"):
        await log.reconcile(newest.note)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(mirror, folder)
    assert await log.reconcile(newest.note) == (45, 0)
    assert await append(log, pool, batches(310, 311), epoch=2) == 1
    assert await log.publish() == 1
    assert watching.look() == 311


async def test_lost_files_are_written_anew_from_a_database_that_was_not_restored(
    log: Sequencer, pool: Pool, folder: Path, watching: Watching
) -> None:
    await append(log, pool, batches(0, 600))
    await log.publish()
    watching.look()
    newest = log.files.published()
    assert newest is not None
    shutil.rmtree(folder)
    await refused(log, pool)
    taken_in, rewritten = await log.reconcile(newest.note)
    assert taken_in == 0
    assert rewritten > 0
    assert watching.entries() == [leaf.entry for leaf in batches(0, 600)]
    await append(log, pool, batches(600, 601))
    await log.publish()
    assert watching.look() == 601


async def test_two_trees_are_never_reconciled(restored: tuple[Sequencer, Pool], folder: Path, tmp_path: Path) -> None:
    """Somebody made the restored database go on with an empty folder: what it then says is not what was published."""
    log, pool = restored
    elsewhere = tmp_path / "elsewhere"
    fork = sequencer(pool, elsewhere)
    with pytest.raises(Contradiction):
        await append(fork, pool, [batch(7_777)])
    async with pool.connection() as connection:
        # By hand, past every check.
        await connection.execute(
            "INSERT INTO leaf SELECT 'batches', 265 + n, '\\x01', '\\x02' FROM generate_series(0, 99) AS n"
        )
        await connection.execute("UPDATE log SET size = 365 WHERE name = 'batches'")
    with pytest.raises(Contradiction):
        await log.publish()
    with pytest.raises(Contradiction, match="other ones"):
        await log.reconcile(None)


async def test_another_epoch_of_the_ledger_waits_for_people(log: Sequencer, pool: Pool, watching: Watching) -> None:
    await append(log, pool, batches(0, 5))
    await log.publish()
    with pytest.raises(Contradiction, match="epoch 2"):
        await append(log, pool, batches(5, 6), epoch=2)
    # What was taken in before may be published.
    assert await log.publish() == 0
    assert "epoch 2" in log.waits_for
    await log.reconcile(None)
    assert await append(log, pool, batches(5, 6), epoch=2) == 1
    await log.publish()
    assert watching.look() == 6
    with pytest.raises(Contradiction, match="epoch 3"):
        await append(log, pool, batches(6, 7), epoch=3)


async def test_a_checkpoint_file_that_is_not_ours_stops_everything(log: Sequencer, pool: Pool, folder: Path) -> None:
    await append(log, pool, batches(0, 5))
    await log.publish()
    file = folder / "checkpoint"
    note = file.read_bytes()
    for wrong in (note.replace(b"example.com/city", b"example.com/town"), b"", note.replace(b"\n5\n", b"\n4\n")):
        file.write_bytes(wrong)
        await refused(log, pool)
        with pytest.raises(Contradiction):
            await log.reconcile(None)
    file.write_bytes(note)
    assert await append(log, pool, batches(5, 6)) == 1


async def test_damaged_tiles_are_found_before_anything_is_signed(log: Sequencer, pool: Pool, folder: Path) -> None:
    await append(log, pool, batches(0, 5))
    await log.publish()
    tile = folder / "tile/0/000.p/5"
    tile.write_bytes(tile.read_bytes()[:-1] + b"x")
    await append(log, pool, batches(5, 6))
    fresh = sequencer(pool, log.files.folder)
    with pytest.raises(TileError):
        await fresh.publish()
    assert (await fresh.shown())[1] is not None
    assert fresh.waits_for
