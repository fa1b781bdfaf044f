"""What follows from a command: ``decide(state, command, now=...)``.

Rule 1: it changes nothing; the decision's events, applied in order, are all that happens.
Rule 2: a statement that verified is never lost: it is billed, or recorded, or parked with its reason, or asked for again.
Rule 3: whatever was said once is said again: a repeat is answered with the first answer and what became of it, and a late or
reordered statement changes nothing twice.
Rule 4: use is always billed, whatever its device's status has become; rules stop new use only. (Each reading of a standing
authorization is new use.)
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus, End, Intent, Reading
from farthing.ids import AuthorizationId, authorization_id, standing_authorization_id
from farthing.refusal import Refusal
from farthing.tariff import TariffError, Use, limit, price
from farthing.v1 import directive_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands, events
from farthing_edge.authorization.commands import Command, DeviceStatement, Reply, WaitForQuota
from farthing_edge.authorization.events import Event
from farthing_edge.authorization.rules import RULES_OF_THE_DEVICE, RULES_OF_THE_INTENT, STATUS_REFUSALS, Ask
from farthing_edge.authorization.state import (
    FLOOR_FUNDING,
    Account,
    Authorization,
    Charge,
    Device,
    GatewayState,
    Quota,
    Register,
    TariffEntry,
)
from farthing_edge.metering.funding import Purse, bill, due, hold, purse_for
from farthing_edge.metering.sealing import seal

#: "Same content" compares this much of SHA-256 of a payload: 2⁶⁴ tries for a second content of one's own.
DIGEST_SIZE = 16
#: A head is journaled only when it is this part of the allowed age newer than the last: it bounds writes, not safety.
_HEAD_RECORDS = 16
#: A standing authorization asks for this many times what its next reading would lack, so that not every reading asks.
STANDING_AHEAD = 4
_GATEWAY_RULES = frozenset({13, 14})


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens and what is said.

    ``reply`` answers a statement; ``wait`` says that it is to be decided again. ``refused`` counts a no that is not journaled.
    """

    events: tuple[Event, ...] = ()
    reply: Reply | None = None
    wait: WaitForQuota | None = None
    refused: Refusal | None = None


_NOTHING = Decision()


def decide(state: GatewayState, command: Command, *, now: Instant) -> Decision:
    """Decide ``command`` at the business instant ``now``."""
    return _DECIDE[command.__class__](state, command, now)


def _statement(state: GatewayState, command: DeviceStatement, now: Instant) -> Decision:
    statement = command.statement
    if statement.__class__ is Intent:
        return _intent(state, command, statement, now)
    if statement.__class__ is Reading:
        return _reading(state, command, statement, now)
    assert isinstance(statement, End)
    return _end(state, command, statement, now)


def digest_of(payload: bytes) -> bytes:
    """By what "same content" is told: recipient included, signature not."""
    return hashlib.sha256(payload).digest()[:DIGEST_SIZE]


def status_of(refusal: Refusal) -> AnswerStatus:
    """Refused is final for a statement; of the gateway's own reasons, 13 can be asked again, 14 after learning something."""
    if refusal.rule == 13:
        return AnswerStatus.LATER
    return AnswerStatus.AGAIN if refusal.rule == 14 else AnswerStatus.REFUSED


def _no(statement: Intent | Reading | End, refusal: Refusal, *happened: Event) -> Decision:
    reply = Reply(
        device=statement.device,
        answers=(statement.device_epoch, statement.counter),
        status=status_of(refusal),
        refusal=refusal,
    )
    return Decision(happened, reply, refused=None if happened else refusal)


# Intents --------------------------------------------------------------------------------------------------------------


def _intent(state: GatewayState, command: DeviceStatement, intent: Intent, now: Instant) -> Decision:
    ask = Ask(state, command, intent)
    digest = digest_of(command.payload)
    if _is_repeat(state, ask, digest):
        assert ask.device is not None  # a repeat is of a device that is known
        return _again(ask.device, intent)
    for rule in RULES_OF_THE_DEVICE:
        refusal = rule(state, ask)
        if refusal is not None:
            return _refuse(ask, digest, refusal, now) if _no_stays(state, ask) else _no(intent, refusal)
    for rule in RULES_OF_THE_INTENT:
        refusal = rule(state, ask)
        if refusal is not None:
            if refusal.rule == 3 or refusal.rule in _GATEWAY_RULES:
                return _no(intent, refusal)
            return _refuse(ask, digest, refusal, now)
    return _money(state, ask, digest, now)


def _is_repeat(state: GatewayState, ask: Ask, digest: bytes) -> bool:
    """Whether this very intent was answered before. Then nothing is decided: a device that was blocked since hears what it was
    told then, or it would forget a yes whose hold only its end can release."""
    intent, device = ask.intent, ask.device
    return (
        device is not None
        and device.epoch == intent.device_epoch
        and intent.recipient == state.gateway_id
        and not ask.is_new
        and device.seen[intent.counter].digest == digest
    )


def _no_stays(state: GatewayState, ask: Ask) -> bool:
    """Whether this no is remembered: a device in good standing goes by it, so a late copy of the intent must not become a yes
    (the register free by then, the hold nobody's). What anybody else says changes nothing."""
    intent, device = ask.intent, ask.device
    return (
        device is not None
        and ask.is_new
        and intent.recipient == state.gateway_id
        and device.epoch == intent.device_epoch
        and device.status == directive_pb2.DEVICE_STATUS_ACTIVE
        and intent.counter > device.window_floor()
    )


def _again(device: Device, statement: Intent | Reading | End) -> Decision:
    """The first answer, and what became of it."""
    seen = device.seen[statement.counter]
    answers = (statement.device_epoch, statement.counter)
    if seen.refusal is not None:
        refusal = Refusal(seen.refusal)
        return Decision(reply=Reply(device=device.id, answers=answers, status=status_of(refusal), refusal=refusal))
    authorization = seen.authorization
    granted = statement.__class__ is Intent
    return Decision(
        reply=Reply(
            device=device.id,
            answers=answers,
            status=AnswerStatus.GRANTED if granted else AnswerStatus.RECORDED,
            grant_of=None
            if authorization is None or authorization.standing or (authorization.closed and not granted)
            else authorization.id,
            closed=authorization is None or authorization.closed,
        )
    )


def _refuse(ask: Ask, digest: bytes, refusal: Refusal, now: Instant) -> Decision:
    intent = ask.intent
    return _no(
        intent,
        refusal,
        events.IntentRefused(
            device=intent.device,
            device_epoch=intent.device_epoch,
            counter=intent.counter,
            digest=digest,
            refusal=int(refusal),
            at=now,
        ),
    )


def _money(state: GatewayState, ask: Ask, digest: bytes, now: Instant) -> Decision:
    """Rule 12: quota, then floor; with an uplink, a quota that is still to come first."""
    intent, device, register, account, tariff = ask.intent, ask.device, ask.register, ask.account, ask.tariff
    assert device is not None  # the rules before
    assert register is not None
    assert account is not None
    assert tariff is not None
    token_key = ask.command.token_ref or b""
    stale = now - state.head_at > state.settings.directive_max_age_us
    purse = purse_for(state, account, token_key, {}, floor_only=stale)
    start = intent.register.value
    one_shot = intent.one_shot
    if one_shot is None:
        most = register.reach(device.report_interval_s)
        if intent.wanted is not None:
            most = min(most, intent.wanted)
        until = Instant(intent.at + device.report_interval_s * SECOND_US)
    else:
        most, until = one_shot, intent.at
    try:
        closing = tariff.closing(register.unit, start, most, intent.at, until)
    except TariffError:
        # A price beyond one amount: this tariff does not price such a use.
        return _refuse(ask, digest, Refusal.TARIFF_MISSING, now)
    need = closing.gross_micros
    held = hold(purse, (), need, now, floor=True)
    if held.missing_micros:
        if ask.command.may_wait and state.online and not stale:
            waiting = _wait_for(state, account, held.missing_micros, now)
            if waiting is not None:
                return waiting
        if one_shot is not None or not device.stoppable:
            return _short_of_money(state, ask, digest, now, stale=stale)
    if one_shot is not None:
        charges = bill(purse, closing.parts, now)
        granted = _granted(state, ask, digest, now, holds=(), limit_value=start + one_shot, charges=charges)
    else:
        covered = closing.covered
        if held.missing_micros:
            use = Use(unit=register.unit, start=start, end=start + most, started_at=intent.at, ended_at=until)
            covered = limit(tariff.tariff, use, most=most, until=until, budget_micros=need - held.missing_micros)
        if covered == 0 and most > 0:
            return _short_of_money(state, ask, digest, now, stale=stale)
        granted = _granted(state, ask, digest, now, holds=held.parts, limit_value=start + covered, charges=())
    reply = Reply(
        device=device.id,
        answers=(intent.device_epoch, intent.counter),
        status=AnswerStatus.GRANTED,
        grant_of=AuthorizationId(granted.authorization),
        closed=one_shot is not None,
    )
    return Decision((granted,), reply)


def _short_of_money(state: GatewayState, ask: Ask, digest: bytes, now: Instant, *, stale: bool) -> Decision:
    if stale:
        return _no(ask.intent, Refusal.DIRECTIVES_TOO_OLD)
    account = ask.account
    assert account is not None  # only asked once it is known
    policy = state.floor_policy
    if policy.currency == account.currency and min(
        policy.per_token_micros, policy.per_account_micros, policy.all_tokens_micros
    ):
        return _refuse(ask, digest, Refusal.FLOOR_EXHAUSTED, now)
    return _refuse(ask, digest, Refusal.QUOTA_EXHAUSTED if account.quotas else Refusal.NO_QUOTA, now)


def _granted(
    state: GatewayState,
    ask: Ask,
    digest: bytes,
    now: Instant,
    *,
    holds: tuple[tuple[str, int], ...],
    limit_value: int,
    charges: tuple[Charge, ...],
) -> events.Granted:
    intent, device, register, account, tariff = ask.intent, ask.device, ask.register, ask.account, ask.tariff
    assert device is not None  # the rules before
    assert register is not None
    assert account is not None
    assert tariff is not None
    start = intent.register.value
    return events.Granted(
        device=device.id,
        device_epoch=intent.device_epoch,
        counter=intent.counter,
        digest=digest,
        statement=ask.command.cose,
        traceparent=ask.command.traceparent,
        authorization=authorization_id(device.id, intent.device_epoch, intent.counter, state.gateway_id),
        account=account.id,
        token_key=ask.command.token_ref or b"",
        commitment=intent.commitment,
        register_id=register.id,
        register_epoch=register.epoch,
        unit=register.unit,
        start=start,
        at=intent.at,
        tariff_id=tariff.name.tariff_id,
        tariff_version=tariff.name.version,
        currency=tariff.currency,
        report_interval_s=device.report_interval_s,
        holds=holds,
        limit=limit_value,
        decided_at=now,
        incarnation=state.incarnation,
        online=state.online,
        used_to=start + (intent.one_shot or 0),
        charges=charges,
    )


# Readings and ends ----------------------------------------------------------------------------------------------------


def _heard(state: GatewayState, statement: Reading | End) -> Refusal | Device:
    """Who says it, if that can be anybody: status does not matter, what was used is billed."""
    if statement.recipient != state.gateway_id:
        return Refusal.RECIPIENT_DIFFERS
    device = state.devices.get(statement.device)
    if device is None:
        return Refusal.DEVICE_UNKNOWN
    if device.epoch != statement.device_epoch:
        return Refusal.DEVICE_EPOCH_DIFFERS
    return device


def _reading(state: GatewayState, command: DeviceStatement, reading: Reading, now: Instant) -> Decision:
    device = _heard(state, reading)
    if isinstance(device, Refusal):
        return _no(reading, device)
    digest = digest_of(command.payload)
    if reading.counter in device.seen:
        return _seen_before(device, reading, digest)
    if reading.authorization is None:
        return _standing_reading(state, command, reading, device, digest, now)
    authorization = state.authorizations.get(reading.authorization)
    if authorization is None:
        return _unknown_authorization(device, reading)
    fault = _does_not_fit(device, authorization, reading)
    if fault is not None:
        return _park(command, reading, digest, fault, now)
    if authorization.closed:
        if reading.counter > authorization.last_counter and reading.register.value > authorization.value:
            return _park(command, reading, digest, Refusal.INTENT_ENDED, now)
        return _recorded(reading, authorization)
    if reading.counter < authorization.last_counter:
        return _recorded(reading, authorization)
    if reading.register.value < authorization.value:
        return _park(command, reading, digest, Refusal.REGISTER_WENT_BACK, now)
    return _meter(state, command, reading, device, authorization, digest, now, closing=False)


def _end(state: GatewayState, command: DeviceStatement, end: End, now: Instant) -> Decision:
    device = _heard(state, end)
    if isinstance(device, Refusal):
        return _no(end, device)
    digest = digest_of(command.payload)
    if end.counter in device.seen:
        return _seen_before(device, end, digest)
    authorization = state.authorizations.get(end.authorization)
    if authorization is None:
        if end.authorization in device.cancelled:
            return _recorded(end, None)
        if end.tariff is not None or end.counter <= device.window_floor():
            # It names a grant that this journal does not know.
            return _unknown_authorization(device, end)
        cancelled = events.IntentCancelled(
            device=device.id,
            device_epoch=end.device_epoch,
            counter=end.counter,
            digest=digest,
            statement=command.cose,
            authorization=end.authorization,
            at=end.at,
        )
        return Decision((cancelled,), _recorded(end, None).reply)
    fault = _does_not_fit(device, authorization, end)
    if fault is not None:
        return _park(command, end, digest, fault, now)
    if authorization.closed:
        return _recorded(end, authorization)
    if end.register.value < authorization.value:
        return _park(command, end, digest, Refusal.REGISTER_WENT_BACK, now)
    return _meter(state, command, end, device, authorization, digest, now, closing=True)


def _seen_before(device: Device, statement: Reading | End, digest: bytes) -> Decision:
    if device.seen[statement.counter].digest == digest:
        return _again(device, statement)
    return _no(statement, Refusal.COUNTER_REUSED)


def _unknown_authorization(device: Device, statement: Reading | End) -> Decision:
    if statement.counter <= device.window_floor():
        return _no(statement, Refusal.COUNTER_TOO_OLD)
    return _no(statement, Refusal.AUTHORIZATION_UNKNOWN)


def _does_not_fit(device: Device, authorization: Authorization, statement: Reading | End) -> Refusal | None:
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
    return None


def _recorded(statement: Reading | End, authorization: Authorization | None) -> Decision:
    """Heard, and nothing changes."""
    is_open = authorization is not None and not authorization.closed
    return Decision(
        reply=Reply(
            device=statement.device,
            answers=(statement.device_epoch, statement.counter),
            status=AnswerStatus.RECORDED,
            grant_of=authorization.id if authorization is not None and is_open and not authorization.standing else None,
            closed=not is_open,
        )
    )


def _park(
    command: DeviceStatement, statement: Reading | End, digest: bytes, refusal: Refusal, now: Instant
) -> Decision:
    return _no(
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
        ),
    )


def _standing_reading(
    state: GatewayState, command: DeviceStatement, reading: Reading, device: Device, digest: bytes, now: Instant
) -> Decision:
    if device.profile != directive_pb2.DEVICE_PROFILE_STANDING:
        return _no(reading, Refusal.MALFORMED)
    # Each reading of a standing authorization is a new yes. What is refused now is billed by the first reading after.
    if device.status != directive_pb2.DEVICE_STATUS_ACTIVE:
        return _no(reading, STATUS_REFUSALS.get(device.status, Refusal.DEVICE_UNKNOWN))
    register = device.registers.get(reading.register.register_id)
    if register is None:
        return _no(reading, Refusal.REGISTER_UNKNOWN)
    name = standing_authorization_id(
        device.id, reading.device_epoch, register.id, reading.register.register_epoch, state.gateway_id
    )
    authorization = state.authorizations.get(name)
    if authorization is None:
        return _baseline(state, command, reading, device, register, name, digest, now)
    fault = _does_not_fit(device, authorization, reading)
    if fault is not None:
        return _park(command, reading, digest, fault, now)
    if authorization.closed or reading.counter < authorization.last_counter:
        return _recorded(reading, authorization)
    if reading.register.value < authorization.value:
        return _park(command, reading, digest, Refusal.REGISTER_WENT_BACK, now)
    return _meter(state, command, reading, device, authorization, digest, now, closing=False)


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
    """Where a standing authorization begins. Nothing is billed, so only what it will be billed by must fit."""
    if reading.counter <= device.window_floor():
        return _no(reading, Refusal.COUNTER_TOO_OLD)
    if register.epoch != reading.register.register_epoch:
        return _no(reading, Refusal.REGISTER_EPOCH_DIFFERS)
    if reading.register.value >= register.modulus:
        return _no(reading, Refusal.MALFORMED)
    tariff = state.tariffs.get((device.tariff.tariff_id, device.tariff.version))
    if tariff is None or reading.tariff != device.tariff or not tariff.tariff.fits(register.unit):
        return _no(reading, Refusal.TARIFF_MISSING)
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
        start=reading.register.value,
        at=reading.at,
        tariff_id=tariff.name.tariff_id,
        tariff_version=tariff.name.version,
        currency=tariff.currency,
        report_interval_s=device.report_interval_s,
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
            register.unit, reading.register.value, register.reach(device.report_interval_s), reading.at, until
        )
    except TariffError:
        return None
    missing = closing.gross_micros - account.free_micros(now)
    return _ask_for_more(state, account, STANDING_AHEAD * missing, now) if missing > 0 else None


def _meter(
    state: GatewayState,
    command: DeviceStatement,
    statement: Reading | End,
    device: Device,
    authorization: Authorization,
    digest: bytes,
    now: Instant,
    *,
    closing: bool,
) -> Decision:
    """Bill what is due and not billed, roll the hold, and say how far it goes now."""
    entry = state.tariffs.get((authorization.tariff.tariff_id, authorization.tariff.version))
    if entry is None:
        return _park(command, statement, digest, Refusal.TARIFF_MISSING, now)
    account = state.accounts.get(authorization.account_id)
    purse = purse_for(state, account, authorization.token_key, authorization.holds)
    value = statement.register.value
    # What the statement says, so that its evidence stands alone; a device whose clock went back adds no time (``due``).
    at = statement.at
    try:
        charges, holds, limit_value, short_micros = _bill_and_roll(
            device, authorization, entry, purse, value=value, at=at, now=now, closing=closing
        )
    except TariffError:
        return _park(command, statement, digest, Refusal.TARIFF_MISSING, now)
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
        charges=charges,
        holds=holds,
        limit=limit_value,
        closing=closing,
        decided_at=now,
        incarnation=state.incarnation,
        opened_position=authorization.opened_position,
        told_position=0 if told is None else told.position,
        register_from=authorization.recorded_to,
        net_before_micros=authorization.net_micros,
        tax_before_micros=authorization.tax_micros,
    )
    reply = Reply(
        device=device.id,
        answers=(statement.device_epoch, statement.counter),
        status=AnswerStatus.RECORDED,
        grant_of=None if closing or authorization.standing else authorization.id,
        closed=closing,
    )
    more = None if account is None or short_micros <= 0 else _ask_for_more(state, account, short_micros, now)
    return Decision((metered,) if more is None else (metered, more), reply)


def _bill_and_roll(
    device: Device,
    authorization: Authorization,
    entry: TariffEntry,
    purse: Purse,
    *,
    value: int,
    at: Instant,
    now: Instant,
    closing: bool,
) -> tuple[tuple[Charge, ...], tuple[tuple[str, int], ...], int, int]:
    """(charges, holds after them, limit, what is short for the use until the next reading)."""
    tariff, start = entry.tariff, authorization.start
    use = Use(unit=authorization.unit, start=start, end=value, started_at=authorization.started_at, ended_at=at)
    added = due(authorization.billed, price(tariff, use, closing=closing).parts, closing=closing)
    charges = bill(purse, added, now) if added else ()
    if closing:
        return charges, (), value, 0
    billed = authorization.net_micros + authorization.tax_micros
    for charge in charges:
        billed += charge.net_micros + charge.tax_micros
    register = device.registers.get(authorization.register_id)
    most = value - start + (0 if register is None else register.reach(authorization.report_interval_s))
    until = Instant(at + authorization.report_interval_s * SECOND_US)
    furthest = entry.closing(use.unit, start, most, use.started_at, until)
    need = furthest.gross_micros - billed
    held = hold(purse, charges, need, now, floor=FLOOR_FUNDING in purse.holds)
    if authorization.standing:
        # It keeps no hold between readings: only what the next one will find is asked.
        return charges, (), value, STANDING_AHEAD * held.missing_micros
    covered = furthest.covered
    if held.missing_micros or need < 0:
        budget = billed
        for _, amount in held.parts:
            budget += amount
        covered = limit(tariff, use, most=most, until=until, budget_micros=budget)
    return charges, held.parts, max(value, start + covered), held.missing_micros


# Quotas ---------------------------------------------------------------------------------------------------------------


def _wait_for(state: GatewayState, account: Account, missing_micros: int, now: Instant) -> Decision | None:
    """Ask the cloud, or wait for what was asked; None when it had nothing a moment ago."""
    if account.request is not None:
        return Decision(wait=WaitForQuota(account=account.id))
    request = _ask_for_more(state, account, missing_micros, now)
    return None if request is None else Decision((request,), wait=WaitForQuota(account=account.id))


def _ask_for_more(
    state: GatewayState, account: Account, missing_micros: int, now: Instant
) -> events.QuotaRequested | None:
    """A request for what is missing, unless one is under way, or the cloud had nothing a moment ago."""
    if account.request is not None or now < account.ask_after or state.not_authorizing_reason:
        return None
    return _request(state, account, max(missing_micros, account.preload_micros - account.free_micros(now)))


def _request(state: GatewayState, account: Account, wanted_micros: int, offset: int = 1) -> events.QuotaRequested:
    return events.QuotaRequested(
        counter=state.request_counter + offset,
        account=account.id,
        currency=account.currency,
        wanted_micros=wanted_micros,
    )


def _tick(state: GatewayState, command: commands.Tick, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    """Stop quotas that are over, spent or unused; ask for accounts that are low."""
    # What is spent only takes one of the few places an account has for open quotas.
    happened: list[Event] = [events.QuotaStopped(quota_id=name, reason="spent") for name in sorted(state.spent)]
    if now >= state.next_stop_at:
        over: list[Quota] = [
            quota
            for quota in state.quotas.values()
            if not quota.stopped and now >= quota.spend_until and quota.id not in state.spent
        ]
        happened += [events.QuotaStopped(quota_id=quota.id, reason="spend_until") for quota in over]
    if state.online:
        # Given back early: somewhere else it may be needed. Without an uplink nothing could take its place.
        unused_since = now - state.settings.quota_idle_us
        happened += [
            events.QuotaStopped(quota_id=quota.id, reason=events.UNUSED)
            for account in state.accounts.values()
            if account.quotas and account.used_at <= unused_since
            for quota in account.quotas
            if not quota.stopped and not quota.held_micros and quota.unspent_micros and now < quota.spend_until
        ]
    if state.low and not state.not_authorizing_reason:
        offset = 0
        for name in sorted(state.low):
            account = state.accounts[name]
            if (
                account.request is None
                and now >= account.ask_after
                and account.status == directive_pb2.ACCOUNT_STATUS_ACTIVE
            ):
                wanted = account.preload_micros - account.free_micros(now)
                if wanted > 0:
                    offset += 1
                    happened.append(_request(state, account, wanted, offset))
    return Decision(tuple(happened)) if happened else _NOTHING


def _quota_answered(state: GatewayState, command: commands.QuotaAnswered, now: Instant) -> Decision:
    """A yes comes again, as a directive; a no closes the request."""
    if command.answer == gateway_sync_pb2.QUOTA_ANSWER_GRANTED or command.counter not in state.requests:
        return _NOTHING
    return Decision(
        (
            events.QuotaRequestClosed(
                counter=command.counter, answer=command.answer, ask_after=now + state.settings.quota_retry_us
            ),
        )
    )


# The cloud ------------------------------------------------------------------------------------------------------------


def _directive(state: GatewayState, command: commands.DirectiveArrived, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    """Only the next of this gateway's chain is obeyed; anything else is asked for again by whoever follows the chain."""
    body = command.body
    if (
        body.gateway_id != state.gateway_id
        or body.version != state.directive_version + 1
        or body.previous_hash != state.directive_hash
    ):
        return _NOTHING
    return Decision(
        (
            events.DirectiveApplied(
                version=body.version, raw=command.raw, signature=command.signature, key_id=command.key_id
            ),
        )
    )


def _head(state: GatewayState, command: commands.HeadArrived, now: Instant) -> Decision:
    """A head of the version we have says that we know all there is. Its date is not believed beyond our own clock."""
    at = Instant(min(command.at, now))
    if command.version != state.directive_version or at <= state.head_at:
        return _NOTHING
    if at - state.recorded_head_at >= state.settings.directive_max_age_us // _HEAD_RECORDS:
        return Decision((events.HeadRecorded(version=command.version, at=at),))
    return Decision((events.HeadSeen(at=at),))


def _receipt(state: GatewayState, command: commands.ReceiptArrived, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    """A receipt counts for the batch whose hash it names."""
    receipt = command.receipt
    batch = state.batches.get(receipt.sequence)
    if (
        receipt.gateway_id != state.gateway_id
        or receipt.incarnation != state.incarnation
        or batch is None
        or batch.batch_hash != receipt.batch_hash
    ):
        return _NOTHING
    return Decision(
        (
            events.Receipted(
                incarnation=receipt.incarnation,
                sequence=receipt.sequence,
                batch_hash=receipt.batch_hash,
                raw=command.raw,
            ),
        )
    )


def _connected(state: GatewayState, command: commands.Connected, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    """The cloud says by which incarnation it knows us, and how much of this journal it has seen."""
    hello = command.hello
    happened: list[Event] = [events.HelloSeen(incarnation=hello.incarnation)]
    if hello.incarnation == state.incarnation and not state.rollback_suspected:
        reason = _rollback(state, hello)
        if reason:
            happened.append(events.RollbackSuspected(reason=reason))
    return Decision(tuple(happened))


def _rollback(state: GatewayState, hello: gateway_sync_pb2.HelloResponse) -> str:
    if hello.posted_sequence > state.sequence:
        return f"the cloud has posted batch {hello.posted_sequence}, this journal ends with {state.sequence}"
    if not hello.witnessed_start_id:
        return ""
    if hello.witnessed_start_id not in state.starts:
        return "the cloud has seen a start that this journal does not know"
    if hello.witnessed_position > state.position:
        return f"the cloud has seen position {hello.witnessed_position}, this journal ends at {state.position}"
    return ""


def _uplink(state: GatewayState, command: commands.UplinkChanged, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    if command.online == state.online:
        return _NOTHING
    return Decision((events.UplinkSeen(online=command.online),))


def _started(state: GatewayState, command: commands.Started, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    return Decision(
        (
            events.Started(
                start_id=command.start_id,
                boot_id=command.boot_id,
                clock_epoch_us=command.clock_epoch_us,
                clock_real_epoch_us=command.clock_real_epoch_us,
                clock_rate=command.clock_rate,
            ),
        )
    )


def _seal(state: GatewayState, command: commands.SealDue, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    sealed = seal(state, now)
    return _NOTHING if sealed is None else Decision((sealed,))


_DECIDE: dict[type[Any], Callable[[GatewayState, Any, Instant], Decision]] = {
    DeviceStatement: _statement,
    commands.DirectiveArrived: _directive,
    commands.HeadArrived: _head,
    commands.ReceiptArrived: _receipt,
    commands.Connected: _connected,
    commands.UplinkChanged: _uplink,
    commands.QuotaAnswered: _quota_answered,
    commands.SealDue: _seal,
    commands.Tick: _tick,
    commands.Started: _started,
}
