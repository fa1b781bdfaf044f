"""Schema steps, pools and the server of our own."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncPipeline

from farthing_cloud.database import DatabaseError, EmbeddedServer, migrate, open_pool, read_steps

pytestmark = pytest.mark.real


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package "stepped" with a schema folder."""
    folder = tmp_path / "stepped" / "schema"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stepped", raising=False)
    (folder / "pre_0001_things.sql").write_text("CREATE TABLE thing (a int); INSERT INTO thing VALUES (1);")
    return folder


async def test_each_step_is_applied_once_whoever_starts_first(database_url: str, package: Path) -> None:
    both = await asyncio.gather(*(migrate(database_url, "stepped.schema", "stepped") for _ in range(2)))
    assert sorted(both) == [(), ("pre_0001_things.sql",)]
    (package / "post_0002_less.sql").write_text("ALTER TABLE thing DROP COLUMN b")
    (package / "pre_0002_more.sql").write_text("ALTER TABLE thing ADD COLUMN b int")
    assert [step.name for step in read_steps("stepped.schema")][1:] == ["pre_0002_more.sql", "post_0002_less.sql"]
    assert await migrate(database_url, "stepped.schema", "stepped", phases=("pre",)) == ("pre_0002_more.sql",)
    assert await migrate(database_url, "stepped.schema", "stepped") == ("post_0002_less.sql",)
    pool = await open_pool(database_url, schema="stepped")
    async with pool.connection() as connection:
        rows = await (await connection.execute("SELECT a FROM thing")).fetchall()
    await pool.close()
    assert rows == [(1,)]


async def test_what_always_applies_is_applied_again_when_its_text_has_changed(database_url: str, package: Path) -> None:
    function = package / "always_answer.sql"
    function.write_text("CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql AS 'SELECT a FROM thing'")
    assert await migrate(database_url, "stepped.schema", "stepped") == ("pre_0001_things.sql", "always_answer.sql")
    assert await migrate(database_url, "stepped.schema", "stepped") == ()
    # Steps first: the new text may need what they bring.
    (package / "pre_0002_more.sql").write_text("ALTER TABLE thing ADD COLUMN b int DEFAULT 41")
    function.write_text("CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql AS 'SELECT a + b FROM thing'")
    applied = await migrate(database_url, "stepped.schema", "stepped", phases=("pre",))
    assert applied == ("pre_0002_more.sql", "always_answer.sql")
    with psycopg.connect(database_url) as connection:
        connection.execute("SET search_path TO stepped")
        assert connection.execute("SELECT answer()").fetchone() == (42,)


async def test_a_step_that_fails_leaves_nothing_and_says_which(database_url: str, package: Path) -> None:
    await migrate(database_url, "stepped.schema", "stepped")
    (package / "pre_0002_broken.sql").write_text("INSERT INTO thing VALUES (2); SELECT 1/0;")
    with pytest.raises(DatabaseError, match=r"pre_0002_broken\.sql"):
        await migrate(database_url, "stepped.schema", "stepped")
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM stepped.thing").fetchone() == (1,)


async def test_a_step_is_never_changed_after(database_url: str, package: Path) -> None:
    await migrate(database_url, "stepped.schema", "stepped")
    (package / "pre_0001_things.sql").write_text("CREATE TABLE thing (a bigint)")
    with pytest.raises(DatabaseError, match="write a new step instead"):
        await migrate(database_url, "stepped.schema", "stepped")
    (package / "0003.sql").write_text("")
    with pytest.raises(DatabaseError, match=r"named pre_0001_words\.sql"):
        read_steps("stepped.schema")


async def test_no_server_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="PostgreSQL does not answer at"):
        await open_pool(f"postgresql://f:hunter2@/f?host={tmp_path}&connect_timeout=2")


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="farthing-embedded-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postmaster.pid").read_text().splitlines()[0])


START_AND_DIE = """
import asyncio, os, signal, sys
from pathlib import Path
from farthing_cloud.database import EmbeddedServer
asyncio.run(EmbeddedServer(Path(sys.argv[1])).start())
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_a_server_that_was_left_behind_is_taken_over_and_stopped(place: Path) -> None:
    data_dir = place / "data"
    killed = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-c",
            START_AND_DIE,
            str(data_dir),
        ],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    left = postmaster(data_dir)
    server = EmbeddedServer(data_dir)
    with psycopg.connect(await server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert postmaster(data_dir) == left
    second = EmbeddedServer(data_dir)
    await second.start()
    await second.stop()
    assert postmaster(data_dir) == left, "the first still uses it"
    await server.stop()
    assert not (data_dir / "postmaster.pid").exists()


async def test_a_server_that_dies_is_started_again_and_calls_go_on(place: Path) -> None:
    server = EmbeddedServer(place / "data")
    pool = await open_pool(await server.start())
    watch = asyncio.create_task(server.watch())
    os.kill(postmaster(place / "data"), signal.SIGKILL)
    answered = None
    while answered is None:
        try:
            async with pool.connection() as connection:
                answered = await (await connection.execute("SELECT 1")).fetchone()
        except psycopg.OperationalError:
            continue
    watch.cancel()
    assert answered == (1,)
    await pool.close()
    await server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only as root does the server run as another user")
async def test_a_private_folder_is_not_opened_to_others(place: Path) -> None:
    private = place / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(DatabaseError, match="is private"):
        await EmbeddedServer(private / "data").start()
    assert private.stat().st_mode & 0o777 == 0o700


async def test_a_connection_left_in_a_pipeline_serves_nobody_any_more(database_url: str) -> None:
    """As a call leaves one that was cancelled in the middle of its sentences."""
    pool = await open_pool(database_url, max_size=1)
    async with pool.connection() as left:
        await left.execute("SELECT 1")
        left.pgconn.enter_pipeline_mode()
        # What it knew of its pipeline went with the call.
        left_pipeline = left._pipeline = AsyncPipeline(left)
        left_pipeline.level = 1
    async with pool.connection() as connection:
        assert left.closed
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await pool.close()
