"""A last word that reached another gateway than the one that gave the authorization: what it proves, from public keys alone.

Rule 1: the grant is signed by the gateway that gave it, the statements by the device it is addressed to; both name the same use.
Rule 2: the statements are the intent, then whatever readings are left, then the end: in the order of the device's counter. Of a one-shot
use the intent alone: its yes is all that follows.
Rule 3: the price is that of the whole use under the grant's tariff version, computed here anew. What was billed of it before is not
this module's business.
Rule 4: a standing authorization has no grant: its device's record says who was told yes once and for all, and under which tariff. Its
readings, the first of them first, prove what the register moved so far; none of them is the last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from farthing.device.cose import VerifyingKey, decode_sign1
from farthing.device.messages import (
    End,
    Grant,
    Intent,
    MessageError,
    Reading,
    Statement,
    TariffVersion,
    decode_grant,
    decode_statement,
)
from farthing.evidence.detail import DeviceKeys, EvidenceError, RegisterFacts, Registers, Tariffs
from farthing.ids import AuthorizationId, GatewayId, authorization_id, standing_authorization_id
from farthing.tariff import Priced, Tariff, TariffError, Use, one_shot_use, price

#: Statements of one session that travel with its end: the intent, the end, and readings at the switches of a tariff between them.
MAX_STATEMENTS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenEnd:
    """A carried end whose every rule holds; the interval is unrolled as far as the device counts its turns, ``priced`` is
    the whole use.
    """

    grant: Grant
    first: Intent
    #: The intent itself, of a one-shot use.
    last: End | Intent
    register_from: int
    register_to: int
    priced: Priced


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenReading:
    """Carried readings of a standing authorization whose every rule holds; ``priced`` is what is due up to the last of them."""

    authorization: AuthorizationId
    first: Reading
    last: Reading
    register_from: int
    register_to: int
    priced: Priced


#: Device id → the ids of the tariffs under which it was ever told yes once and for all; none: it never was.
StandingTariffs: TypeAlias = Callable[[str], frozenset[str]]


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
    read = _read(granted_by, granted.recipient, statements, device_key)
    first, last = read[0], read[-1]
    if not isinstance(first, Intent):
        raise EvidenceError("a use's statements begin with its intent")
    _check_order(granted.authorization, (granted.register_id, granted.register_epoch), read)
    _check_grant(granted, first)
    if first.one_shot is not None:
        if len(read) > 1:
            raise EvidenceError("a one-shot use has no statement but its intent")
        if granted.limit - granted.start < first.one_shot:
            raise EvidenceError("the grant is for less than the one-shot use")
    elif not isinstance(last, End):
        raise EvidenceError("a session's statements begin with its intent and end with its end")
    else:
        _check_same_use(granted, last)
    facts = _facts(register, first)
    start = first.register.unrolled(facts.modulus)
    register_to = start + (_width(first, last, facts) if first.one_shot is None else first.one_shot)
    priced_by = _tariff(tariff, granted.tariff)
    if priced_by.currency != granted.currency:
        raise EvidenceError("the grant is in another currency than its tariff")
    priced = _priced(priced_by, facts, start, read, time_zone)
    assert isinstance(last, End | Intent)
    return ProvenEnd(grant=granted, first=first, last=last, register_from=start, register_to=register_to, priced=priced)


def verify_standing(
    granted_by: GatewayId,
    statements: Sequence[bytes],
    *,
    device_key: DeviceKeys,
    tariff: Tariffs,
    register: Registers,
    standing: StandingTariffs,
    time_zone: str,
) -> ProvenReading:
    """Check every rule of readings that have no grant; raise ``EvidenceError`` naming the one that fails. Arguments as in :func:`verify`."""
    read = _read(granted_by, None, statements, device_key)
    first, last = read[0], read[-1]
    if len(read) < 2 or not isinstance(first, Reading) or not isinstance(last, Reading):
        raise EvidenceError("a standing authorization's readings: where it began, and how far it came")
    register_id, register_epoch = first.register.register_id, first.register.register_epoch
    _check_order(None, (register_id, register_epoch), read)
    if first.authorization is not None or first.tariff != last.tariff:
        raise EvidenceError("the readings are not of one standing authorization")
    if first.tariff.tariff_id not in standing(first.device):
        raise EvidenceError("a device that was never told yes once and for all under this tariff")
    facts = _facts(register, first)
    start = first.register.unrolled(facts.modulus)
    priced_by = _tariff(tariff, first.tariff)
    return ProvenReading(
        authorization=standing_authorization_id(
            first.device, first.device_epoch, register_id, register_epoch, granted_by
        ),
        first=first,
        last=last,
        register_from=start,
        register_to=start + _width(first, last, facts),
        priced=_priced(priced_by, facts, start, read, time_zone),
    )


def authorization_of(granted_by: GatewayId, statements: Sequence[bytes]) -> AuthorizationId | None:
    """Which authorization carried statements are about, by what they say themselves, unchecked; None for what cannot be read."""
    try:
        last = decode_statement(decode_sign1(statements[-1]).payload) if statements else None
    except MessageError:
        return None
    match last:
        case End():
            return last.authorization
        case Intent():
            return authorization_id(last.device, last.device_epoch, last.counter, granted_by)
        case Reading():
            shown = last.register
            return standing_authorization_id(
                last.device, last.device_epoch, shown.register_id, shown.register_epoch, granted_by
            )
        case _:
            return None


def named_by(end_grant: bytes, statements: Sequence[bytes]) -> tuple[TariffVersion, tuple[str, int]]:
    """The tariff version and the register (id, epoch) that carried words name, unchecked; raise ``EvidenceError`` for what cannot be read."""
    try:
        if end_grant:
            granted = decode_grant(decode_sign1(end_grant).payload)
            return granted.tariff, (granted.register_id, granted.register_epoch)
        first = decode_statement(decode_sign1(statements[0]).payload) if statements else None
    except MessageError as err:
        raise EvidenceError(f"what was carried cannot be read: {err.reason}") from err
    if not isinstance(first, Reading):
        raise EvidenceError("words without a grant are readings")
    return first.tariff, (first.register.register_id, first.register.register_epoch)


def _facts(register: Registers, first: Statement) -> RegisterFacts:
    facts = register(first.device, first.register.register_id, first.register.register_epoch)
    if facts is None:
        raise EvidenceError("a register that nobody knows")
    return facts


def _tariff(tariff: Tariffs, named: TariffVersion) -> Tariff:
    found = tariff(named.tariff_id, named.version)
    if found is None:
        raise EvidenceError("a tariff version that nobody knows")
    return found


def _read(
    granted_by: GatewayId, device: str | None, statements: Sequence[bytes], device_key: DeviceKeys
) -> list[Statement]:
    if not 1 <= len(statements) <= MAX_STATEMENTS:
        raise EvidenceError(f"an intent, an end, and at most {MAX_STATEMENTS} statements in all")
    return [_statement(granted_by, device, data, device_key) for data in statements]


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


def _statement(granted_by: GatewayId, device: str | None, data: bytes, device_key: DeviceKeys) -> Statement:
    try:
        signed = decode_sign1(data)
        statement = decode_statement(signed.payload)
    except MessageError as err:
        raise EvidenceError(f"a statement cannot be read: {err.reason}") from err
    if statement.recipient != granted_by:
        raise EvidenceError("a statement to another gateway")
    if device is not None and statement.device != device:
        raise EvidenceError("a statement of another device than the grant's")
    key = device_key(statement.device, signed.kid)
    if key is None or key.key_id != signed.kid:
        raise EvidenceError("a statement by a key that is not the device's")
    if not key.verify(statement.kind, statement.recipient, signed.payload, signed.signature):
        raise EvidenceError("a statement whose signature does not hold")
    return statement


def _check_order(authorization: AuthorizationId | None, register: tuple[str, int], read: Sequence[Statement]) -> None:
    first = read[0]
    for before, after in pairwise(read):
        if after.device != first.device:
            raise EvidenceError("a statement of another device")
        if after.device_epoch != first.device_epoch or after.counter <= before.counter:
            raise EvidenceError("the statements are not in the order in which the device made them")
    for between in read[1:-1] if authorization is not None else read:
        if not isinstance(between, Reading) or between.authorization != authorization:
            raise EvidenceError("something else than the session's readings between its intent and its end")
    for statement in read:
        if (statement.register.register_id, statement.register.register_epoch) != register:
            raise EvidenceError("a statement of another register")


def _check_grant(granted: Grant, first: Intent) -> None:
    if authorization_id(first.device, first.device_epoch, first.counter, first.recipient) != granted.authorization:
        raise EvidenceError("the intent began another authorization")
    if (granted.intent_epoch, granted.intent_counter) != (first.device_epoch, first.counter):
        raise EvidenceError("a grant for another intent")
    if granted.start != first.register.value:
        raise EvidenceError("a grant from another count")
    if first.commitment != granted.commitment:
        raise EvidenceError("the statements and the grant name different tokens")
    if first.tariff not in (None, granted.tariff):
        raise EvidenceError("the statements name another tariff version than the grant")


def _check_same_use(granted: Grant, last: End) -> None:
    if last.authorization != granted.authorization:
        raise EvidenceError("the end names another authorization")
    if last.commitment != granted.commitment:
        raise EvidenceError("the statements and the grant name different tokens")
    if last.tariff != granted.tariff:
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
    """What is due by the last statement, closing where it is the last word; what the readings between place in time, they place."""
    first = read[0]
    try:
        if isinstance(first, Intent) and first.one_shot is not None:
            return price(tariff, one_shot_use(facts.unit, start, first.one_shot, first.at, time_zone), closing=True)
        placed, placed_to, latest = None, start, first.at
        for statement in read[1:]:
            # A clock that went back takes nothing away.
            latest = max(latest, statement.at)
            use = Use(
                unit=facts.unit,
                start=start,
                end=start + _width(first, statement, facts),
                started_at=first.at,
                ended_at=latest,
                placed=placed,
                placed_to=placed_to,
                time_zone=time_zone,
            )
            priced = price(tariff, use, closing=isinstance(statement, End))
            placed, placed_to = priced.placed, use.end
    except TariffError as err:
        raise EvidenceError(f"the tariff does not price it: {err}") from err
    return priced
