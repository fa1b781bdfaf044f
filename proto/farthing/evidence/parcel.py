"""Batches carried by hand: what a gateway that may no longer connect has sealed, as a file.

A file is records, each a length (4 bytes, big-endian) and that many bytes of deterministic CBOR. The first is
``["farthing/parcel/1", gateway id]``; each other one a batch: ``[incarnation, sequence, batch, signature, key id, detail or null]``, detail as it
is uploaded (zlib of a CBOR array of leaves). Nothing in it is believed for standing there: the batches are signed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

import cbor2

from farthing.device import cbor
from farthing.device.cbor import CborError
from farthing.ids import GatewayId, IdError, parse_id

_KIND: Final = "farthing/parcel/1"
#: A batch has at most 4 MiB, its compressed detail at most 8.
MAX_RECORD_SIZE: Final = 16 * 1024 * 1024
_LENGTH_SIZE: Final = 4


class ParcelError(ValueError):
    """Bytes that are no parcel; the sentence says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcelBatch:
    """A batch with its signature, and its detail where the journal still has it."""

    incarnation: int
    sequence: int
    batch: bytes
    signature: bytes
    key_id: bytes
    detail: bytes | None


def begin(to: IO[bytes], gateway_id: GatewayId) -> None:
    """Write the first record."""
    _write(to, [_KIND, gateway_id])


def add(to: IO[bytes], each: ParcelBatch) -> None:
    """Write a batch."""
    _write(to, [each.incarnation, each.sequence, each.batch, each.signature, each.key_id, each.detail])


def _write(to: IO[bytes], record: list[object]) -> None:
    data = cbor2.dumps(record)
    if len(data) > MAX_RECORD_SIZE:
        raise ParcelError(f"a batch of more than {MAX_RECORD_SIZE} bytes")
    to.write(len(data).to_bytes(_LENGTH_SIZE, "big") + data)


def read(source: IO[bytes]) -> tuple[GatewayId, Iterator[ParcelBatch]]:
    """Whose parcel it is, and its batches one after the other; raises ``ParcelError``, also while they are read."""
    records = _records(source)
    first = next(records, None)
    if not isinstance(first, tuple) or len(first) != 2 or first[0] != _KIND or not isinstance(first[1], str):
        raise ParcelError("no parcel of batches: write it with `farthing-edge journal export --batches`")
    try:
        gateway_id = GatewayId(parse_id(first[1]))
    except IdError as err:
        raise ParcelError(str(err)) from err
    return gateway_id, (_batch(number, record) for number, record in enumerate(records, 1))


def _batch(number: int, record: cbor.Value) -> ParcelBatch:
    match record:
        case (int(incarnation), int(sequence), bytes(batch), bytes(signature), bytes(key_id), bytes() | None as detail):
            return ParcelBatch(
                incarnation=incarnation,
                sequence=sequence,
                batch=batch,
                signature=signature,
                key_id=key_id,
                detail=detail,
            )
        case _:
            raise ParcelError(f"record {number} is no batch")


def _records(source: IO[bytes]) -> Iterator[cbor.Value]:
    while head := source.read(_LENGTH_SIZE):
        size = int.from_bytes(head, "big")
        # Compared before it is read: a length is a stranger's number.
        if len(head) < _LENGTH_SIZE or size > MAX_RECORD_SIZE:
            raise ParcelError("cut short, or not a parcel")
        data = source.read(size)
        if len(data) < size:
            raise ParcelError("cut short: export it again, or take what came before")
        try:
            yield cbor.decode(data)
        except CborError as err:
            raise ParcelError(f"cannot be read: {err}") from err
