"""Ticks: each is checked by a hash or two, the highest of a group is written down, and now and then they are billed.

Rule 1: a tick that does not prove anything new changes nothing, and one that proves nothing at all is counted.
Rule 2: what ticks have proven is durable before anything rests on it, and billed when half of what the device was told is used up: so its
limit moves on before it is reached, and a record costs many ticks.
Rule 3: a tick has no time of its own. It is priced as of the last instant that the device signed; its end bills the rest. Where the
price goes by time or power, ticks bill nothing by themselves: the next reading does.
"""

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus
from farthing.evidence.payword import highest
from farthing.refusal import Refusal
from farthing.tariff import TariffError, is_placed
from farthing_edge.authorization import events
from farthing_edge.authorization.commands import Reply, TicksArrived
from farthing_edge.authorization.decision import NOTHING, Decision
from farthing_edge.authorization.quotas import ask_for_more
from farthing_edge.authorization.readings import bill_and_roll
from farthing_edge.authorization.state import Authorization, Chain, Device, GatewayState
from farthing_edge.metering.funding import purse_for

#: Steps hashed for one tick: 6 ms. Who has lost more than that in a row commits a new chain, or says a reading.
MAX_STEPS = 16_384


def decide_ticks(state: GatewayState, command: TicksArrived, now: Instant) -> Decision:
    device = state.devices.get(command.device)
    authorization = state.authorizations.get(command.authorization)
    if device is None:
        return Decision(refused=Refusal.DEVICE_UNKNOWN)
    if authorization is None or authorization.device_id != device.id:
        # Whoever ticks into nothing should know: nothing covers it.
        reply = Reply(device=device.id, answers=None, status=AnswerStatus.AGAIN, refusal=Refusal.AUTHORIZATION_UNKNOWN)
        return Decision(reply=reply, refused=Refusal.AUTHORIZATION_UNKNOWN)
    chain = authorization.chain
    if chain is None:
        return Decision(refused=Refusal.MALFORMED)
    if authorization.closed:
        return _say(device, authorization, chain, chain.index)
    index, word = highest(chain.index, chain.word, _worth_checking(device, authorization, chain, command, now))
    if index == chain.index:
        if any(at == index and preimage == word for at, preimage in command.shown):
            # The same again: its device waits for a limit that it has not heard.
            return _say(device, authorization, chain, index) if _at_limit(authorization, chain.value) else NOTHING
        if any(at > index for at, _ in command.shown):
            return Decision(refused=Refusal.MALFORMED)
        return NOTHING
    value = chain.start + index * chain.unit_per_tick
    if authorization.ceiling is not None and value >= authorization.ceiling:
        return Decision(refused=Refusal.REGISTER_TOO_FAST)
    if not _is_due(authorization, value):
        ticked = events.Ticked(authorization=authorization.id, tick_index=index, tick_preimage=word, heard_at=now)
        return Decision((ticked,))
    return _settle(state, device, authorization, chain, value, (index, word), now)


def _worth_checking(
    device: Device, authorization: Authorization, chain: Chain, command: TicksArrived, now: Instant
) -> list[tuple[int, bytes]]:
    """Ticks that may prove something, cheaply seen; the farthest first, for it proves all others."""
    register = device.registers.get(authorization.register_id)
    # As for a reading: what a grant covered in advance nobody doubts, once.
    elapsed_us, covered_us = now - authorization.heard_at, authorization.report_interval_s * SECOND_US
    found = []
    for index, preimage in sorted(command.shown, reverse=True):
        steps = index - chain.index
        if not 0 < steps <= MAX_STEPS or index > chain.length:
            continue
        if register is None or register.may_be_ahead(
            register.ahead_after(steps * chain.unit_per_tick, elapsed_us), covered_us
        ):
            found.append((index, preimage))
    return found


def _at_limit(authorization: Authorization, value: int) -> bool:
    return authorization.told is not None and value >= authorization.told.limit


def _is_due(authorization: Authorization, value: int) -> bool:
    told = authorization.told
    if told is None:
        return True
    return 2 * (value - authorization.settled) >= told.limit - authorization.settled


def _say(device: Device, authorization: Authorization, chain: Chain, index: int) -> Decision:
    return Decision(
        reply=Reply(
            device=device.id,
            answers=(authorization.intent_epoch, chain.counter),
            status=AnswerStatus.RECORDED,
            grant_of=None if authorization.closed else authorization.id,
            closed=authorization.closed,
            ticked=index,
        )
    )


def _settle(
    state: GatewayState,
    device: Device,
    authorization: Authorization,
    chain: Chain,
    value: int,
    tick: tuple[int, bytes],
    now: Instant,
) -> Decision:
    """Bill what ticks have proven, and roll the hold."""
    entry = state.tariffs.get((authorization.tariff.tariff_id, authorization.tariff.version))
    account = state.accounts.get(authorization.account_id)
    ticked = events.Ticked(authorization=authorization.id, tick_index=tick[0], tick_preimage=tick[1], heard_at=now)
    if entry is None or is_placed(entry.tariff, authorization.unit):
        # Ticks have no time, and where the price asks for it they are billed by the next statement.
        return Decision((ticked,))
    purse = purse_for(state, account, authorization.token_key, authorization.holds)
    try:
        charges, holds, limit_value, short_micros, _, _ = bill_and_roll(
            state, device, authorization, entry, purse, value=value, at=authorization.at, now=now, closing=False
        )
    except TariffError:
        # It costs more than one amount may be: the end says so too, and is parked for people.
        return Decision((ticked,))
    told = authorization.told
    settled = events.Settled(
        authorization=authorization.id,
        statement=chain.statement,
        tick_index=tick[0],
        tick_preimage=tick[1],
        traceparent=authorization.traceparent,
        value=value,
        at=authorization.at,
        charges=charges,
        holds=holds,
        limit=limit_value,
        closing=False,
        decided_at=now,
        incarnation=state.incarnation,
        opened_position=authorization.opened_position,
        told_position=0 if told is None else told.entry or told.position,
        register_from=authorization.recorded_to,
        net_before_micros=authorization.net_micros,
        tax_before_micros=authorization.tax_micros,
        latest=latest_of_record(authorization, chain.statement),
        decision="",
    )
    said = _say(device, authorization, chain, tick[0])
    more = None if account is None or short_micros <= 0 else ask_for_more(state, account, short_micros, now)
    return Decision((settled,) if more is None else (settled, more), said.reply)


def settle_ticks(
    state: GatewayState, device: Device, authorization: Authorization, now: Instant
) -> tuple[events.Settled, ...]:
    """Bill what ticks have proven and no record has; nothing where the price asks for more than they say."""
    chain, tick = authorization.chain, authorization.last_tick
    if chain is None or tick is None or authorization.value <= authorization.settled:
        return ()
    decision = _settle(state, device, authorization, chain, authorization.value, tick, now)
    return tuple(event for event in decision.events if isinstance(event, events.Settled))


def latest_of_record(authorization: Authorization, statement: bytes) -> bytes | None:
    """The statement that has the latest time, where neither ``statement``, which ends the record, nor the first has it."""
    latest, chain = authorization.latest_statement, authorization.chain
    if latest in (statement, authorization.first_statement):
        return None
    if chain is not None and statement == chain.statement and chain.said_at == authorization.at:
        # Signed in one instant: evidence names a statement between only where it says a later time than the others.
        return None
    return latest
