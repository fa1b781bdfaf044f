"""A process that posts batches as the service does, until it is killed: ``posting_child.py URL FILE``.

FILE has one batch a line, in hex. It posts one, some that wait together, one, and so on; it says the receipt of each, signed and kept, and
goes on past a database that is away.
"""

import asyncio
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.clock import Instant
from farthing.money import Currency
from farthing_cloud.database import open_pool
from farthing_cloud.ledger.core.quotas import GrantTerms
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.signing import PublicKeys, Signatures
from farthing_cloud.ledger.store.interface import StoreError
from farthing_cloud.ledger.store.postgres import PostgresStore

EUR = Currency("EUR")
MOST_TOGETHER = 3
TERMS = GrantTerms(share_ppm=1_000_000, smallest_micros=1, most_open_per_account=3, lifetime_us=1, outage_us=1)


class Key:
    """Signs anew each time, with another key in each life: a receipt that is made again is never the same bytes."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.spki = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    async def sign(self, label: str, data: bytes, *, urgent: bool = False) -> bytes:
        del label, urgent
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


async def main(url: str, batches: list[bytes]) -> None:
    """Post each until it has a receipt."""
    pool = await open_pool(url, schema="ledger")
    store, key = PostgresStore(pool), Key()
    ledger = Ledger(store, terms=TERMS, receipt_keys=())
    signatures = Signatures(signer=key, keys=PublicKeys(receipt=key.spki, directive=key.spki), store=store)
    waiting = [receive(raw, signature=b"", key_id=b"", currency=EUR) for raw in batches]
    together = 1
    while waiting:
        try:
            some = waiting[:together]
            outcomes = list(await ledger.post_batches(some, currency=EUR, now=Instant(0)))
            for batch in some[len(outcomes) :]:
                outcome = await ledger.post_batch(batch, currency=EUR, now=Instant(0))
                outcomes.append(outcome)
            contents = [outcome.receipt for outcome in outcomes if outcome.receipt is not None]
            assert len(contents) == len(some), outcomes
            receipts = [await signatures.receipt(content) for content in contents]
        except StoreError:
            # As a gateway does, at once: the pool itself waits for a connection.
            await asyncio.sleep(0)
            continue
        for receipt in receipts:
            print(receipt.SerializeToString().hex(), flush=True)
        del waiting[: len(some)]
        together = MOST_TOGETHER if together == 1 else 1
    await pool.close()


if __name__ == "__main__":
    lines = Path(sys.argv[2]).read_text("ascii").split()
    asyncio.run(main(sys.argv[1], [bytes.fromhex(line) for line in lines]))
