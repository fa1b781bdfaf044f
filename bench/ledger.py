"""C1: entries the ledger posts a second in SQL. C2: lines a second from gRPC to receipt.

Both on an embedded PostgreSQL of their own, durable as shipped (fsync, synchronous_commit on), beside a floor measured on
the same server in the same run. ``python -m bench.ledger`` prints both.
"""

import asyncio
import hashlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.clock import Instant, real_clock
from farthing.device import cose
from farthing.ids import AccountId, GatewayId, OperatorId, SiteId
from farthing.money import Currency
from farthing.v1 import batch_pb2, gateway_sync_pb2_grpc
from farthing_cloud.callers import Caller
from farthing_cloud.database import EmbeddedServer, Pool, migrate, open_pool
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.core.funds import Funding
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.quotas import GrantTerms, QuotaRequest
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import AccountStatus, Touch
from farthing_cloud.ledger.door import GatewaySyncServicer
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.signing import PublicKeys, Signatures
from farthing_cloud.ledger.store.interface import LedgerStore, Posted, Transaction
from farthing_cloud.ledger.store.loading import Loading
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import POST, PostgresStore
from farthing_cloud.ledger.store.writing import arguments

OP, SITE, GATEWAY, EUR = OperatorId("op"), SiteId("S1"), GatewayId("G1"), Currency("EUR")
NOW = Instant(1_700_000_000_000_000)
TERMS = GrantTerms(
    share_ppm=1_000_000, smallest_micros=1, most_open_per_account=1, lifetime_us=10**12, outage_us=10**12
)
#: A line posts net and tax, each one transfer of two entries: 250 lines are 1,000 entries.
LINES_PER_1000_ENTRIES = 250
C1_BATCHES = 60
C2_LINES, C2_BATCHES = 1_000, 40
WARM_UP = 8
ACCOUNTS = 250

C1_BUDGET = 50_000
C2_BUDGET = 25_000


class Key:
    """ES256 in software: the same signatures as a token's, without its latency."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.spki = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    async def sign(self, label: str, data: bytes, *, urgent: bool = False) -> bytes:
        del label, urgent
        return self.sign_now(data)

    def sign_now(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


async def open_ledger(store: LedgerStore, batch_key: bytes, accounts: int) -> tuple[Ledger, list[str]]:
    """A gateway, funded accounts, one quota each."""
    ledger = Ledger(store, terms=TERMS, receipt_keys=())
    await ledger.put_gateway(
        gateway_id=GATEWAY,
        operator_id=OP,
        site_id=SITE,
        currency=EUR,
        exposure_micros=2**53,
        batch_key=batch_key,
        grant_key=b"",
        time_zone="UTC",
        now=NOW,
    )
    quotas = []
    for number in range(accounts):
        account = AccountId(f"A{number}")
        await ledger.put_account(
            operator_id=OP,
            account_id=account,
            currency=EUR,
            credit_limit_micros=0,
            debt_limit_micros=0,
            status=AccountStatus.ACTIVE,
            preload_micros=0,
            now=NOW,
        )
        funding = Funding(
            operator_id=OP,
            account_id=account,
            currency=EUR,
            amount_micros=10**12,
            payment_id=f"p{number}",
            source="bank/main",
        )
        await ledger.fund(funding, now=NOW)
        answer = await ledger.request_quota(
            QuotaRequest(
                operator_id=OP,
                gateway_id=GATEWAY,
                incarnation=1,
                counter=number + 1,
                account_id=account,
                currency=EUR,
                wanted_micros=10**12,
            ),
            now=NOW,
        )
        quotas.append(answer.quota_id)
    return ledger, quotas


def _batches(quotas: list[str], count: int, lines: int) -> Iterator[bytes]:
    """A chain of batches; each line one use of a register of its own."""
    head = bytes(32)
    for sequence in range(1, count + 1):
        batch = batch_pb2.Batch(
            operator_id=OP,
            site_id=SITE,
            gateway_id=GATEWAY,
            incarnation=1,
            start_id=bytes(16),
            sequence=sequence,
            previous_hash=head,
            first_position=sequence,
            last_position=sequence,
            sealed_at_us=NOW,
            merkle_root=bytes(32),
            leaf_count=lines,
        )
        for line in range(lines):
            batch.lines.add(
                account_id=f"A{line % len(quotas)}",
                currency=EUR,
                quota_id=quotas[line % len(quotas)],
                tariff_id="t",
                tariff_version=1,
                tax_rate_ppm=200_000,
                evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
                quarter=line,
                net_micros=1_000,
                tax_micros=200,
            )
            claim = batch.claims.add(
                authorization_id=hashlib.sha256(f"{sequence}/{line}".encode()).digest()[:16],
                device_id=f"d{line % 500}",
                register_id=f"r{line // 500}",
                register_from=sequence * 10,
                register_to=sequence * 10 + 10,
                net_micros=1_000,
                tax_micros=200,
                final=True,
            )
            claim.shares.add(line=line, net_micros=1_000, tax_micros=200)
        raw = batch.SerializeToString(deterministic=True)
        head = hashlib.sha256(raw).digest()
        yield raw


async def analyze(pool: Pool) -> None:
    """What autovacuum does within a minute: before, PostgreSQL takes a table for one of a few rows, and plans accordingly."""
    async with pool.connection() as connection:
        await connection.execute(b"ANALYZE")


@asynccontextmanager
async def database() -> AsyncIterator[Pool]:
    folder = Path(tempfile.mkdtemp(prefix="farthing-bench-", dir="/tmp"))
    # The server runs as a user of its own when we are root.
    await asyncio.to_thread(folder.chmod, 0o755)
    server = EmbeddedServer(folder / "data")
    try:
        url = await server.start()
        await migrate(url, "farthing_cloud.ledger.schema", "ledger")
        pool = await open_pool(url, schema="ledger")
        try:
            yield pool
        finally:
            await pool.close()
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class _Recording(MemoryStore):
    """Plans on memory and keeps what was planned, so that only SQL is measured afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.postings: list[tuple[Touch | None, Posting]] = []
        self._touch: Touch | None = None

    def load(self, touch: Touch) -> Any:
        self._touch = touch
        return super().load(touch)

    def post(self, posting: Posting) -> Posted:
        self.postings.append((self._touch, posting))
        return super().post(posting)


async def _post_all(pool: Pool, accounts: int) -> float:
    """Entries a second: the posting call and its commit, batch after batch."""
    planned = _Recording()
    ledger, quotas = await open_ledger(planned, b"", accounts)
    await _post_batches(ledger, quotas)
    store = PostgresStore(pool)
    seconds: list[float] = []
    for touch, posting in planned.postings:
        if posting.batch is None:

            async def plain(tx: Transaction, posting: Posting = posting) -> None:
                await tx.post(posting)

            await store.run(plain)
            continue
        assert touch is not None

        async with pool.connection() as connection, connection.transaction():
            loading = Loading(connection)
            await loading.load(touch)
        parameters = arguments(posting, (), loading.places)
        async with pool.connection() as connection:
            began = time.perf_counter()
            async with connection.transaction():
                await connection.execute(POST, parameters)
            seconds.append(time.perf_counter() - began)
    entries = 2 * len(planned.postings[-1][1].transfers)
    return entries / statistics.median(seconds[WARM_UP:])


async def _post_batches(ledger: Ledger, quotas: list[str]) -> None:
    for raw in _batches(quotas, C1_BATCHES, LINES_PER_1000_ENTRIES):
        await ledger.post_batch(receive(raw, signature=b"", key_id=b"", currency=EUR), currency=EUR, now=NOW)


async def _copy_floor(pool: Pool) -> float:
    """Entries a second of COPY into a bare table, 1,000 a commit: the least a durable row costs here."""
    rows = [(1, number, number + 1, 1_000, 1, number, "post", "use") for number in range(500)]
    seconds = []
    async with pool.connection() as connection:
        await connection.execute(
            b"CREATE TABLE bare (posting_id bigint, debit_id bigint, credit_id bigint, amount_micros bigint,"
            b" quota bigint, line integer, kind text, cause text)"
        )
        await connection.commit()
        for _ in range(C1_BATCHES):
            began = time.perf_counter()
            async with (
                connection.transaction(),
                connection.cursor() as cursor,
                cursor.copy(b"COPY bare FROM STDIN") as copy,
            ):
                for row in rows:
                    await copy.write_row(row)
            seconds.append(time.perf_counter() - began)
        await connection.execute(b"DROP TABLE bare")
        await connection.commit()
    return 2 * len(rows) / statistics.median(seconds[WARM_UP:])


async def _c1() -> list[dict[str, object]]:
    figures: list[dict[str, object]] = []
    for what, accounts in (("cold accounts", ACCOUNTS), ("hot account", 1)):
        async with database() as pool:
            value = await _post_all(pool, accounts)
            floor = await _copy_floor(pool)
        figures.append(
            _figure(
                "C1",
                f"entries posted/s in SQL, 1,000 a batch, {what}",
                value,
                "entries/s",
                floor,
                "COPY of the same transfers into a bare table, same commits",
                C1_BUDGET,
            )
        )
    return figures


def c1() -> list[dict[str, object]]:
    """Entries posted a second, cold and hot."""
    return asyncio.run(_c1())


async def _c2() -> dict[str, object]:
    key, token = Key(), Key()
    async with database() as pool:
        store = PostgresStore(pool)
        ledger, quotas = await open_ledger(store, key.spki, ACCOUNTS)
        signatures = Signatures(signer=token, keys=PublicKeys(receipt=token.spki, directive=token.spki), store=store)
        server = grpc.aio.server()
        gateway_sync_pb2_grpc.add_GatewaySyncServicer_to_server(
            GatewaySyncServicer(
                ledger=ledger,
                signatures=signatures,
                clock=real_clock(),
                caller=lambda _: Caller(kind="gateway", id=GATEWAY),
                events=Bell(),
                head_interval_s=60,
            ),
            server,
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        key_id = cose.key_id(key.spki)
        signed = [
            batch_pb2.SignedBatch(
                batch=raw, signature=key.sign_now(cose.to_be_signed("batch", "cloud", raw)), key_id=key_id
            )
            for raw in _batches(quotas, C2_BATCHES, C2_LINES)
        ]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = gateway_sync_pb2_grpc.GatewaySyncStub(channel).PushBatches()  # type: ignore[call-arg]  # the aio stub takes no iterator

            async def send() -> None:
                for batch in signed:
                    await call.write(batch)
                await call.done_writing()

            sending = asyncio.create_task(send())
            began = 0.0
            for number in range(C2_BATCHES):
                await call.read()
                if number == WARM_UP - 1:
                    began = time.perf_counter()
            seconds = time.perf_counter() - began
            await sending
        await server.stop(None)
    async with database() as pool:
        floor = await _post_all(pool, ACCOUNTS) / 4
    value = (C2_BATCHES - WARM_UP) * C2_LINES / seconds
    return _figure(
        "C2",
        f"lines/s from gRPC to receipt, {C2_LINES:,} a batch, one gateway, signatures verified and made",
        value,
        "lines/s",
        floor,
        "C1's cold posting in SQL alone, as lines (4 entries each)",
        C2_BUDGET,
    )


def c2() -> dict[str, object]:
    """Lines a second through the door."""
    return asyncio.run(_c2())


def _figure(
    name: str, what: str, value: float, unit: str, floor: float, floor_what: str, budget: int
) -> dict[str, object]:
    return {
        "id": name,
        "what": what,
        "value": round(value),
        "unit": unit,
        "floor": round(floor),
        "floor_what": floor_what,
        "ratio": round(value / floor, 3),
        "budget": budget,
        "met": value >= budget,
    }


if __name__ == "__main__":
    print(json.dumps([*c1(), c2()], indent=1))
