"""A public log on a real database, with a key in memory instead of a token, and a witness that looks at every checkpoint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.tlog.checkpoint import Checkpoint, open_checkpoint
from farthing.tlog.entries import BatchEntry
from farthing.tlog.note import NoteKey, SignatureType
from farthing.tlog.witness import judge
from farthing_cloud.database import Pool, migrate, open_pool
from farthing_cloud.publiclog.files import LogFiles
from farthing_cloud.publiclog.sequencer import Sequencer
from farthing_cloud.publiclog.store import Leaf


class MemorySigner:
    """Signs as the token does; may be told to fail."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.signed: list[bytes] = []

    async def sign_ed25519(self, label: str, data: bytes) -> bytes:
        assert label == "log"
        self.signed.append(data)
        return self._key.sign(data)


SIGNER = MemorySigner()
KEY = NoteKey(name="example.com/city/batches", kind=SignatureType.ED25519, public=SIGNER.public)


def batch(number: int, *, epoch: int = 1, receipt: int | None = None) -> Leaf:
    """The entry of the batch of a number."""
    subject = number.to_bytes(32, "big")
    entry = BatchEntry(
        ledger_epoch=epoch,
        batch_hash=subject,
        receipt_hash=(number if receipt is None else receipt).to_bytes(32, "big"),
    )
    return Leaf(subject=subject, entry=entry.encode())


def batches(start: int, end: int) -> list[Leaf]:
    return [batch(number) for number in range(start, end)]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Pool]:
    await migrate(url, "farthing_cloud.publiclog.schema", "publiclog")
    pool = await open_pool(url, schema="publiclog", max_size=4)
    yield pool
    await pool.close()


def sequencer(pool: Pool, folder: Path) -> Sequencer:
    """A process's view of the log: everything that it remembers is new."""
    return Sequencer(log="batches", pool=pool, files=LogFiles(folder, KEY), signer=MemorySigner())


async def append(log: Sequencer, pool: Pool, leaves: list[Leaf], *, epoch: int = 1) -> int:
    async with pool.connection() as connection, connection.transaction():
        return await log.append(connection, leaves, ledger_epoch=epoch, same=lambda before, entry: before == entry)


class Watching:
    """A witness beside the folder: whatever it has seen is the beginning of what it sees."""

    def __init__(self, folder: Path) -> None:
        self.files = LogFiles(folder, KEY)
        self.last: Checkpoint | None = None

    def look(self) -> int:
        """The size of the log; fails where it forked, shrank, or does not hold."""
        published = self.files.published()
        if published is None:
            assert self.last is None
            return 0
        new, _ = open_checkpoint(published.note, KEY)
        judgement, reader = judge(self.last, new, self.files.fetch)
        assert judgement.fit, judgement
        assert reader is not None
        self.last = new
        return new.size

    def entries(self) -> list[bytes]:
        """All of them, each believed by the root."""
        self.look()
        if self.last is None:
            return []
        published = self.files.published()
        assert published is not None
        return list(self.files.reader(published).entries(0, published.size))
