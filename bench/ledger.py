"""What the benches of the ledger share: an embedded PostgreSQL, durable as shipped (fsync, synchronous_commit on), gateways, batches."""

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.clock import Instant
from farthing.device import cose
from farthing.ids import AccountId, GatewayId, OperatorId, SiteId
from farthing.money import Currency
from farthing.v1 import batch_pb2
from farthing_cloud.database import EmbeddedServer, Pool, migrate, open_pool
from farthing_cloud.ledger.core.funds import Funding
from farthing_cloud.ledger.core.quotas import GrantTerms, QuotaRequest
from farthing_cloud.ledger.core.rows import AccountStatus
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import LedgerStore

OP, GATEWAY, EUR = OperatorId("op"), GatewayId("G1"), Currency("EUR")
NOW = Instant(1_700_000_000_000_000)
TERMS = GrantTerms(
    share_ppm=1_000_000, smallest_micros=1, most_open_per_account=1, lifetime_us=10**12, outage_us=10**12
)
WARM_UP = 8
ACCOUNTS = 250


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

    def seal(self, batch: bytes) -> batch_pb2.SignedBatch:
        """A batch as a gateway with this key sends it."""
        signature = self.sign_now(cose.to_be_signed("batch", "cloud", batch))
        return batch_pb2.SignedBatch(batch=batch, signature=signature, key_id=cose.key_id(self.spki))


async def open_ledger(store: LedgerStore, batch_key: bytes, accounts: int) -> tuple[Ledger, list[str]]:
    """A gateway, funded accounts, one quota each."""
    ledger = Ledger(store, terms=TERMS, receipt_keys=())
    return ledger, await add_gateway(ledger, GATEWAY, batch_key, accounts)


async def add_gateway(ledger: Ledger, gateway_id: GatewayId, batch_key: bytes, accounts: int) -> list[str]:
    """A gateway with a site and funded accounts of its own; the id of each one's quota."""
    await ledger.put_gateway(
        gateway_id=gateway_id,
        operator_id=OP,
        site_id=site_of(gateway_id),
        currency=EUR,
        exposure_micros=2**53,
        batch_key=batch_key,
        grant_key=b"",
        time_zone="UTC",
        now=NOW,
    )
    quotas = []
    for number in range(accounts):
        account = account_of(gateway_id, number)
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
            payment_id=f"p{account}",
            source="bank/main",
        )
        await ledger.fund(funding, now=NOW)
        answer = await ledger.request_quota(
            QuotaRequest(
                operator_id=OP,
                gateway_id=gateway_id,
                incarnation=1,
                counter=number + 1,
                account_id=account,
                currency=EUR,
                wanted_micros=10**12,
            ),
            now=NOW,
        )
        quotas.append(answer.quota_id)
    return quotas


def site_of(gateway_id: GatewayId) -> SiteId:
    """Each gateway has a site of its own."""
    return SiteId(f"S-{gateway_id}")


def account_of(gateway_id: GatewayId, number: int) -> AccountId:
    """Accounts that this gateway's batches bill."""
    return AccountId(f"A-{gateway_id}-{number}")


def batches(quotas: list[str], count: int, lines: int, gateway_id: GatewayId = GATEWAY) -> Iterator[bytes]:
    """A chain of batches; each line one use of a register of its own."""
    head = bytes(32)
    for sequence in range(1, count + 1):
        batch = batch_pb2.Batch(
            operator_id=OP,
            site_id=site_of(gateway_id),
            gateway_id=gateway_id,
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
                account_id=account_of(gateway_id, line % len(quotas)),
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
                authorization_id=hashlib.sha256(f"{gateway_id}/{sequence}/{line}".encode()).digest()[:16],
                device_id=f"{gateway_id}-d{line % 500}",
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
