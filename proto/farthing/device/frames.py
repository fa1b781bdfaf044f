"""Readings and grants of which there are many: nearly all that those of one authorization say is the same, and is read or written once.

Rule 1: what comes out is what ``messages`` makes of it, byte for byte and refusal for refusal.
Rule 2: what is remembered of strangers is bounded.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cbor2

from farthing.clock import Instant
from farthing.device.messages import (
    MAX_COUNT,
    MAX_EPOCH,
    MAX_HELD_PARTS,
    MAX_STATEMENT_SIZE,
    Grant,
    Held,
    Reading,
    RegisterValue,
    Statement,
    decode_statement,
    encode,
)
from farthing.device.reject import MessageError
from farthing.ids import AUTHORIZATION_ID_SIZE, COMMITMENT_SIZE, START_ID_SIZE, QuotaId
from farthing.money import MAX_AMOUNT_MICROS

#: Members that every grant has; who pays comes on top.
_MEMBERS = 14
_MAP, _ARRAY, _BYTES = 0xA0, 0x80, 0x40
_START_ID_HEAD = bytes((_BYTES | START_ID_SIZE,))
_AUTHORIZATION_HEAD = bytes((6, _BYTES | AUTHORIZATION_ID_SIZE))
#: Its size stands in a byte of its own.
_COMMITMENT_HEAD = bytes((14, _BYTES | 24, COMMITMENT_SIZE))
_NO_COMMITMENT = b"\x0e\xf6"

#: Head of a number → (its size behind the head, the least it may say: less would be a second encoding).
_NUMBER_HEADS = {0x18: (1, 24), 0x19: (2, 1 << 8), 0x1A: (4, 1 << 16), 0x1B: (8, 1 << 32)}
#: How a reading begins, after the map's head: its kind, and the key of its recipient.
_READING_HEAD = b"\x01\x01\x02"
_TEXT, _LONG_TEXT = 0x60, 0x78
_NO_NUMBER = (0, 0)


class GrantFrame:
    """What the grants of one authorization have in common; ``grant`` is any of them that is due no readings besides the interval, and does not lapse."""

    __slots__ = ("_covered", "_currency", "_head", "_interval", "_payer", "_register", "_rest")

    def __init__(self, grant: Grant) -> None:
        assert not grant.readings_due, "their instants are in no frame"
        assert grant.lapses_at is None, "only the first one lapses"
        payer = {} if grant.account is None else {20: grant.account}
        # Its first member says which kind of message it is: two bytes after the map's head.
        kind = encode(grant)[1:3]
        self._head = (
            bytes((_MAP | _MEMBERS + len(payer),))
            + kind
            + _members({2: grant.recipient, 3: grant.gateway})
            + b"\x04\x83"
        )
        register = cbor2.dumps(grant.register_id) + cbor2.dumps(grant.register_epoch)
        self._register = _members({8: [grant.tariff.tariff_id, grant.tariff.version]}) + b"\x09\x84" + register
        self._currency = _members({11: grant.currency}) + b"\x0c\x82"
        self._interval = _members({13: grant.report_interval_s})
        self._payer = _members(payer)
        self._name(
            grant.authorization,
            grant.intent_epoch,
            grant.intent_counter,
            start=grant.start,
            commitment=grant.commitment,
        )

    def _name(
        self, authorization: bytes, intent_epoch: int, intent_counter: int, *, start: int, commitment: bytes | None
    ) -> None:
        intent = _number(intent_epoch, MAX_EPOCH) + _number(intent_counter)
        self._covered = _AUTHORIZATION_HEAD + authorization + b"\x07\x82" + intent + self._register + _number(start)
        self._rest = (
            self._interval + (_NO_COMMITMENT if commitment is None else _COMMITMENT_HEAD + commitment) + self._payer
        )

    def of_another(
        self,
        *,
        authorization: bytes,
        intent_epoch: int,
        intent_counter: int,
        start: int,
        commitment: bytes | None,
    ) -> "GrantFrame":
        """The frame of another authorization of the same device, register, tariff and payer, for much less than one made anew. ``MessageError`` where it cannot
        be one."""
        if authorization.__class__ is not bytes or len(authorization) != AUTHORIZATION_ID_SIZE:
            raise MessageError(f"an authorization is {AUTHORIZATION_ID_SIZE} bytes")
        if commitment is not None and (commitment.__class__ is not bytes or len(commitment) != COMMITMENT_SIZE):
            raise MessageError(f"a commitment is {COMMITMENT_SIZE} bytes")
        another = object.__new__(GrantFrame)
        another._head = self._head
        another._register = self._register
        another._currency = self._currency
        another._interval = self._interval
        another._payer = self._payer
        another._name(authorization, intent_epoch, intent_counter, start=start, commitment=commitment)
        return another

    def payload(
        self,
        *,
        incarnation: int,
        start_id: bytes,
        position: int,
        at: int,
        limit: int,
        held: Sequence[tuple[str, int]],
        net_micros: int,
        tax_micros: int,
    ) -> bytes:
        """The payload of the grant that says this; ``held`` is (quota or ``"floor"``, micros). ``MessageError`` where there is none."""
        if start_id.__class__ is not bytes or len(start_id) != START_ID_SIZE:
            raise MessageError(f"a start id is {START_ID_SIZE} bytes")
        if len(held) > MAX_HELD_PARTS:
            raise MessageError(f"a hold has at most {MAX_HELD_PARTS} parts")
        parts = b""
        for quota_id, amount_micros in held:
            parts += b"\x82" + _quota(quota_id) + _number(amount_micros, MAX_AMOUNT_MICROS)
        return b"".join(
            (
                self._head,
                _number(incarnation),
                _START_ID_HEAD,
                start_id,
                _number(position),
                b"\x05",
                _number(at),
                self._covered,
                _number(limit),
                b"\x0a",
                bytes((_ARRAY | len(held),)),
                parts,
                self._currency,
                _number(net_micros, MAX_AMOUNT_MICROS),
                _number(tax_micros, MAX_AMOUNT_MICROS),
                self._rest,
            )
        )


class _Cut(NamedTuple):
    """A reading's payload without its three numbers that change: two with the same frame differ in nothing else."""

    frame: tuple[bytes, int, bytes, bytes]
    counter: int
    at: int
    value: int


class ReadingFrames:
    """Decodes statements; remembers of at most ``most`` authorizations what all their readings say."""

    __slots__ = ("_known", "_most")

    def __init__(self, *, most: int) -> None:
        self._known: dict[tuple[bytes, int, bytes, bytes], Reading] = {}
        self._most = most

    def decode(self, payload: bytes) -> Statement:
        """``decode_statement(payload)``."""
        if payload[1:4] != _READING_HEAD:
            return decode_statement(payload)
        try:
            cut = _cut(payload)
        except (IndexError, ValueError):
            # None in its one encoding: why not, the general way says.
            return decode_statement(payload)
        known = self._known.get(cut.frame)
        if known is None or len(payload) > MAX_STATEMENT_SIZE:
            statement = decode_statement(payload)
            if statement.__class__ is Reading:
                self._remember(cut.frame, statement)
            return statement
        register = known.register
        return Reading(
            recipient=known.recipient,
            device=known.device,
            device_epoch=known.device_epoch,
            counter=cut.counter,
            at=Instant(cut.at),
            register=RegisterValue(
                register_id=register.register_id,
                register_epoch=register.register_epoch,
                value=cut.value,
                turns=register.turns,
            ),
            tariff=known.tariff,
            commitment=known.commitment,
            authorization=known.authorization,
        )

    def _remember(self, frame: tuple[bytes, int, bytes, bytes], reading: Reading) -> None:
        if len(self._known) >= self._most:
            # Whose readings go on is remembered again by the next one.
            del self._known[next(iter(self._known))]
        self._known[frame] = reading

    def __len__(self) -> int:
        return len(self._known)


def _cut(payload: bytes) -> _Cut:
    """Take a reading apart where its one encoding has the numbers; ``IndexError`` or ``ValueError`` where it cannot be one.

    Of what is no reading anything may come out: its frame is that of no reading, as a frame holds all bytes but the numbers.
    """
    # The recipient; with the key before it the device; its epoch with the key before and the one behind.
    first = _behind_number(payload, _behind_text(payload, _behind_text(payload, 4) + 1) + 1) + 1
    counter, second = _read_number(payload, first)
    at, third = _read_number(payload, second + 1)
    # The key and the head of the register's array, its name, its epoch.
    fourth = _behind_number(payload, _behind_text(payload, third + 2))
    value, end = _read_number(payload, fourth)
    return _Cut((payload[:first], payload[second], payload[third:fourth], payload[end:]), counter, at, value)


def _behind_text(data: bytes, at: int) -> int:
    size = data[at] - _TEXT
    return at + 1 + size if size < _LONG_TEXT - _TEXT else at + 2 + data[at + 1]


def _behind_number(data: bytes, at: int) -> int:
    head = data[at]
    return at + 1 if head < 0x18 else at + 1 + _NUMBER_HEADS.get(head, _NO_NUMBER)[0]


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    head = data[at]
    at += 1
    if head < 0x18:
        return head, at
    size, least = _NUMBER_HEADS.get(head, _NO_NUMBER)
    number = int.from_bytes(data[at : at + size], "big")
    if not size or number < least:
        raise ValueError("no number")
    return number, at + size


def _members(members: dict[int, Any]) -> bytes:
    """Members of a map, without its head."""
    return b"".join(cbor2.dumps(key) + cbor2.dumps(value) for key, value in members.items())


def _number(value: int, most: int = MAX_COUNT) -> bytes:
    if value.__class__ is not int or not 0 <= value <= most:
        raise MessageError(f"a number of a grant is an integer from 0 to {most}")
    return cbor2.dumps(value)


@lru_cache(maxsize=4_096)  # a site's quotas
def _quota(quota_id: str) -> bytes:
    return cbor2.dumps(Held(quota_id=QuotaId(quota_id), amount_micros=0).quota_id)
