"""What a root and the public logs say of the bundle beside this file."""

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from evidence_bundles import BATCH, CA, RECEIPT, bundle, certificate, der
from published_log import ORIGIN, PRIVATE, sign

from farthing.evidence import merkle
from farthing.evidence.batches import batch_hash
from farthing.evidence.bundle import Bundle, PublishedEntry
from farthing.ids import key_uri
from farthing.tlog.checkpoint import Checkpoint
from farthing.tlog.entries import BatchEntry, DeviceEntry, receipt_hash

PLAIN = bundle()


def voucher(role: str, owner: str, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, issuer=CA) -> bytes:
    return der(certificate(owner, key, issuer, uris=[key_uri(role, owner)]))  # type: ignore[arg-type]  # any key may be certified


BATCH_VOUCHER = voucher("batch", PLAIN.gateway, BATCH)
RECEIPT_VOUCHER = voucher("receipt", "cloud", RECEIPT)
LOG_VOUCHER = voucher("log", "cloud", PRIVATE)
VOUCHED = (BATCH_VOUCHER, RECEIPT_VOUCHER, LOG_VOUCHER)


def batch_entries(of: Bundle) -> list[bytes]:
    return [
        BatchEntry(
            ledger_epoch=1,
            batch_hash=batch_hash(each.batch.body),
            receipt_hash=receipt_hash(each.receipt.body if each.receipt is not None else b""),
        ).encode()
        for each in of.batches
    ]


def device_entry(status: str, *, device: str = PLAIN.billed.device, of: bytes = PLAIN.certificates[0]) -> bytes:
    return DeviceEntry(
        device=device,
        device_epoch=1,
        operator=PLAIN.operator,
        status=status,
        statement_key_hash=bytes(32),
        certificate_hash=hashlib.sha256(of).digest(),
        at_us=1,
    ).encode()


def published(entries: list[bytes], *, origin: str = ORIGIN) -> list[PublishedEntry]:
    """The entries between others in a log."""
    leaves = [b"other", *entries, b"more", b"yet more"]
    note = sign(Checkpoint(origin=origin, size=len(leaves), root=merkle.root(leaves)))
    return [
        PublishedEntry(
            checkpoint=note, index=index, entry=leaves[index], path=tuple(merkle.inclusion_proof(leaves, index))
        )
        for index in range(1, len(entries) + 1)
    ]


ENTRIES = [*batch_entries(PLAIN), device_entry("active"), device_entry("suspended")]
