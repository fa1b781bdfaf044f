"""Prove that an element was copied: one key, one counter, two contents.

A device's counter is durable before it signs and never used again for other content or another recipient. So two valid
signatures of one key over different payloads with one (device, epoch, counter) cannot both come from a device that keeps
its word. Repeating the same payload is a retry: signatures are randomized, hence payloads are compared, never COSE bytes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from farthing.device.cose import VerifyingKey, decode_sign1
from farthing.device.messages import MessageError, decode_statement
from farthing.ids import DeviceId, GatewayId


class StatementRejected(Exception):
    """These bytes prove nothing; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementId:
    """What an honest device uses for one content only. ``key_id`` is 8 bytes, see ``farthing.device.cose``."""

    device_id: DeviceId
    device_epoch: int
    key_id: bytes
    counter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A statement whose signature was verified: its name, what it says (SHA-256), for whom, and the bytes that show it."""

    id: StatementId
    payload_hash: bytes
    gateway_id: GatewayId
    cose: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Two observations of one name with different contents: anyone with the public key can check them."""

    first: Observation
    second: Observation

    @property
    def proof_id(self) -> bytes:
        """SHA-256 of both contents, in either order the same: 32 bytes."""
        return hashlib.sha256(b"".join(sorted((self.first.payload_hash, self.second.payload_hash)))).digest()


def observe(cose: bytes, device_id: str, key_of: Callable[[bytes], VerifyingKey | None]) -> Observation:
    """Verify a device's statement and name it; raise ``StatementRejected`` for what proves nothing about ``device_id``.

    ``key_of`` maps a key id (8 bytes) to that key of the device, as the registry names it.
    """
    try:
        signed = decode_sign1(cose)
        statement = decode_statement(signed.payload)
    except MessageError as err:
        raise StatementRejected(f"not a device's statement: {err}") from err
    if statement.device != device_id:
        raise StatementRejected(f"a statement of {statement.device} came as one of {device_id}")
    key = key_of(signed.kid)
    if key is None:
        raise StatementRejected(f"the registry names no key {signed.kid.hex()} of {device_id}")
    if not key.verify(statement.kind, statement.recipient, signed.payload, signed.signature):
        raise StatementRejected(f"the signature is not of the key that the registry names for {device_id}")
    return Observation(
        id=StatementId(
            device_id=statement.device,
            device_epoch=statement.device_epoch,
            key_id=signed.kid,
            counter=statement.counter,
        ),
        payload_hash=hashlib.sha256(signed.payload).digest(),
        gateway_id=statement.recipient,
        cose=cose,
    )


def examine(observation: Observation, known: Observation | None) -> Finding | None:
    """What ``observation`` proves beside the one ``known`` by the same name: a finding, or nothing."""
    if known is None or known.payload_hash == observation.payload_hash:
        return None
    # The caller looked it up by name: a mismatch is our bug, not a proof.
    assert known.id == observation.id
    return Finding(first=known, second=observation)
