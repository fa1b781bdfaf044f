"""An end that reached another gateway than the one that gave the authorization: what it proves, from public keys alone.

Rule 1: the grant is signed by the gateway that gave it, the statements by the device it is addressed to; both name the same use.
Rule 2: the statements are the intent, then whatever readings are left, then the end: in the order of the device's counter.
Rule 3: the price is that of the whole use under the grant's tariff version, computed here anew. What was billed of it before is not
this module's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from farthing.device.cose import VerifyingKey, decode_sign1
from farthing.device.messages import (
    End,
    Grant,
    Intent,
    MessageError,
    Reading,
    Statement,
    decode_grant,
    decode_statement,
)
from farthing.evidence.detail import DeviceKeys, EvidenceError, RegisterFacts, Registers, Tariffs
from farthing.ids import GatewayId, authorization_id
from farthing.tariff import Priced, Tariff, TariffError, Use, price

#: Statements of one session that travel with its end: the intent, the end, and readings at the switches of a tariff between them.
MAX_STATEMENTS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenEnd:
    """A carried end whose every rule holds; the interval is unrolled as far as the device counts its turns, ``priced`` is
    the whole use.
    """

    grant: Grant
    first: Intent
    last: End
    register_from: int
    register_to: int
    priced: Priced


def verify(
    granted_by: GatewayId,
    granted_incarnation: int,
    statements: Sequence[bytes],
    grant: bytes,
    *,
    grant_key: VerifyingKey,
    device_key: DeviceKeys,
    tariff: Tariffs,
    register: Registers,
    time_zone: str,
) -> ProvenEnd:
    """Check every rule; raise ``EvidenceError`` naming the one that fails.

    Callables as in :func:`farthing.evidence.detail.verify`; ``time_zone`` is that of the granting gateway's site.
    """
    granted = _grant(granted_by, granted_incarnation, grant, grant_key)
    if not 2 <= len(statements) <= MAX_STATEMENTS:
        raise EvidenceError(f"an intent, an end, and at most {MAX_STATEMENTS} statements in all")
    read = [_statement(granted_by, granted, data, device_key) for data in statements]
    first, last = read[0], read[-1]
    if not isinstance(first, Intent) or first.one_shot is not None or not isinstance(last, End):
        raise EvidenceError("a session's statements begin with its intent and end with its end")
    _check_order(granted, first, read)
    _check_same_use(granted, first, last)
    facts = register(granted.recipient, granted.register_id, granted.register_epoch)
    if facts is None:
        raise EvidenceError("a register that nobody knows")
    start = first.register.unrolled(facts.modulus)
    register_to = start + _width(first, last, facts)
    priced_by = tariff(granted.tariff.tariff_id, granted.tariff.version)
    if priced_by is None:
        raise EvidenceError("a tariff version that nobody knows")
    if priced_by.currency != granted.currency:
        raise EvidenceError("the grant is in another currency than its tariff")
    try:
        priced = _priced(priced_by, facts, start, read, time_zone)
    except TariffError as err:
        raise EvidenceError(f"the tariff does not price it: {err}") from err
    return ProvenEnd(grant=granted, first=first, last=last, register_from=start, register_to=register_to, priced=priced)


def _grant(granted_by: GatewayId, granted_incarnation: int, data: bytes, grant_key: VerifyingKey) -> Grant:
    try:
        signed = decode_sign1(data)
        granted = decode_grant(signed.payload)
    except MessageError as err:
        raise EvidenceError(f"the grant cannot be read: {err.reason}") from err
    if signed.kid != grant_key.key_id:
        raise EvidenceError("a grant by a key that is not the gateway's")
    if not grant_key.verify("grant", granted.recipient, signed.payload, signed.signature):
        raise EvidenceError("a grant whose signature does not hold")
    if (granted.gateway, granted.witness.incarnation) != (granted_by, granted_incarnation):
        raise EvidenceError("a grant of another gateway or incarnation")
    return granted


def _statement(granted_by: GatewayId, granted: Grant, data: bytes, device_key: DeviceKeys) -> Statement:
    try:
        signed = decode_sign1(data)
        statement = decode_statement(signed.payload)
    except MessageError as err:
        raise EvidenceError(f"a statement cannot be read: {err.reason}") from err
    if statement.recipient != granted_by:
        raise EvidenceError("a statement to another gateway")
    if statement.device != granted.recipient:
        raise EvidenceError("a statement of another device than the grant's")
    key = device_key(statement.device, signed.kid)
    if key is None or key.key_id != signed.kid:
        raise EvidenceError("a statement by a key that is not the device's")
    if not key.verify(statement.kind, statement.recipient, signed.payload, signed.signature):
        raise EvidenceError("a statement whose signature does not hold")
    return statement


def _check_order(granted: Grant, first: Intent, read: Sequence[Statement]) -> None:
    for before, after in pairwise(read):
        if after.device_epoch != first.device_epoch or after.counter <= before.counter:
            raise EvidenceError("the statements are not in the order in which the device made them")
    for between in read[1:-1]:
        if not isinstance(between, Reading) or between.authorization != granted.authorization:
            raise EvidenceError("something else than the session's readings between its intent and its end")
    for statement in read:
        if (statement.register.register_id, statement.register.register_epoch) != (
            granted.register_id,
            granted.register_epoch,
        ):
            raise EvidenceError("a statement of another register")


def _check_same_use(granted: Grant, first: Intent, last: End) -> None:
    if authorization_id(first.device, first.device_epoch, first.counter, first.recipient) != granted.authorization:
        raise EvidenceError("the intent began another authorization")
    if (granted.intent_epoch, granted.intent_counter) != (first.device_epoch, first.counter):
        raise EvidenceError("a grant for another intent")
    if granted.start != first.register.value:
        raise EvidenceError("a grant from another count")
    if last.authorization != granted.authorization:
        raise EvidenceError("the end names another authorization")
    if not first.commitment == last.commitment == granted.commitment:
        raise EvidenceError("the statements and the grant name different tokens")
    if last.tariff != granted.tariff or first.tariff not in (None, granted.tariff):
        raise EvidenceError("the statements name another tariff version than the grant")


def _width(first: Statement, last: Statement, facts: RegisterFacts) -> int:
    width = last.register.unrolled(facts.modulus) - first.register.unrolled(facts.modulus)
    if width < 0:
        # The count returned to 0; where it cannot, it went back.
        width += facts.modulus
    if width < 0:
        raise EvidenceError("the register went back")
    return width


def _priced(tariff: Tariff, facts: RegisterFacts, start: int, read: Sequence[Statement], time_zone: str) -> Priced:
    """The closing price; what the readings between place in time, they place."""
    first = read[0]
    placed, placed_to = None, start
    for statement in read[1:]:
        closing = statement is read[-1]
        use = Use(
            unit=facts.unit,
            start=start,
            end=start + _width(first, statement, facts),
            started_at=first.at,
            ended_at=statement.at,
            placed=placed,
            placed_to=placed_to,
            time_zone=time_zone,
        )
        priced = price(tariff, use, closing=closing)
        placed, placed_to = priced.placed, use.end
    return priced
