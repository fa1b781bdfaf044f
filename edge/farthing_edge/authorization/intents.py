"""An intent: asked by the rules in their order, then for money."""

from farthing.clock import Instant
from farthing.device.messages import AnswerStatus, Intent
from farthing.ids import AuthorizationId, authorization_id
from farthing.refusal import Refusal
from farthing.tariff import Use, limit
from farthing.v1 import directive_pb2
from farthing_edge.authorization import events
from farthing_edge.authorization.asking import Ask
from farthing_edge.authorization.commands import DeviceStatement, Reply
from farthing_edge.authorization.decision import Decision, again, digest_of, no
from farthing_edge.authorization.hearing_time import lacks_a_clock
from farthing_edge.authorization.lapsing import lapses_at
from farthing_edge.authorization.quotas import wait_for
from farthing_edge.authorization.rules import RULES_BY_POLICY, RULES_OF_THE_DEVICE
from farthing_edge.authorization.state import (
    Charge,
    GatewayState,
)
from farthing_edge.metering.funding import bill, hold, purse_for

_GATEWAY_RULES = frozenset({13, 14})
#: Of what is not granted yet; nobody writes into it.
_NO_HOLDS: dict[str, int] = {}
_MAY_BE_ACTIVE_AGAIN = frozenset(
    (
        directive_pb2.DEVICE_STATUS_ACTIVE,
        directive_pb2.DEVICE_STATUS_SUSPENDED,
        directive_pb2.DEVICE_STATUS_BLOCKED,
    )
)


def decide_intent(state: GatewayState, command: DeviceStatement, intent: Intent, now: Instant) -> Decision:
    ask = Ask(state, command, intent, now)
    digest = digest_of(command.payload)
    if _is_repeat(state, ask, digest):
        assert ask.device is not None  # a repeat is of a device that is known
        return again(ask.device, intent)
    for rule in RULES_OF_THE_DEVICE:
        refusal = rule(state, ask)
        if refusal is not None:
            return _refuse(ask, digest, refusal, now) if _no_stays(state, ask) else no(intent, refusal)
    for rule in RULES_BY_POLICY[state.entitles][state.policies.active]:
        refusal = rule(state, ask)
        if refusal is not None:
            if refusal.rule == 3 or refusal.rule in _GATEWAY_RULES:
                return no(intent, refusal)
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
    """Whether this no is remembered: a device of ours goes by it, so a late copy of the intent must not become a yes (the register
    free by then, or the device active again; the hold nobody's). What comes from no device of ours, or one that is gone for ever,
    changes nothing."""
    intent, device = ask.intent, ask.device
    return (
        device is not None
        and ask.is_new
        and intent.recipient == state.gateway_id
        and device.epoch == intent.device_epoch
        and device.status in _MAY_BE_ACTIVE_AGAIN
        and intent.counter > device.window_floor()
    )


def _refuse(ask: Ask, digest: bytes, refusal: Refusal, now: Instant) -> Decision:
    intent = ask.intent
    return no(
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
    closing = ask.closing
    assert device is not None  # the rules before
    assert register is not None
    assert account is not None
    assert tariff is not None
    assert closing is not None
    if lacks_a_clock(state, tariff, register.unit):
        return no(intent, Refusal.CLOCK_UNTRUSTED)
    latest = state.clock.latest(now)
    stale = latest - state.head_at > state.settings.directive_max_age_us
    if ask.ask_cloud is not None:
        waiting_or_no = _cloud_says(state, ask, digest, now)
        if waiting_or_no is not None:
            return waiting_or_no
    start, one_shot, most, until = ask.start, intent.one_shot, ask.most, ask.until
    # A limit below what it needs: hold that much, the device stops where it ends.
    need = closing.gross_micros if ask.cap_micros is None else min(closing.gross_micros, ask.cap_micros)
    purse = purse_for(state, account, ask.command.token_ref or b"", _NO_HOLDS, floor_only=stale)
    held = hold(purse, (), need, latest, floor=True)
    if held.missing_micros:
        if ask.command.may_wait and state.online and not stale:
            waiting = wait_for(state, account, held.missing_micros, now)
            if waiting is not None:
                return waiting
        if not ask.can_be_cut:
            return _short_of_money(state, ask, digest, now, stale=stale)
    if one_shot is not None:
        charges = bill(purse, closing.parts, latest)
        granted = _granted(state, ask, digest, now, start, holds=(), limit_value=start + one_shot, charges=charges)
    else:
        covered = closing.covered
        budget = need - held.missing_micros
        if budget < closing.gross_micros:
            use = _use_at_its_start(state, ask, start)
            covered = limit(tariff.tariff, use, most=most, until=until, budget_micros=budget)
        if covered == 0 and most > 0:
            if held.missing_micros == 0 and ask.capped_by is not None:
                return _refuse(ask, digest, ask.capped_by, now)
            return _short_of_money(state, ask, digest, now, stale=stale)
        granted = _granted(state, ask, digest, now, start, holds=held.parts, limit_value=start + covered, charges=())
    # In the order of its fields, as names take twice as long to pass.
    answers, name = (intent.device_epoch, intent.counter), AuthorizationId(granted.authorization)
    return Decision((granted,), Reply(device.id, answers, AnswerStatus.GRANTED, None, name, one_shot is not None))


def _cloud_says(state: GatewayState, ask: Ask, digest: bytes, now: Instant) -> Decision | None:
    """Wait for the cloud's word on the account, or the no that came of it; None: go on."""
    account, closing = ask.account, ask.closing
    assert account is not None  # the rules before
    assert closing is not None
    assert ask.ask_cloud is not None
    if ask.command.may_wait:
        # What it asks for is what the use may cost: the answer to a request for money is the cloud's word.
        waiting = wait_for(state, account, max(1, closing.gross_micros), now, once=True)
        if waiting is not None:
            return waiting
    (silence,) = ask.ask_cloud
    if account.refused_by_cloud:
        return _refuse(ask, digest, Refusal.ACCOUNT_SUSPENDED, now)
    if silence is not None and (account.request is not None or not state.online):
        return _refuse(ask, digest, silence, now)
    return None


def _use_at_its_start(state: GatewayState, ask: Ask, start: int) -> Use:
    assert ask.register is not None  # the rules before
    at = ask.intent.at
    return Use(unit=ask.register.unit, start=start, end=start, started_at=at, ended_at=at, time_zone=state.time_zone)


def _short_of_money(state: GatewayState, ask: Ask, digest: bytes, now: Instant, *, stale: bool) -> Decision:
    if stale:
        return no(ask.intent, Refusal.DIRECTIVES_TOO_OLD)
    account = ask.account
    assert account is not None  # only asked once it is known
    policy = state.floor_policy
    has_floor = min(policy.per_token_micros, policy.per_account_micros, policy.all_tokens_micros)
    if policy.currency == account.currency and has_floor and ask.entitlement is None:
        return _refuse(ask, digest, Refusal.FLOOR_EXHAUSTED, now)
    return _refuse(ask, digest, Refusal.QUOTA_EXHAUSTED if account.quotas else Refusal.NO_QUOTA, now)


def _granted(
    state: GatewayState,
    ask: Ask,
    digest: bytes,
    now: Instant,
    start: int,
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
    # In the order of its fields: passing 31 names takes longer than asking three rules.
    return events.Granted(
        device.id,
        intent.device_epoch,
        intent.counter,
        digest,
        ask.command.cose,
        ask.command.traceparent,
        authorization_id(device.id, intent.device_epoch, intent.counter, state.gateway_id),
        account.id,
        ask.command.token_ref or b"",
        intent.commitment,
        register.id,
        register.epoch,
        register.unit,
        start,
        intent.at,
        tariff.name.tariff_id,
        tariff.name.version,
        tariff.currency,
        device.report_interval_s,
        holds,
        limit_value,
        now,
        state.incarnation,
        state.online,
        start + (intent.one_shot or 0),
        charges,
        intent.register.value,
        intent.register.unrolled(register.modulus),
        ask.lasting_cap_micros,
        None if ask.position is None else (ask.position.latitude_microdegrees, ask.position.longitude_microdegrees),
        tariff.readings_due(_use_at_its_start(state, ask, start), intent.at)
        if tariff.places and intent.one_shot is None
        else (),
        lapses_at(state, intent),
    )
