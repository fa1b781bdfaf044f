"""Fixtures: one embedded PostgreSQL for the session, a fresh database for each test that asks."""

import asyncio
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from farthing.hsm.tmpfs import is_tmpfs
from farthing_cloud.database import EmbeddedServer, Pool, migrate, open_pool

_numbers = itertools.count(1)
#: Room for the servers of several processes with a few databases each, and for what else lives there.
ROOM_ON_TMPFS = 4 * 1024**3


def throwaway_folder(prefix: str) -> Path:
    """A folder for the data of a server that nothing outlives, where one may read and write it as another user.

    On tmpfs where there is room: a database is hundreds of files, and to copy one for a test costs a quarter of the time there. Never below a private folder: see the
    wheel's own rules about parents.
    """
    shared = Path("/dev/shm")
    has_room = (
        is_tmpfs(shared) and os.access(shared, os.W_OK | os.X_OK) and shutil.disk_usage(shared).free >= ROOM_ON_TMPFS
    )
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=shared if has_room else "/tmp"))
    # The server runs as a user of its own when we are root, and has to reach its data.
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def database_server() -> Iterator[str]:
    """URL of a PostgreSQL that lives as long as the session."""
    folder = throwaway_folder("farthing-postgresql-")
    server = EmbeddedServer(folder / "data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        url = asyncio.run(server.start())
        with psycopg.connect(url, autocommit=True) as connection:
            # Throwaway: nothing here has to survive a power cut, and tests should not wait for disks.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("ALTER SYSTEM SET synchronous_commit = off")
            connection.execute("ALTER SYSTEM SET max_wal_size = '128MB'")
            connection.execute("SELECT pg_reload_conf()")
        yield url
        asyncio.run(server.stop())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ledger_template(database_server: str) -> str:
    """Name of a database with an empty ledger: a copy of it is made quicker than the ledger's tables are."""
    name = "template_ledger"
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    asyncio.run(migrate(make_conninfo(database_server, dbname=name), "farthing_cloud.ledger.schema", "ledger"))
    return name


@pytest.fixture
def database_url(database_server: str, ledger_template: str) -> Iterator[str]:
    """URL of a database of its own, with nothing in it but an empty ledger."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(database_server, autocommit=True) as connection:
        template = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(template.format(sql.Identifier(name), sql.Identifier(ledger_template)))
    yield make_conninfo(database_server, dbname=name)
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
async def ledger_pool(database_url: str) -> AsyncIterator[Pool]:
    """A pool on a fresh ledger."""
    pool = await open_pool(database_url, schema="ledger")
    yield pool
    await pool.close()


@pytest.fixture
async def serving_pool(database_url: str) -> AsyncIterator[Pool]:
    """The same with the rights that a service has, and no others; and one connection: who asks for a second while it holds one waits in vain."""
    pool = await open_pool(make_conninfo(database_url, options="-c role=farthing_ledger"), schema="ledger", max_size=1)
    yield pool
    await pool.close()


async def emptied(pool: Pool, *schemas: str) -> None:
    """Forget every row of these schemas, as no role of a service may: quicker than a database of its own for each of many examples."""
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        rows = await connection.execute(
            """SELECT string_agg(format('DELETE FROM %%I.%%I', schemaname, tablename), ';') FROM pg_tables
            WHERE schemaname = ANY (%s) AND tablename NOT IN ('epoch', 'schema_step')""",
            (list(schemas),),
        )
        (every,) = await rows.fetchone() or ("",)
        await connection.execute(every)
