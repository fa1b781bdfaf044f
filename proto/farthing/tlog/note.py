"""Signed notes: text, a blank line, and signatures that name their keys (C2SP signed-note).

Rule 1: a text counts only with the signature of a key that the reader knows; signatures of unknown keys are passed over.
Rule 2: a signature under a known key's name and id that does not hold makes the whole note worthless.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KEY_SIZE: Final = 32
KEY_ID_SIZE: Final = 4
SIGNATURE_SIZE: Final = 64
TIMESTAMP_SIZE: Final = 8
#: A checkpoint has three lines; sixteen signatures must be accepted, of up to 5 kB each (signed-note, "Format").
MAX_NOTE_SIZE: Final = 128 * 1024
#: Four times what must be accepted: a crowd of witnesses, and no more work than that for a stranger's note.
MAX_SIGNATURES: Final = 64
#: POSIX seconds of a cosignature: below 2^63 (tlog-cosignature).
MAX_TIMESTAMP_S: Final = 2**63 - 1
_DASH: Final = "—"


class NoteError(ValueError):
    """Bytes that are no note, a key that is none, or a signature that does not hold."""


class SignatureType(IntEnum):
    """How a key signs; the byte stands in its id and in its written form."""

    #: Ed25519 over the text (signed-note).
    ED25519 = 0x01
    #: Ed25519 of a witness over the text and a time (tlog-cosignature, cosignature/v1).
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteKey:
    """A public key as notes name it; ``public`` is the 32 bytes of RFC 8032."""

    name: str
    kind: SignatureType
    public: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.public) != KEY_SIZE:
            raise NoteError(f"an Ed25519 key has {KEY_SIZE} bytes")

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name ‖ newline ‖ type ‖ key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + self.kind.to_bytes(1, "big") + self.public).digest()[
            :KEY_ID_SIZE
        ]

    def __str__(self) -> str:
        """The verifier key as people pass it on: ``name+id+base64(type ‖ key)``."""
        encoded = base64.b64encode(self.kind.to_bytes(1, "big") + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` writes; raise ``NoteError``."""
        name, plus, rest = text.strip().partition("+")
        key_id, second, encoded = rest.partition("+")
        if not plus or not second:
            raise NoteError("a verifier key is written name+id+key")
        data = _base64(encoded, "the key")
        try:
            kind = SignatureType(data[0]) if data else None
        except ValueError as err:
            raise NoteError(f"keys of type {data[0]} are not known here") from err
        if kind is None:
            raise NoteError("the key is empty")
        key = cls(name=name, kind=kind, public=data[1:])
        if key.key_id.hex() != key_id:
            raise NoteError(f"the id of {name} is {key.key_id.hex()}, not {key_id[:16]}")
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line; ``signature`` is without the key's id."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedNote:
    """A text, which ends in a newline, and the signatures over it."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> bytes:
        """The note's bytes."""
        lines = "".join(
            f"{_DASH} {each.name} {base64.b64encode(each.key_id + each.signature).decode()}\n"
            for each in self.signatures
        )
        return f"{self.text}\n{lines}".encode()

    def of(self, key: NoteKey) -> tuple[NoteSignature, ...]:
        """The signatures under this key's name and id, unverified."""
        return tuple(each for each in self.signatures if (each.name, each.key_id) == (key.name, key.key_id))

    def signed_with(self, signature: NoteSignature) -> "SignedNote":
        """The note with one more signature; an earlier one of the same key gives way."""
        others = (each for each in self.signatures if (each.name, each.key_id) != (signature.name, signature.key_id))
        return replace(self, signatures=(*others, signature))


def check_name(name: str) -> None:
    """Raise ``NoteError`` for what cannot name a key: empty, with a space, a plus or a control character."""
    if not name or "+" in name or any(each.isspace() or ord(each) < 0x20 for each in name):
        raise NoteError("a key's name is not empty and has neither spaces nor plus signs")


def parse_note(data: bytes) -> SignedNote:
    """The note in ``data``, with nothing verified; raise ``NoteError``."""
    if len(data) > MAX_NOTE_SIZE:
        raise NoteError(f"a note has at most {MAX_NOTE_SIZE} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError as err:
        raise NoteError("a note is UTF-8") from err
    if any(ord(each) < 0x20 and each != "\n" for each in whole):
        raise NoteError("a note has no control characters")
    end = whole.rfind("\n\n")
    if end < 0 or not whole.endswith("\n"):
        raise NoteError("a note is a text, an empty line, and signatures")
    # ``split``: other things than a newline break lines for ``splitlines``.
    lines = whole[end + 2 :].split("\n")[:-1]
    if not lines or len(lines) > MAX_SIGNATURES:
        raise NoteError(f"a note has 1 to {MAX_SIGNATURES} signatures")
    return SignedNote(text=whole[: end + 1], signatures=tuple(map(_signature, lines)))


def verify(note: SignedNote, key: NoteKey) -> int | None:
    """Raise ``NoteError`` unless ``key`` signed the note; the newest time (POSIX seconds) for a witness's key, else None."""
    found = note.of(key)
    if not found:
        raise NoteError(f"not signed by {key.name} with the key {key.key_id.hex()}")
    times: list[int] = []
    for each in found:
        if key.kind is SignatureType.ED25519:
            _check(key, each.signature, note.text.encode())
            continue
        if len(each.signature) != TIMESTAMP_SIZE + SIGNATURE_SIZE:
            raise NoteError(f"the cosignature of {key.name} has another size")
        time_s = int.from_bytes(each.signature[:TIMESTAMP_SIZE], "big")
        _check(key, each.signature[TIMESTAMP_SIZE:], cosigned_message(note.text, time_s=time_s))
        times.append(time_s)
    return max(times, default=None)


def cosigned_message(text: str, *, time_s: int) -> bytes:
    """What a witness signs (tlog-cosignature, "Ed25519 signed message"); ``time_s`` is POSIX."""
    if not 0 <= time_s <= MAX_TIMESTAMP_S:
        raise NoteError("a cosignature's time is POSIX seconds below 2^63")
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def note_signature(key: NoteKey, signature: bytes) -> NoteSignature:
    """The line for a signature that ``key`` made over a note's text."""
    return NoteSignature(name=key.name, key_id=key.key_id, signature=signature)


def cosignature(key: NoteKey, signature: bytes, *, time_s: int) -> NoteSignature:
    """The line for a signature that a witness made over ``cosigned_message``."""
    return note_signature(key, time_s.to_bytes(TIMESTAMP_SIZE, "big") + signature)


def _check(key: NoteKey, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except (InvalidSignature, ValueError) as err:
        raise NoteError(f"the signature of {key.name} does not hold") from err


def _signature(line: str) -> NoteSignature:
    parts: Sequence[str] = line.split(" ")
    if len(parts) != 3 or parts[0] != _DASH:
        raise NoteError("a signature line is a dash, a name and base64")
    check_name(parts[1])
    data = _base64(parts[2], "a signature")
    if len(data) <= KEY_ID_SIZE:
        raise NoteError("a signature without content")
    return NoteSignature(name=parts[1], key_id=data[:KEY_ID_SIZE], signature=data[KEY_ID_SIZE:])


def _base64(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise NoteError(f"{what} is no base64") from err
    # Unused bits of the last character may not vary: one content, one spelling.
    if base64.b64encode(data).decode() != text:
        raise NoteError(f"{what} is no plain base64")
    return data
