"""Readings, chains and ends: what was used is billed, the hold rolls, and what does not fit is parked with its reason.

A value counts unrolled (``Authorization.unrolled``): less than before is a rollover only where the device says so, or rated power
allows it in the time. What went back is parked: nothing is billed below what was billed, so a replaced register goes on under a new
register epoch only. What is dated more than a day ahead of a trusted clock is parked too (ADR 41). A value beyond rated power is parked, and so is whatever comes at or above it before somebody has decided.
"""

from typing import NamedTuple

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import MAX_COUNT, AnswerStatus, Chain, End, Reading, Statement
from farthing.ids import AuthorizationId, standing_authorization_id
from farthing.refusal import Refusal
from farthing.tariff import Placed, TariffError, Use, ceiling, limit, price
from farthing.v1 import directive_pb2
from farthing_edge.authorization import events
from farthing_edge.authorization.commands import DeviceStatement, Reply
from farthing_edge.authorization.decision import Decision, again, digest_of, no, recorded
from farthing_edge.authorization.hearing_time import is_believed, lacks_a_clock
from farthing_edge.authorization.limits import room_micros
from farthing_edge.authorization.quotas import ask_for_more
from farthing_edge.authorization.rules import STATUS_REFUSALS
from farthing_edge.authorization.state import (
    FLOOR_FUNDING,
    Authorization,
    Charge,
    Device,
    GatewayState,
    Register,
    TariffEntry,
)
from farthing_edge.metering.funding import Purse, bill, due, hold, purse_for

#: A standing authorization asks for this many times what its next reading would lack, so that not every reading asks.
STANDING_AHEAD = 4


def heard(state: GatewayState, statement: Statement) -> Refusal | Device:
    """Who says it, if that can be anybody: status does not matter, what was used is billed."""
    if statement.recipient != state.gateway_id:
        return Refusal.RECIPIENT_DIFFERS
    device = state.devices.get(statement.device)
    if device is None:
        # A journal that was lost hears of its devices again: what they say is not refused meanwhile.
        return Refusal.DEVICE_UNKNOWN if state.is_complete else Refusal.NOT_AUTHORIZING
    if device.epoch != statement.device_epoch:
        return Refusal.DEVICE_EPOCH_DIFFERS
    return device


def decide_reading(state: GatewayState, command: DeviceStatement, reading: Reading, now: Instant) -> Decision:
    device = heard(state, reading)
    if isinstance(device, Refusal):
        return no(reading, device)
    digest = digest_of(command.payload)
    if reading.counter in device.seen:
        return seen_before(device, reading, digest)
    if reading.authorization is None:
        return _standing_reading(state, command, reading, device, digest, now)
    authorization = state.authorizations.get(reading.authorization)
    if authorization is None:
        return _unknown_authorization(device, reading)
    fault = does_not_fit(device, authorization, reading)
    if fault is not None:
        return park(command, reading, digest, fault, now)
    return _take_reading(state, command, reading, device, authorization, digest, now)


def _take_reading(
    state: GatewayState,
    command: DeviceStatement,
    reading: Reading,
    device: Device,
    authorization: Authorization,
    digest: bytes,
    now: Instant,
) -> Decision:
    """A reading that fits its authorization: late, parked or metered."""
    value = unrolled(device, authorization, reading)
    if reading.counter < authorization.last_counter:
        return recorded(reading, authorization)
    if authorization.closed:
        if value > authorization.value:
            return park(command, reading, digest, Refusal.INTENT_ENDED, now, authorization, value)
        return recorded(reading, authorization)
    if authorization.signed_value <= value < authorization.value:
        # Ticks have overtaken it: they have proven more since.
        return recorded(reading, authorization)
    fault = not_believed(state, device, authorization, reading, value, now)
    if fault is not None:
        return park(command, reading, digest, fault, now, authorization, value)
    return meter(state, command, reading, device, authorization, digest, now, value, closing=False)


def decide_chain(state: GatewayState, command: DeviceStatement, chain: Chain, now: Instant) -> Decision:
    """A reading, and from there on ticks. It takes the place of the chain before it, whose ticks prove nothing more."""
    device = heard(state, chain)
    if isinstance(device, Refusal):
        return no(chain, device)
    digest = digest_of(command.payload)
    if chain.counter in device.seen:
        return seen_before(device, chain, digest)
    authorization = state.authorizations.get(chain.authorization)
    if authorization is None:
        return _unknown_authorization(device, chain)
    fault = does_not_fit(device, authorization, chain)
    if fault is not None:
        return park(command, chain, digest, fault, now)
    value = unrolled(device, authorization, chain)
    if value + chain.length * chain.unit_per_tick > MAX_COUNT:
        return no(chain, Refusal.MALFORMED)
    if authorization.closed or chain.counter < authorization.last_counter:
        return recorded(chain, authorization)
    fault = not_believed(state, device, authorization, chain, value, now)
    if fault is not None:
        return park(command, chain, digest, fault, now, authorization, value)
    decision = meter(state, command, chain, device, authorization, digest, now, value, closing=False)
    if not decision.events or not isinstance(decision.events[0], events.Metered):
        return decision
    started = events.ChainStarted(
        authorization=authorization.id,
        counter=chain.counter,
        statement=command.cose,
        unit_per_tick=chain.unit_per_tick,
        length=chain.length,
        anchor=chain.anchor,
        start=value,
    )
    metered, *more = decision.events
    return decision._replace(events=(metered, started, *more))


def decide_end(state: GatewayState, command: DeviceStatement, end: End, now: Instant) -> Decision:
    device = heard(state, end)
    if isinstance(device, Refusal):
        return no(end, device)
    digest = digest_of(command.payload)
    if end.counter in device.seen:
        return seen_before(device, end, digest)
    authorization = state.authorizations.get(end.authorization)
    if authorization is None:
        if end.authorization in device.cancelled:
            return recorded(end, None)
        if end.tariff is not None or end.counter <= device.window_floor():
            # It names a grant that this journal does not know.
            return _unknown_authorization(device, end)
        return Decision((_nothing_to_bill(command, end, digest),), recorded(end, None).reply)
    fault = does_not_fit(device, authorization, end)
    if fault is not None:
        return park(command, end, digest, fault, now)
    value = unrolled(device, authorization, end)
    if authorization.closed:
        if authorization.closed_by and value > authorization.value:
            # Somebody decided that the device was gone. What it used after its last word then is evidence for people.
            return park(command, end, digest, Refusal.INTENT_ENDED, now, authorization, value)
        # Its counter is remembered, or nothing would ever be receipted up to it and its device would keep it for ever.
        return Decision((_nothing_to_bill(command, end, digest),), recorded(end, authorization).reply)
    if end.tariff is None and value > authorization.start:
        # Who has heard no grant has used nothing. No detail could prove a bill whose last statement names no price, nor anything else of its batch.
        return park(command, end, digest, Refusal.TARIFF_MISSING, now)
    fault = not_believed(state, device, authorization, end, value, now)
    if fault is not None:
        return park(command, end, digest, fault, now, authorization, value)
    return meter(state, command, end, device, authorization, digest, now, value, closing=True)


def _nothing_to_bill(command: DeviceStatement, end: End, digest: bytes) -> events.IntentCancelled:
    return events.IntentCancelled(
        device=end.device,
        device_epoch=end.device_epoch,
        counter=end.counter,
        digest=digest,
        statement=command.cose,
        authorization=end.authorization,
        at=end.at,
    )


def unrolled(device: Device, authorization: Authorization, statement: Reading | Chain | End) -> int:
    return authorization.unrolled(
        statement.register, device.modulus(authorization.register_id, authorization.register_epoch)
    )


def not_believed(
    state: GatewayState,
    device: Device,
    authorization: Authorization,
    statement: Reading | Chain | End,
    value: int,
    now: Instant,
) -> Refusal | None:
    """Why a statement cannot be taken as it stands: nobody bills it before somebody has decided."""
    if not is_believed(state, statement.at, now):
        # What costs by time would be billed for years.
        return Refusal.CLOCK_AHEAD
    if value < authorization.value:
        return Refusal.REGISTER_WENT_BACK
    if authorization.ceiling is not None and value >= authorization.ceiling:
        return Refusal.REGISTER_TOO_FAST
    register = device.registers.get(authorization.register_id)
    if register is None or register.epoch != authorization.register_epoch:
        return None
    counted = value - authorization.value
    # By its own clock or ours, whichever gives it more time: a clock that stands wrong must not park what is right.
    elapsed_us = max(statement.at - authorization.at, now - authorization.heard_at)
    said = statement.register.unrolled(register.modulus) - authorization.said_start + authorization.start
    if said < authorization.value:
        # Smaller than what it said before: it came round, or it went back.
        return None if register.can_count(counted, elapsed_us) else Refusal.REGISTER_WENT_BACK
    # What a grant covered in advance was held for it: so much nobody doubts, once. Who is ahead with one reading is not ahead anew with the next.
    covered_us = authorization.report_interval_s * SECOND_US
    ahead_us = register.ahead_after(counted, elapsed_us)
    return None if register.may_be_ahead(ahead_us, covered_us) else Refusal.REGISTER_TOO_FAST


def seen_before(device: Device, statement: Statement, digest: bytes) -> Decision:
    if device.seen[statement.counter].digest == digest:
        return again(device, statement)
    return no(statement, Refusal.COUNTER_REUSED)


def _unknown_authorization(device: Device, statement: Reading | Chain | End) -> Decision:
    if statement.counter <= device.window_floor():
        return no(statement, Refusal.COUNTER_TOO_OLD)
    return no(statement, Refusal.AUTHORIZATION_UNKNOWN)


def does_not_fit(device: Device, authorization: Authorization, statement: Reading | Chain | End) -> Refusal | None:
    """What a statement must repeat of the authorization that it names."""
    register = statement.register
    if authorization.device_id != device.id or authorization.register_id != register.register_id:
        return Refusal.MALFORMED
    if authorization.register_epoch != register.register_epoch:
        return Refusal.REGISTER_EPOCH_DIFFERS
    if authorization.commitment != statement.commitment and not authorization.standing:
        return Refusal.COMMITMENT_DIFFERS
    if statement.tariff is not None and statement.tariff != authorization.tariff:
        return Refusal.TARIFF_MISSING
    known = device.registers.get(register.register_id)
    if known is not None and known.epoch == register.register_epoch and register.value >= known.modulus:
        return Refusal.MALFORMED
    if known is not None and register.unrolled(known.modulus) + known.modulus > MAX_COUNT:
        return Refusal.MALFORMED
    return None


def park(
    command: DeviceStatement,
    statement: Reading | Chain | End,
    digest: bytes,
    refusal: Refusal,
    now: Instant,
    authorization: Authorization | None = None,
    value: int = -1,
) -> Decision:
    return no(
        statement,
        refusal,
        events.StatementParked(
            device=statement.device,
            device_epoch=statement.device_epoch,
            counter=statement.counter,
            digest=digest,
            statement=command.cose,
            refusal=int(refusal),
            at=now,
            authorization=b"" if authorization is None else authorization.id,
            value=value,
            said_at=statement.at,
            closing=isinstance(statement, End),
            goes_up=True,
        ),
    )


def _standing_reading(
    state: GatewayState, command: DeviceStatement, reading: Reading, device: Device, digest: bytes, now: Instant
) -> Decision:
    if device.profile != directive_pb2.DEVICE_PROFILE_STANDING:
        return no(reading, Refusal.MALFORMED)
    # Each reading of a standing authorization is a new yes. What is refused now is billed by the first reading after.
    if device.status != directive_pb2.DEVICE_STATUS_ACTIVE:
        # A journal that was lost hears of its devices again, also of what is over.
        refusal = STATUS_REFUSALS.get(device.status, Refusal.DEVICE_UNKNOWN)
        return no(reading, refusal if state.incarnation else Refusal.NOT_AUTHORIZING)
    register = device.registers.get(reading.register.register_id)
    if register is None:
        return no(reading, Refusal.REGISTER_UNKNOWN)
    name = standing_authorization_id(
        device.id, reading.device_epoch, register.id, reading.register.register_epoch, state.gateway_id
    )
    authorization = state.authorizations.get(name)
    if authorization is None:
        return _baseline(state, command, reading, device, register, name, digest, now)
    fault = does_not_fit(device, authorization, reading)
    if fault is not None:
        return park(command, reading, digest, fault, now)
    return _take_reading(state, command, reading, device, authorization, digest, now)


def _baseline(
    state: GatewayState,
    command: DeviceStatement,
    reading: Reading,
    device: Device,
    register: Register,
    name: AuthorizationId,
    digest: bytes,
    now: Instant,
) -> Decision:
    """Where a standing authorization begins. Nothing is billed, so only what it will be billed by must fit.

    It is a yes like any other: a journal that may have forgotten where it began, and has no welcome yet that could say so, gives none.
    """
    if state.not_authorizing_reason:
        return no(reading, Refusal.NOT_AUTHORIZING)
    if reading.counter <= device.window_floor():
        return no(reading, Refusal.COUNTER_TOO_OLD)
    if register.epoch > reading.register.register_epoch:
        # Of a register that was replaced, and whose use a lost journal had: nobody says it once more, so people see it.
        return park(command, reading, digest, Refusal.REGISTER_EPOCH_DIFFERS, now)
    if register.epoch < reading.register.register_epoch:
        # Of a register that this journal has yet to hear of. A no would let its device begin at a later reading, and what lies before it would be nobody's.
        return no(reading, Refusal.NOT_AUTHORIZING)
    if reading.register.value >= register.modulus:
        return no(reading, Refusal.MALFORMED)
    if not is_believed(state, reading.at, now):
        return no(reading, Refusal.CLOCK_AHEAD)
    start = register.unrolled_start(reading.register, reading.at)
    if start is None:
        return no(reading, Refusal.REGISTER_WENT_BACK)
    tariff = state.tariff_in_force(device.tariff, reading.at)
    if tariff is None or reading.tariff != tariff.name or not tariff.tariff.fits(register.unit):
        return no(reading, Refusal.TARIFF_MISSING)
    if lacks_a_clock(state, tariff, register.unit):
        return no(reading, Refusal.CLOCK_UNTRUSTED)
    taken = events.BaselineTaken(
        device=device.id,
        device_epoch=reading.device_epoch,
        counter=reading.counter,
        digest=digest,
        statement=command.cose,
        traceparent=command.traceparent,
        authorization=name,
        account=device.standing_account_id,
        token_key=b"*" + device.id.encode(),
        register_id=register.id,
        register_epoch=register.epoch,
        unit=register.unit,
        start=start,
        at=reading.at,
        tariff_id=tariff.name.tariff_id,
        tariff_version=tariff.name.version,
        currency=tariff.currency,
        report_interval_s=device.report_interval_s,
        said_start=reading.register.unrolled(register.modulus),
    )
    reply = Reply(
        device=device.id, answers=(reading.device_epoch, reading.counter), status=AnswerStatus.RECORDED, closed=False
    )
    more = _ask_ahead(state, device, register, tariff, reading, now)
    return Decision((taken,) if more is None else (taken, more), reply)


def _ask_ahead(
    state: GatewayState, device: Device, register: Register, tariff: TariffEntry, reading: Reading, now: Instant
) -> events.QuotaRequested | None:
    """The first reading to bill should find a quota."""
    account = state.accounts.get(device.standing_account_id)
    if account is None:
        return None
    until = Instant(reading.at + device.report_interval_s * SECOND_US)
    try:
        closing = tariff.closing(
            register.unit,
            reading.register.value,
            register.reach(device.report_interval_s),
            reading.at,
            until,
            state.time_zone,
            one_shot=False,
        )
    except TariffError:
        return None
    missing = closing.gross_micros - account.free_micros(state.clock.latest(now))
    return ask_for_more(state, account, STANDING_AHEAD * missing, now) if missing > 0 else None


def meter(
    state: GatewayState,
    command: DeviceStatement,
    statement: Reading | Chain | End,
    device: Device,
    authorization: Authorization,
    digest: bytes,
    now: Instant,
    value: int,
    *,
    closing: bool,
    purse: Purse | None = None,
) -> Decision:
    """Bill what is due and not billed, roll the hold, and say how far it goes now."""
    entry = state.tariffs.get((authorization.tariff.tariff_id, authorization.tariff.version))
    if entry is None:
        return park(command, statement, digest, Refusal.TARIFF_MISSING, now, authorization, value)
    account = state.accounts.get(authorization.account_id)
    if purse is None:
        purse = purse_for(state, account, authorization.token_key, authorization.holds)
    # A device whose clock went back adds no time: what it cost by then it costs still.
    at = max(statement.at, authorization.at)
    try:
        billed = bill_and_roll(state, device, authorization, entry, purse, value=value, at=at, now=now, closing=closing)
    except TariffError:
        return park(command, statement, digest, Refusal.TARIFF_MISSING, now, authorization, value)
    told = authorization.told
    metered = events.Metered(
        device=device.id,
        counter=statement.counter,
        digest=digest,
        statement=command.cose,
        traceparent=command.traceparent or authorization.traceparent,
        authorization=authorization.id,
        value=value,
        at=at,
        charges=billed.charges,
        holds=billed.holds,
        limit=billed.limit,
        closing=closing,
        decided_at=now,
        incarnation=state.incarnation,
        opened_position=authorization.opened_position,
        told_position=0 if told is None else told.entry or told.position,
        register_from=authorization.recorded_to,
        net_before_micros=authorization.net_micros,
        tax_before_micros=authorization.tax_micros,
        latest=latest_beside(authorization, statement.at),
        placed=billed.placed,
        placed_position=authorization.placed_position,
        readings_due=billed.readings_due,
    )
    reply = Reply(
        device=device.id,
        answers=(statement.device_epoch, statement.counter),
        status=AnswerStatus.RECORDED,
        grant_of=None if closing or authorization.standing else authorization.id,
        closed=closing,
    )
    short_micros = billed.short_micros
    more = None if account is None or short_micros <= 0 else ask_for_more(state, account, short_micros, now)
    return Decision((metered,) if more is None else (metered, more), reply)


def latest_beside(authorization: Authorization, at: Instant) -> bytes | None:
    """The statement whose time a record takes, where neither the one that ends it (``at``) nor the first has it."""
    latest = authorization.latest_statement
    return latest if authorization.at > at and latest != authorization.first_statement else None


class Billed(NamedTuple):
    """What a record bills, what is held after it, how far that goes, and what is short for the use until the next reading."""

    charges: tuple[Charge, ...]
    holds: tuple[tuple[str, int], ...]
    limit: int
    short_micros: int
    placed: Placed | None
    readings_due: tuple[int, ...] = ()


def bill_and_roll(
    state: GatewayState,
    device: Device,
    authorization: Authorization,
    entry: TariffEntry,
    purse: Purse,
    *,
    value: int,
    at: Instant,
    now: Instant,
    closing: bool,
) -> Billed:
    """What is due up to ``value`` and not billed, and the hold for what comes next; raise ``TariffError`` where there is no price."""
    tariff, start = entry.tariff, authorization.start
    use = Use(
        unit=authorization.unit,
        start=start,
        end=value,
        started_at=authorization.started_at,
        ended_at=at,
        placed=authorization.placed,
        placed_to=authorization.placed_to,
        time_zone=state.time_zone,
    )
    priced = price(tariff, use, closing=closing)
    added = due(authorization.billed, priced.parts, closing=closing)
    latest = state.clock.latest(now)
    charges = bill(purse, added, latest) if added else ()
    if closing:
        return Billed(charges, (), value, 0, priced.placed)
    billed = authorization.net_micros + authorization.tax_micros
    for charge in charges:
        billed += charge.net_micros + charge.tax_micros
    register = device.registers.get(authorization.register_id)
    most = value - start + (0 if register is None else register.reach(authorization.report_interval_s))
    until = Instant(at + authorization.report_interval_s * SECOND_US)
    if priced.placed is None:
        furthest = entry.closing(use.unit, start, most, use.started_at, until, state.time_zone, one_shot=False)
        most_micros, covered = furthest.gross_micros, furthest.covered
    else:
        most_micros, covered = ceiling(tariff, use, most=most, until=until), most
    need = most_needed = most_micros - billed
    if authorization.cap_micros is not None or state.policies.limits is not None:
        room = room_micros(state, authorization, billed - authorization.gross_micros, now)
        if room is not None:
            need = min(need, room)
    held = hold(purse, charges, need, latest, floor=FLOOR_FUNDING in purse.holds)
    if authorization.standing:
        # It keeps no hold between readings: only what the next one will find is asked.
        return Billed(charges, (), value, STANDING_AHEAD * held.missing_micros, priced.placed)
    if held.missing_micros or need < 0 or need < most_needed:
        budget = billed
        for _, amount in held.parts:
            budget += amount
        covered = limit(tariff, use, most=most, until=until, budget_micros=budget)
    asked = () if priced.placed is None else entry.readings_due(use, at)
    return Billed(charges, held.parts, max(value, start + covered), held.missing_micros, priced.placed, asked)
