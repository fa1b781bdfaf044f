"""``kill -9`` of PostgreSQL and of the service while batches are posted: each ends up posted once, and a receipt that was heard stays the same bytes."""

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from os import kill
from pathlib import Path

import pytest
from ledger_story import CHG, OP, Story, grants

from farthing.ids import GatewayId
from farthing_cloud.database import EmbeddedServer, migrate, open_pool
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

CHILD = Path(__file__).with_name("posting_child.py")
BATCHES, USES = 24, 20
#: Who is killed after how many receipts.
KILLS = ((5, "service"), (10, "postgresql"), (15, "postgresql"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the server's data is."""
    folder = Path(tempfile.mkdtemp(prefix="farthing-killed-", dir="/tmp"))
    # The server runs as a user of its own when we are root.
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[EmbeddedServer]:
    """A PostgreSQL of its own, durable as shipped, which is started again when it dies."""
    server = EmbeddedServer(folder / "data")
    await server.start()
    watching = asyncio.create_task(server.watch())
    yield server
    watching.cancel()
    await asyncio.wait((watching,))
    await server.stop()


def sealed(story: Story) -> list[bytes]:
    """Batches of one gateway, each of many uses: from its quota first, and beyond it."""
    out = []
    for number in range(BATCHES):
        uses = [f"u{number * USES + use}" for use in range(USES)]
        claims = [
            (name, f"d{use}", number, number + 1, "0.01", "0.002", [(use, "0.01", "0.002")])
            for use, name in enumerate(uses)
        ]
        out.append(story.seal("G1", claims, [("P", "q1", CHG, "10:00")] * USES))
    return out


async def heard(child: asyncio.subprocess.Process, count: int) -> list[str]:
    """The next receipts that a child says."""
    assert child.stdout is not None
    return [(await child.stdout.readline()).decode().strip() for _ in range(count)]


def postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text("ascii").splitlines()[0])


async def test_killed_while_posting_every_batch_is_posted_once_and_its_receipt_stays(
    server: EmbeddedServer, folder: Path, tmp_path: Path
) -> None:
    url = server.url()
    await migrate(url, "farthing_cloud.ledger.schema", "ledger")
    pool = await open_pool(url, schema="ledger")
    store = PostgresStore(pool)
    story = Story(store)
    await grants(story)
    before = len(await store.transfers(OP))
    (tmp_path / "batches").write_text("\n".join(raw.hex() for raw in sealed(story)))

    async def begin() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, CHILD, url, tmp_path / "batches", stdout=asyncio.subprocess.PIPE
        )

    first: list[str] = []
    child = await begin()
    for after, victim in KILLS:
        first += await heard(child, after - len(first))
        # It is in the middle of the next: it waits for nobody.
        if victim == "service":
            child.kill()
            await child.wait()
            child = await begin()
            # A new life says everything again.
            assert await heard(child, len(first)) == first
        else:
            kill(postmaster(folder / "data"), signal.SIGKILL)
    first += await heard(child, BATCHES - len(first))
    assert await child.wait() == 0
    child = await begin()
    assert await heard(child, BATCHES) == first
    assert await child.wait() == 0

    assert server.restarts
    chain = await store.chain(GatewayId("G1"), 1)
    assert chain.sequence == BATCHES
    transfers = (await store.transfers(OP))[before:]
    assert sum(transfer.amount_micros for transfer in transfers if transfer.kind == "post") == BATCHES * USES * 12_000
    verdict = await store.verify()
    assert (verdict.fault, verdict.batches) == ("", BATCHES)
    await pool.close()
