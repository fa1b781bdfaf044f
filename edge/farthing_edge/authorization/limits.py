"""Usage limits: what one authorization, a token's day, a device's day, and all of them since the last contact may use.

Rule 1: what is held counts like what was billed, so limits hold for sessions under way together.
Rule 2: a limit refuses where nothing is left; else it shrinks what is held, now and at each later reading. Use is always billed.
Rule 3: a day's counts go with their journal. The first incarnation that begins on a day counts anew, so a day is two at the most; from the
second on no limited use begins before the day is over.
Rule 4: the last contact is the last thing of the cloud's that was journaled: a restart makes it no later.
"""

from farthing.clock import Instant
from farthing.policy import UsageLimits
from farthing.refusal import Refusal
from farthing_edge.authorization.asking import Ask
from farthing_edge.authorization.state import Authorization, GatewayState
from farthing_edge.authorization.usage import Tally


def token_name(state: GatewayState, token_key: bytes) -> str:
    """By what uses of a token are counted: its id, which no change of the site's key changes; else its reference."""
    token = state.tokens.get(token_key)
    return token_key.hex() if token is None else token.token_id


def within_limits(state: GatewayState, ask: Ask) -> Refusal | None:
    """Rule 9 of an intent."""
    limits, usage, device, token = state.policies.limits, state.usage, ask.device, ask.token
    assert limits is not None  # else the rule is not active
    assert device is not None  # the rules before
    assert token is not None
    if limits.per_authorization_micros:
        refusal = ask.cap(limits.per_authorization_micros, Refusal.LIMIT_PER_AUTHORIZATION, lasting=True)
        if refusal is not None:
            return refusal
    day = usage.day_at(state.time_zone, ask.now)
    if _limits_days(limits) and usage.is_in_doubt(day):
        return Refusal.LIMIT_PER_DAY
    for tally, count, micros in (
        (usage.tokens.get(token.token_id), limits.token_day_count, limits.token_day_micros),
        (usage.devices.get(device.id), limits.device_day_count, limits.device_day_micros),
    ):
        if count and tally is not None and tally.count_on(day) >= count:
            return Refusal.LIMIT_PER_DAY
        if micros:
            used = 0 if tally is None else tally.micros_on(day)
            refusal = ask.cap(micros - used, Refusal.LIMIT_PER_DAY)
            if refusal is not None:
                return refusal
    if not state.online:
        if limits.offline_count and usage.offline_count >= limits.offline_count:
            return Refusal.LIMIT_SINCE_CONTACT
        if limits.offline_micros:
            return ask.cap(limits.offline_micros - usage.offline_micros, Refusal.LIMIT_SINCE_CONTACT)
    return None


def room_micros(state: GatewayState, authorization: Authorization, charged_micros: int, now: Instant) -> int | None:
    """The most that ``authorization`` may hold once ``charged_micros`` more are billed; None where nothing bounds it."""
    rooms = []
    if authorization.cap_micros is not None:
        rooms.append(authorization.cap_micros - authorization.gross_micros - charged_micros)
    limits = state.policies.limits
    if limits is not None and not authorization.standing:
        usage, own = state.usage, authorization.counted_micros - charged_micros
        if limits.token_day_micros or limits.device_day_micros:
            day = usage.day_at(state.time_zone, now)
            if usage.is_in_doubt(day):
                return 0
            for tally, micros in (
                (usage.tokens.get(token_name(state, authorization.token_key)), limits.token_day_micros),
                (usage.devices.get(authorization.device_id), limits.device_day_micros),
            ):
                if micros:
                    rooms.append(micros - _used(tally, day) + own)
        if limits.offline_micros and not state.online:
            rooms.append(limits.offline_micros - usage.offline_micros + own)
    return max(0, min(rooms)) if rooms else None


def _limits_days(limits: UsageLimits) -> bool:
    return bool(
        limits.token_day_count or limits.token_day_micros or limits.device_day_count or limits.device_day_micros
    )


def _used(tally: Tally | None, day: int) -> int:
    return 0 if tally is None else tally.micros_on(day)


def count_use(
    state: GatewayState,
    authorization: Authorization,
    spent_micros: int,
    at: Instant | None,
    *,
    begins: bool,
    online: bool,
) -> None:
    """Count what an event billed and holds now; only called while there are limits. ``begins``: it was granted just now.

    ``at`` is when it was decided; None where nothing was billed, as what is held is of no day.
    """
    if authorization.standing:
        return
    usage = state.usage
    held = sum(authorization.holds.values())
    held_more = held - authorization.counted_micros
    authorization.counted_micros = held
    day = usage.day if at is None else usage.day_at(state.time_zone, at)
    for tally in usage.tallies(token_name(state, authorization.token_key), authorization.device_id, day):
        tally.add(day, count=int(begins), spent_micros=spent_micros, held_micros=held_more)
    if online:
        usage.contact()
    else:
        usage.offline_count += int(begins)
        usage.offline_micros += spent_micros + held_more
