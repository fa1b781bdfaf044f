"""Grants as bytes, without a :class:`Grant` for each: most of what the grants of one authorization say is the same, and is encoded once.

The bytes are those of ``encode(Grant(...))``, and what no grant may say is refused alike.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cbor2

from farthing.device.messages import MAX_COUNT, MAX_HELD_PARTS, Grant, Held, encode
from farthing.device.reject import MessageError
from farthing.ids import START_ID_SIZE, QuotaId
from farthing.money import MAX_AMOUNT_MICROS

#: Members that every grant has; who pays comes on top.
_MEMBERS = 14
_MAP, _ARRAY, _BYTES = 0xA0, 0x80, 0x40
_START_ID_HEAD = bytes((_BYTES | START_ID_SIZE,))


class GrantFrame:
    """What the grants of one authorization have in common; ``grant`` is any of them that is due no readings besides the interval."""

    __slots__ = ("_covered", "_currency", "_head", "_rest")

    def __init__(self, grant: Grant) -> None:
        assert not grant.readings_due, "their instants are in no frame"
        payer = {} if grant.account is None else {20: grant.account}
        # Its first member says which kind of message it is: two bytes after the map's head.
        kind = encode(grant)[1:3]
        self._head = (
            bytes((_MAP | _MEMBERS + len(payer),))
            + kind
            + _members({2: grant.recipient, 3: grant.gateway})
            + b"\x04\x83"
        )
        named = {
            6: grant.authorization,
            7: [grant.intent_epoch, grant.intent_counter],
            8: [grant.tariff.tariff_id, grant.tariff.version],
        }
        register = cbor2.dumps(grant.register_id) + cbor2.dumps(grant.register_epoch) + cbor2.dumps(grant.start)
        self._covered = _members(named) + b"\x09\x84" + register
        self._currency = _members({11: grant.currency}) + b"\x0c\x82"
        self._rest = _members({13: grant.report_interval_s, 14: grant.commitment, **payer})

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
