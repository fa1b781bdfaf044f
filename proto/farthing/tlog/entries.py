"""What stands in the public logs: one entry a leaf, deterministic CBOR (RFC 8949, section 4.2.1).

Log ``batches``, an entry for each posted batch and its receipt, hashes only::

    ["farthing/log/batch/1", ledger epoch, SHA-256 of the batch's bytes, SHA-256 of the receipt's bytes]

Log ``devices``, an entry for each thing that became of a device's identity::

    ["farthing/log/device/1", device, device epoch, operator, status, SHA-256 of its statement key (SubjectPublicKeyInfo),
     SHA-256 of its certificate (DER), at_us]
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import cbor2

from farthing.device import cbor
from farthing.ids import DeviceId, IdError, OperatorId, parse_id

BATCHES: Final = "batches"
DEVICES: Final = "devices"
LogName: TypeAlias = Literal["batches", "devices"]
LOG_NAMES: Final[tuple[LogName, ...]] = (BATCHES, DEVICES)

_BATCH: Final = "farthing/log/batch/1"
_DEVICE: Final = "farthing/log/device/1"
_HASH_SIZE: Final = 32
_MAX_COUNT: Final = 2**63 - 1
#: What a device may be; the last word of the registry's status.
STATUSES: Final = ("active", "suspended", "blocked", "decommissioned")


class EntryError(ValueError):
    """Bytes that are no entry of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEntry:
    """A batch that was posted, and what its receipt says. ``ledger_epoch`` counts up when the ledger was restored."""

    ledger_epoch: int
    batch_hash: bytes
    receipt_hash: bytes

    def encode(self) -> bytes:
        """The leaf."""
        return cbor2.dumps([_BATCH, self.ledger_epoch, self.batch_hash, self.receipt_hash], canonical=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEntry:
    """A device's identity from ``at_us`` (business time) on."""

    device: DeviceId
    device_epoch: int
    operator: OperatorId
    status: str
    statement_key_hash: bytes
    certificate_hash: bytes
    at_us: int

    def encode(self) -> bytes:
        """The leaf."""
        return cbor2.dumps(
            [
                _DEVICE,
                self.device,
                self.device_epoch,
                self.operator,
                self.status,
                self.statement_key_hash,
                self.certificate_hash,
                self.at_us,
            ],
            canonical=True,
        )


def receipt_hash(body: bytes) -> bytes:
    """What an entry says of a receipt: SHA-256 of its bytes without the signature, which differs each time it is made."""
    return hashlib.sha256(body).digest()


def decode(data: bytes) -> BatchEntry | DeviceEntry:
    """The entry in a leaf; raise ``EntryError``."""
    try:
        value = cbor.decode(data)
    except cbor.CborError as err:
        raise EntryError("not CBOR in its one form") from err
    match value:
        case (str(kind), int(epoch), bytes(batch), bytes(receipt)) if kind == _BATCH:
            entry: BatchEntry | DeviceEntry = BatchEntry(
                ledger_epoch=_count(epoch), batch_hash=_hash(batch), receipt_hash=_hash(receipt)
            )
        case (str(kind), device, int(epoch), operator, str(status), bytes(key), bytes(certificate), int(at_us)) if (
            kind == _DEVICE and status in STATUSES
        ):
            try:
                entry = DeviceEntry(
                    device=DeviceId(parse_id(device)),
                    device_epoch=_count(epoch),
                    operator=OperatorId(parse_id(operator)),
                    status=status,
                    statement_key_hash=_hash(key),
                    certificate_hash=_hash(certificate),
                    at_us=_count(at_us),
                )
            except IdError as err:
                raise EntryError(str(err)) from err
        case _:
            raise EntryError("no entry of a batch or a device")
    return entry


def _hash(value: bytes) -> bytes:
    if len(value) != _HASH_SIZE:
        raise EntryError("a hash has 32 bytes")
    return value


def _count(value: int) -> int:
    # bool is an int to a pattern, and is none here.
    if value.__class__ is not int or not 0 <= value <= _MAX_COUNT:
        raise EntryError("a number below 0 or above 2^63 - 1")
    return value
