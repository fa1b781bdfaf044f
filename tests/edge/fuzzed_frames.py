"""Frames that no honest device sends, drawn from a seed: real envelopes bent in every way we could think of, and plain rubbish.

None of them may change anything. What an honest device did say is among them again and again: a repeat changes nothing either.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.device.cose import decode_sign1, encode_sign1, key_id, to_be_signed
from farthing.device.messages import MAX_ENVELOPE_SIZE

#: Integers at which a decoder's arithmetic turns.
EDGES = (0, 1, 23, 24, 255, 256, 2**16, 2**31, 2**32, 2**53, 2**63, 2**64 - 1, -1, -25, -(2**63))


class Signer:
    """A key in memory, for whoever signs."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.spki = self._private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.kid = key_id(self.spki)

    def sign(self, kind: Any, recipient: str, payload: bytes, *, kid: bytes | None = None) -> bytes:
        """The COSE_Sign1 of ``payload``, in the name of ``kid``."""
        r, s = decode_dss_signature(self._private.sign(to_be_signed(kind, recipient, payload), ec.ECDSA(SHA256())))
        return encode_sign1(kid or self.kid, payload, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An envelope that was heard already, and the device that said it."""

    peer: str
    kind: str
    envelope: bytes


class Frames:
    """Draws (peer, payload); the same seed and ``said`` give the same frames."""

    def __init__(self, seed: int, said: Sequence[Said], *, gateway: str, stranger: Signer) -> None:
        self._random = random.Random(seed)
        self._said = said
        self._gateway = gateway
        self._forged = self._forge(stranger)
        kinds: list[tuple[int, Callable[[Said], bytes]]] = [
            (20, self._with_bits_flipped),
            (10, self._cut_short),
            (8, self._with_a_tail),
            (10, self._random_bytes),
            (10, self._random_cbor),
            (8, self._random_map),
            (3, self._too_large),
            (8, self._with_the_statement_bent),
            (8, self._with_a_member_changed),
            (6, self._forged_one),
            (4, self._bomb),
            (3, self._spliced),
            (2, lambda said: said.envelope),
        ]
        self._weights = [weight for weight, _ in kinds]
        self._kinds = [kind for _, kind in kinds]

    def draw(self) -> tuple[str, bytes]:
        """The next frame, and over whose channel it comes: nearly always its own device's."""
        said = self._random.choice(self._said)
        (kind,) = self._random.choices(self._kinds, self._weights)
        peer = said.peer if self._random.random() < 0.95 else self._random.choice(self._said).peer
        return peer, kind(said)

    # Bent ------------------------------------------------------------------------------------------------------------

    def _with_bits_flipped(self, said: Said) -> bytes:
        bent = bytearray(said.envelope)
        for _ in range(self._random.choice((1, 1, 1, 2, 8))):
            bent[self._random.randrange(len(bent))] ^= 1 << self._random.randrange(8)
        return bytes(bent)

    def _cut_short(self, said: Said) -> bytes:
        return said.envelope[: self._random.randrange(len(said.envelope))]

    def _with_a_tail(self, said: Said) -> bytes:
        return said.envelope + self._bytes(1, 64)

    def _spliced(self, said: Said) -> bytes:
        other = self._random.choice(self._said).envelope
        at = self._random.randrange(len(said.envelope))
        return said.envelope[:at] + other[min(at, len(other)) :]

    def _with_the_statement_bent(self, said: Said) -> bytes:
        """The envelope is whole; the COSE_Sign1 in it is not."""
        members = cbor2.loads(said.envelope)
        statement = bytearray(members[1])
        if self._random.random() < 0.5:
            del statement[self._random.randrange(len(statement)) :]
        else:
            statement[self._random.randrange(len(statement))] ^= 1 << self._random.randrange(8)
        members[1] = bytes(statement)
        return cbor2.dumps(members)

    def _with_a_member_changed(self, said: Said) -> bytes:
        """A statement of the right form that says something else than was signed; or a token that was not committed to."""
        members = cbor2.loads(said.envelope)
        if 2 in members and self._random.random() < 0.3:
            members[self._random.choice((2, 3))] = self._bytes(16, 16)
            return cbor2.dumps(members)
        sign1 = decode_sign1(members[1])
        payload = cbor2.loads(sign1.payload)
        key = self._random.choice(list(payload))
        old = payload[key]
        payload[key] = self._value(2) if self._random.random() < 0.5 else old + 1 if isinstance(old, int) else None
        if payload[key] == old:
            payload[key] = None
        members[1] = encode_sign1(sign1.kid, cbor2.dumps(payload), sign1.signature)
        return cbor2.dumps(members)

    # Forged ----------------------------------------------------------------------------------------------------------

    def _forge(self, stranger: Signer) -> list[bytes]:
        """What is well signed, by the wrong key, as the wrong kind or for the wrong gateway; made once, as signing is dear."""
        forged = []
        for said in self._said:
            members = cbor2.loads(said.envelope)
            sign1 = decode_sign1(members[1])
            elsewhere = {**cbor2.loads(sign1.payload), 2: "G2"}
            for payload, kind, recipient, kid in (
                (sign1.payload, said.kind, self._gateway, None),
                (sign1.payload, said.kind, self._gateway, sign1.kid),
                (sign1.payload, "batch", self._gateway, sign1.kid),
                (cbor2.dumps(elsewhere), said.kind, "G2", sign1.kid),
            ):
                members[1] = stranger.sign(kind, recipient, payload, kid=kid)
                forged.append(cbor2.dumps(members))
        return forged

    def _forged_one(self, said: Said) -> bytes:  # noqa: ARG002 every kind has one shape
        return self._random.choice(self._forged)

    # Rubbish ---------------------------------------------------------------------------------------------------------

    def _random_bytes(self, said: Said) -> bytes:  # noqa: ARG002 every kind has one shape
        return self._bytes(0, 600)

    def _random_cbor(self, said: Said) -> bytes:  # noqa: ARG002 every kind has one shape
        return cbor2.dumps(self._value(4))

    def _random_map(self, said: Said) -> bytes:  # noqa: ARG002 every kind has one shape
        return cbor2.dumps({key: self._value(2) for key in sorted(self._random.sample(range(10), 4))})

    def _too_large(self, said: Said) -> bytes:
        return said.envelope + bytes(MAX_ENVELOPE_SIZE + self._random.randrange(60_000) - len(said.envelope) + 1)

    def _bomb(self, said: Said) -> bytes:  # noqa: ARG002 every kind has one shape
        """Promises more than there is, or nests without end."""
        return self._random.choice(
            (
                b"\xa1\x01\x5b" + self._bytes(8, 8),
                b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff" + self._bytes(0, 9),
                b"\xbb\x00\x00\x00\x01\x00\x00\x00\x00" + self._bytes(0, 90),
                b"\x81" * self._random.randrange(1, MAX_ENVELOPE_SIZE),
                b"\xa1\x01" * self._random.randrange(1, MAX_ENVELOPE_SIZE // 2),
                b"\x9f" * 200 + b"\xff" * 200,
                b"\xc2" * 300,
            )
        )

    def _value(self, depth: int) -> Any:
        what = self._random.randrange(8 if depth else 5)
        if what == 0:
            return self._random.choice(EDGES)
        if what == 1:
            return self._bytes(0, 40)
        if what == 2:
            return "".join(self._random.choices("abcG1-é☃\0", k=self._random.randrange(12)))
        if what == 3:
            return self._random.choice((None, True, False))
        if what == 4:
            return self._random.choice(
                (1.5, float("nan"), cbor2.undefined, cbor2.CBORTag(2, b"\1"), cbor2.CBORSimpleValue(99))
            )
        if what < 7:
            return [self._value(depth - 1) for _ in range(self._random.randrange(5))]
        return {
            self._random.choice((*EDGES, "a", b"b")): self._value(depth - 1) for _ in range(self._random.randrange(5))
        }

    def _bytes(self, least: int, most: int) -> bytes:
        return self._random.randbytes(self._random.randint(least, most))
