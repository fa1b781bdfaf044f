"""The only mutation: ``apply(state, event)``. Replay is the same function over the journal.

It believes events: rules were asked when the event was decided. What it cannot believe is a bug or a damaged journal, and
raises ``StateError``.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import Position
from farthing.ids import AccountId
from farthing.money import Currency
from farthing.v1 import gateway_sync_pb2
from farthing_edge.authorization import events
from farthing_edge.authorization.events import Event
from farthing_edge.authorization.keeping import close_request, doubt, see_whether_low, stop_quota, used
from farthing_edge.authorization.limits import count_use, token_name
from farthing_edge.authorization.obeying import apply_directive
from farthing_edge.authorization.opening import opened
from farthing_edge.authorization.state import (
    FLOOR_FUNDING,
    MAX_PARKED_STATEMENTS,
    NEVER,
    OVERRUN_FUNDING,
    Authorization,
    CarriedEnd,
    Chain,
    Charge,
    Device,
    GatewayState,
    ParkedStatement,
    QuotaRequest,
    SealedBatch,
    Seen,
    StateError,
    Statistics,
    Told,
    UsageRecord,
)
from farthing_edge.authorization.usage import TokenUse


def apply(state: GatewayState, event: Event) -> None:
    """Let ``event`` happen. A durable event takes the next position."""
    if event.__class__ in events.KIND_OF:
        state.position += 1
    _APPLY[event.__class__](state, event)


# Devices and their counters -------------------------------------------------------------------------------------------


def _remember(
    state: GatewayState,
    device: Device,
    counter: int,
    digest: bytes,
    authorization: Authorization | None,
    refusal: int | None,
) -> None:
    seen = device.seen
    if counter > device.highest:
        device.highest = counter
    elif counter <= device.window_floor():
        return
    seen[counter] = Seen(digest, authorization, refusal)
    if len(seen) > 1:
        floor = device.window_floor()
        first = next(iter(seen))
        if first <= floor:
            _forget(state, first, seen.pop(first))
            # Counters come nearly in order and without gaps: then what is left is all that there can be from the next to the highest, and there is nothing
            # to look for. (Beside as many gaps, one that came late waits until it is first.)
            second = next(iter(seen))
            if second <= floor or len(seen) != device.highest - second + 1:
                for old in [old for old in seen if old <= floor]:
                    _forget(state, old, seen.pop(old))
            if device.cancelled:
                device.cancelled = {key: end for key, end in device.cancelled.items() if end > floor}


def _forget(state: GatewayState, counter: int, seen: Seen) -> None:
    """A closed authorization goes with its intent, once its last claim is sealed. A standing one stays: its next reading names it
    again, however late, and would begin it anew."""
    authorization = seen.authorization
    if (
        authorization is not None
        and authorization.closed
        and not authorization.standing
        and authorization.intent_counter == counter
        and authorization.id not in state.ended
    ):
        state.authorizations.pop(authorization.id, None)


def _await_receipt(device: Device, counter: int, position: int) -> None:
    pending = device.pending
    while pending and pending[-1][0] >= counter:
        _, waiting = pending.pop()
        position = max(position, waiting)
    pending.append((counter, position))


# Money ----------------------------------------------------------------------------------------------------------------


def _spend(state: GatewayState, authorization: Authorization, charges: Sequence[Charge]) -> int:
    """Take ``charges`` from what pays them; return their sum."""
    total = 0
    billed = authorization.billed
    for funding, rate, net, tax in charges:
        amount = net + tax
        total += amount
        before = billed.get(rate, (0, 0))
        billed[rate] = before[0] + net, before[1] + tax
        authorization.net_micros += net
        authorization.tax_micros += tax
        if funding == FLOOR_FUNDING:
            _take_floor(state, authorization, amount)
        elif funding != OVERRUN_FUNDING:
            quota = state.quotas.get(funding)
            if quota is None:
                raise StateError(f"a charge names quota {funding}, which is not open")
            quota.spent_micros += amount
            if not quota.unspent_micros and not quota.stopped:
                state.spent.add(quota.id)
    return total


def _take_floor(state: GatewayState, authorization: Authorization, amount: int) -> None:
    floor = state.floor
    account, token = authorization.account_id, authorization.token_key
    floor.total_micros += amount
    floor.by_account[account] = floor.by_account.get(account, 0) + amount
    floor.by_token[account, token] = floor.by_token.get((account, token), 0) + amount


def _set_holds(state: GatewayState, authorization: Authorization, parts: Sequence[tuple[str, int]]) -> None:
    """Replace the authorization's hold."""
    for funding, amount in authorization.holds.items():
        if funding == FLOOR_FUNDING:
            _take_floor(state, authorization, -amount)
        else:
            state.quotas[funding].held_micros -= amount
    holds = dict(parts)
    for funding, amount in holds.items():
        if funding == FLOOR_FUNDING:
            _take_floor(state, authorization, amount)
        else:
            quota = state.quotas.get(funding)
            if quota is None:
                raise StateError(f"a hold names quota {funding}, which is not open")
            quota.held_micros += amount
    authorization.holds = holds


def _check_money(state: GatewayState, authorization: Authorization, charges: Sequence[Charge]) -> None:
    """P1 where it is cheapest to see: no quota gives more than it has. Then see whether the account is low."""
    for funding, _, _, _ in charges:
        quota = state.quotas.get(funding)
        if quota is not None and quota.free_micros < 0:
            raise StateError(f"quota {quota.id} is overspent")
    for funding in authorization.holds:
        quota = state.quotas.get(funding)
        if quota is not None and quota.free_micros < 0:
            raise StateError(f"quota {quota.id} is overspent")
    account = state.accounts.get(authorization.account_id)
    if account is not None:
        see_whether_low(state, account)


def _record(
    state: GatewayState,
    authorization: Authorization,
    *,
    register_to: int,
    charges: tuple[Charge, ...],
    closing: bool,
    at: Instant,
    statement: bytes,
    traceparent: str | None,
    tick: tuple[int, bytes] | None = None,
    latest: bytes | None = None,
) -> None:
    """Bill: spend the charges and keep the usage record until it is sealed."""
    amount = _spend(state, authorization, charges)
    state.records += 1
    if authorization.set_aside:
        # Claims are cumulative: without the record that no batch can bill, none that follows it can be.
        return
    state.unsealed_micros += amount
    state.unreceipted_records += 1
    state.unsealed.append(
        UsageRecord(
            position=state.position,
            authorization=authorization,
            register_from=authorization.recorded_to,
            register_to=register_to,
            charges=charges,
            net_micros=authorization.net_micros,
            tax_micros=authorization.tax_micros,
            closing=closing,
            at=at,
            statement=statement,
            tick=tick,
            latest=latest,
            told=authorization.told,
            placed=authorization.placed,
            placed_to=authorization.placed_to,
            placed_statement=authorization.placed_statement,
            traceparent=traceparent,
        )
    )
    authorization.recorded_to = register_to


def _close(state: GatewayState, device: Device, authorization: Authorization) -> None:
    authorization.closed = True
    _begun(state, authorization)
    authorization.closed_position = state.position
    state.due.pop(authorization.id, None)
    if not authorization.set_aside:
        state.ended[authorization.id] = authorization
    state.open_authorizations -= 1
    for register in device.registers.values():
        if register.open is authorization:
            register.open = None


# Use ------------------------------------------------------------------------------------------------------------------


def _device(state: GatewayState, device_id: str) -> Device:
    device = state.devices.get(device_id)
    if device is None:
        raise StateError(f"an entry names device {device_id}, which no directive named")
    return device


def _open(state: GatewayState, device: Device, authorization: Authorization) -> None:
    state.authorizations[authorization.id] = authorization
    state.open_authorizations += 1
    register = device.registers.get(authorization.register_id)
    if register is not None and register.epoch == authorization.register_epoch:
        # Only what is adopted for its end alone finds another one open.
        register.open = register.open or authorization
        # What passed since it counted last makes up for what it was ahead by.
        idle_us = max(authorization.started_at - register.last_at, authorization.heard_at - register.heard_at)
        register.ahead_us = max(0, register.ahead_us - max(0, idle_us))
        register.last_value = max(register.last_value, authorization.start)
        register.last_at = max(register.last_at, authorization.started_at)


def _granted(state: GatewayState, event: events.Granted) -> None:
    device = _device(state, event.device)
    authorization = opened(event, state.position)
    authorization.cap_micros = event.cap
    _open(state, device, authorization)
    _remember(state, device, event.counter, event.digest, authorization, None)
    _await_receipt(device, event.counter, state.position)
    one_shot = event.used_to > event.start
    if one_shot:
        _record(
            state,
            authorization,
            register_to=event.used_to,
            charges=event.charges,
            closing=True,
            at=Instant(event.at),
            statement=event.statement,
            traceparent=event.traceparent,
        )
        _advance(device, authorization, event.used_to)
    _set_holds(state, authorization, event.holds)
    _tell(
        state,
        authorization,
        event.decided_at,
        event.incarnation,
        event.limit,
        event.holds,
        event.readings_due,
        event.lapses_at,
    )
    if event.lapses_at is not None:
        # As long after the yes by this clock as after the intent by its device's.
        state.not_begun[authorization.id] = event.decided_at + event.lapses_at - event.at
    if one_shot:
        _close(state, device, authorization)
    used(state, authorization.account_id, Instant(event.decided_at))
    _check_money(state, authorization, event.charges)
    if state.policies.limits is not None:
        count_use(
            state, authorization, _sum(event.charges), Instant(event.decided_at), begins=True, online=event.online
        )
    if state.policies.remembers_tokens:
        _remember_token(state, event)
    for statistics in (state.statistics, state.totals):
        if event.online:
            statistics.granted_online += 1
        else:
            statistics.granted_offline += 1


def _sum(charges: Sequence[Charge]) -> int:
    return sum(charge.net_micros + charge.tax_micros for charge in charges)


def _remember_token(state: GatewayState, event: events.Granted) -> None:
    name = token_name(state, event.token_key)
    use = state.usage.uses.get(name)
    if use is None:
        use = state.usage.uses[name] = TokenUse()
    use.add(Instant(event.decided_at))
    if event.position is not None:
        latitude, longitude = event.position
        use.position = Position(latitude_microdegrees=latitude, longitude_microdegrees=longitude)
        use.at = Instant(event.decided_at)


def _pace(device: Device, authorization: Authorization, value: int, *, at: int, heard_at: int) -> None:
    """See how far ahead of rated power the register is with ``value``, before anything else says that it was heard."""
    register = device.registers.get(authorization.register_id)
    if register is None or register.epoch != authorization.register_epoch:
        return
    elapsed_us = max(at - authorization.at, heard_at - authorization.heard_at)
    register.ahead_us = register.ahead_after(max(0, value - authorization.value), elapsed_us)
    register.heard_at = max(register.heard_at, Instant(heard_at))


def _advance(device: Device, authorization: Authorization, value: int) -> None:
    authorization.value = value
    register = device.registers.get(authorization.register_id)
    if register is not None and register.epoch == authorization.register_epoch:
        register.last_value = max(register.last_value, value)
        register.last_at = max(register.last_at, authorization.at)


def _tell(
    state: GatewayState,
    authorization: Authorization,
    decided_at: int,
    incarnation: int,
    limit: int,
    holds: tuple[tuple[str, int], ...],
    readings_due: tuple[int, ...],
    lapses_at: int | None = None,
) -> None:
    authorization.told = Told(
        state.position,
        incarnation,
        state.start_id,
        decided_at,
        limit,
        holds,
        authorization.net_micros,
        authorization.tax_micros,
        readings_due=readings_due,
        lapses_at=lapses_at,
    )


def _lapsed(state: GatewayState, event: events.Lapsed) -> None:
    """Only what is known of it changes: its hold stays, its register is not free."""
    authorization = _authorization(state, event.authorization)
    del state.not_begun[authorization.id]
    state.lapsed[authorization.id] = event.at


def _begun(state: GatewayState, authorization: Authorization) -> None:
    """Its use has begun, or is over: it does not lapse any more. Who begins late, or was not heard in time, is billed like any other."""
    state.not_begun.pop(authorization.id, None)
    state.lapsed.pop(authorization.id, None)


def _intent_refused(state: GatewayState, event: events.IntentRefused) -> None:
    _remember(state, _device(state, event.device), event.counter, event.digest, None, event.refusal)
    for statistics in (state.statistics, state.totals):
        statistics.refusals[event.refusal] = statistics.refusals.get(event.refusal, 0) + 1


def _intent_cancelled(state: GatewayState, event: events.IntentCancelled) -> None:
    device = _device(state, event.device)
    authorization = state.authorizations.get(event.authorization)
    if authorization is None:
        device.cancelled[event.authorization] = event.counter
    elif event.counter > device.window_floor():
        # It was over before: what receipts that receipts this.
        _await_receipt(device, event.counter, authorization.closed_position)
    _remember(state, device, event.counter, event.digest, authorization, None)


def _baseline_taken(state: GatewayState, event: events.BaselineTaken) -> None:
    device = _device(state, event.device)
    authorization = opened(event, state.position)
    _open(state, device, authorization)
    _remember(state, device, event.counter, event.digest, authorization, None)


def _metered(state: GatewayState, event: events.Metered) -> None:
    device = _device(state, event.device)
    authorization = state.authorizations.get(event.authorization)
    if authorization is None:
        raise StateError("a reading names an authorization that is not known")
    _pace(device, authorization, event.value, at=event.at, heard_at=event.decided_at)
    _remember(state, device, event.counter, event.digest, authorization, None)
    if event.charges:
        _record(
            state,
            authorization,
            register_to=event.value,
            charges=event.charges,
            closing=event.closing,
            at=Instant(event.at),
            statement=event.statement,
            traceparent=event.traceparent,
            latest=event.latest,
        )
    if event.charges or event.closing:
        _await_receipt(device, event.counter, state.position)
    _proven(authorization, event.statement, None, event.value, Instant(event.at), latest=event.latest)
    authorization.last_counter = max(authorization.last_counter, event.counter)
    _move_on(state, device, authorization, event)


def _proven(
    authorization: Authorization,
    statement: bytes,
    tick: tuple[int, bytes] | None,
    value: int,
    at: Instant,
    *,
    latest: bytes | None,
) -> None:
    """``statement`` (with a tick of it) has proven ``value``; ``at`` is the latest time signed so far, by ``latest`` where that is
    another one than it and the first."""
    authorization.last_statement = statement
    authorization.last_tick = tick
    if tick is None:
        authorization.signed_value = max(authorization.signed_value, value)
    if at > authorization.at:
        if authorization.chain is None:
            authorization.missed += missed_readings(at - authorization.at, authorization.report_interval_s)
        authorization.at = at
        authorization.latest_statement = statement
    elif latest is None and authorization.latest_statement != authorization.first_statement:
        # Signed at the same instant as the latest: nothing that rests on this one needs another for its time.
        authorization.latest_statement = statement


def missed_readings(silent_us: int, interval_s: int) -> int:
    """How many readings were due in a silence that ends with one; half an interval late is late, not missed."""
    interval_us = interval_s * SECOND_US
    return 0 if interval_us <= 0 else max(0, silent_us - interval_us // 2) // interval_us


def _move_on(
    state: GatewayState, device: Device, authorization: Authorization, event: events.Metered | events.Settled
) -> None:
    """What follows from any record: where the register stands, what is held, what the device is told."""
    _begun(state, authorization)
    if event.closing:
        # A claim's interval ends where the register does, also when the last of it cost nothing.
        authorization.recorded_to = event.value
    if event.placed is not None:
        authorization.placed = event.placed
        authorization.placed_to = event.value
        authorization.placed_position = state.position
        authorization.placed_statement = event.statement
    _advance(device, authorization, event.value)
    authorization.settled = event.value
    authorization.heard_at = max(authorization.heard_at, Instant(event.decided_at))
    _set_holds(state, authorization, event.holds)
    if not authorization.standing:
        _tell(state, authorization, event.decided_at, event.incarnation, event.limit, event.holds, event.readings_due)
    if event.closing:
        _close(state, device, authorization)
    if authorization.standing and event.charges:
        used(state, authorization.account_id, Instant(event.decided_at))
    _check_money(state, authorization, event.charges)
    if state.policies.limits is not None:
        count_use(state, authorization, _sum(event.charges), Instant(event.decided_at), begins=False, online=False)


def _authorization(state: GatewayState, name: bytes) -> Authorization:
    authorization = state.authorizations.get(name)
    if authorization is None:
        raise StateError("an entry names an authorization that is not known")
    return authorization


def _chain_started(state: GatewayState, event: events.ChainStarted) -> None:
    authorization = _authorization(state, event.authorization)
    authorization.chain = Chain(
        counter=event.counter,
        statement=event.statement,
        unit_per_tick=event.unit_per_tick,
        length=event.length,
        anchor=event.anchor,
        start=event.start,
    )
    if authorization.latest_statement == event.statement:
        # What came with it has just been applied: a later statement of the same instant takes that place from it, and not its time.
        authorization.chain.said_at = authorization.at


def _show_tick(authorization: Authorization, index: int, preimage: bytes) -> Chain:
    chain = authorization.chain
    if chain is None:
        raise StateError("a tick of no chain")
    chain.index, chain.word = index, preimage
    return chain


def _ticked(state: GatewayState, event: events.Ticked) -> None:
    authorization = _authorization(state, event.authorization)
    chain = _show_tick(authorization, event.tick_index, event.tick_preimage)
    device = _device(state, authorization.device_id)
    _pace(device, authorization, chain.value, at=authorization.at, heard_at=event.heard_at)
    tick = event.tick_index, event.tick_preimage
    _proven(authorization, chain.statement, tick, chain.value, authorization.at, latest=authorization.latest_statement)
    authorization.heard_at = max(authorization.heard_at, Instant(event.heard_at))
    _advance(device, authorization, chain.value)


def _settled(state: GatewayState, event: events.Settled) -> None:
    authorization = _authorization(state, event.authorization)
    device = _device(state, authorization.device_id)
    tick = (event.tick_index, event.tick_preimage) if event.tick_index else None
    _pace(device, authorization, event.value, at=event.at, heard_at=event.decided_at)
    register = device.registers.get(authorization.register_id)
    if event.decision and register is not None:
        # People have believed it.
        register.ahead_us = 0
    if tick is not None and not event.closing:
        _show_tick(authorization, *tick)
    if event.charges:
        _record(
            state,
            authorization,
            register_to=event.value,
            charges=event.charges,
            closing=event.closing,
            at=Instant(event.at),
            statement=event.statement,
            traceparent=event.traceparent,
            tick=tick,
            latest=event.latest,
        )
    if event.decision and not event.closing:
        _, *left = state.due.pop(authorization.id, (None,))
        if left:
            state.due[authorization.id] = tuple(left)
    _proven(authorization, event.statement, tick, event.value, Instant(event.at), latest=event.latest)
    if event.closing:
        authorization.closed_by = event.decision
    _move_on(state, device, authorization, event)


def _use_set_aside(state: GatewayState, event: events.UseSetAside) -> None:
    authorization = _authorization(state, event.authorization)
    authorization.set_aside = event.reason
    state.set_aside[event.authorization] = event.reason
    left = [record for record in state.unsealed if record.authorization is not authorization]
    gone = [record for record in state.unsealed if record.authorization is authorization]
    state.unsealed_micros -= sum(charge.net_micros + charge.tax_micros for record in gone for charge in record.charges)
    state.unsealed = left
    state.ended.pop(event.authorization, None)


def _adopted(state: GatewayState, event: events.Adopted) -> None:
    device = _device(state, event.device)
    authorization = opened(event, state.position)
    authorization.cap_micros = event.cap
    # What was held here is held from now on: it is set like any other hold.
    holds, authorization.holds = tuple(event.holds), {}
    _open(state, device, authorization)
    _advance(device, authorization, event.register_to)
    device.cancelled.pop(event.authorization, None)
    _remember(state, device, event.counter, event.digest, authorization, None)
    _set_holds(state, authorization, holds)
    used(state, authorization.account_id, Instant(event.decided_at))
    if state.policies.limits is not None:
        count_use(state, authorization, 0, Instant(event.decided_at), begins=False, online=False)


def _disclaimed(state: GatewayState, event: events.Disclaimed) -> None:
    device = _device(state, event.device)
    authorization = state.authorizations.get(event.authorization)
    if authorization is None:
        raise StateError("a disclaimer names an authorization that is not known")
    _remember(state, device, event.counter, event.digest, authorization, None)
    _await_receipt(device, event.counter, state.position)
    authorization.last_counter = max(authorization.last_counter, event.counter)
    _set_holds(state, authorization, ())
    if state.policies.limits is not None:
        count_use(state, authorization, 0, None, begins=False, online=False)
    _close(state, device, authorization)


def _end_carried(state: GatewayState, event: events.EndCarried) -> None:
    device = _device(state, event.device)
    state.carried.append(CarriedEnd(event.granted_by, event.granted_incarnation, event.statements, event.grant))
    if event.counter not in device.seen:
        _remember(state, device, event.counter, event.digest, None, None)
    floor = device.window_floor()
    device.carried = {counter: digest for counter, digest in device.carried.items() if counter > floor}
    if event.counter > floor:
        device.carried[event.counter] = event.digest
    _await_receipt(device, event.counter, state.position)


def _statement_parked(state: GatewayState, event: events.StatementParked) -> None:
    device = _device(state, event.device)
    _remember(state, device, event.counter, event.digest, None, event.refusal)
    if event.goes_up:
        state.parked_unsealed.append((event.statement, event.refusal))
        _await_receipt(device, event.counter, state.position)
    state.parked += 1
    waiting = state.parked_statements
    waiting[event.device, event.device_epoch, event.counter] = ParkedStatement(
        position=state.position,
        statement=event.statement,
        refusal=event.refusal,
        authorization=event.authorization,
        value=event.value,
        said_at=Instant(event.said_at),
        closing=event.closing,
    )
    if len(waiting) > MAX_PARKED_STATEMENTS:
        ((most, _),) = Counter(device for device, _, _ in waiting).most_common(1)
        del waiting[next(key for key in waiting if key[0] == most)]
    authorization = state.authorizations.get(event.authorization)
    if authorization is not None:
        doubt(authorization, event.refusal, event.value)
    for statistics in (state.statistics, state.totals):
        statistics.refusals[event.refusal] = statistics.refusals.get(event.refusal, 0) + 1


# Quotas ---------------------------------------------------------------------------------------------------------------


def _quota_stopped(state: GatewayState, event: events.QuotaStopped) -> None:
    quota = state.quotas.get(event.quota_id)
    if quota is None:
        raise StateError(f"quota {event.quota_id} is not open")
    if event.reason == events.UNUSED:
        account = state.accounts.get(quota.account_id)
        if account is not None:
            account.ahead = False
    stop_quota(state, quota)
    state.next_stop_at = min((quota.spend_until for quota in state.quotas.values() if not quota.stopped), default=NEVER)


def _quota_requested(state: GatewayState, event: events.QuotaRequested) -> None:
    request = QuotaRequest(
        counter=event.counter,
        account_id=AccountId(event.account),
        currency=Currency(event.currency),
        wanted_micros=event.wanted_micros,
    )
    state.request_counter = max(state.request_counter, event.counter)
    state.requests[event.counter] = request
    state.low.discard(event.account)
    account = state.accounts.get(event.account)
    if account is not None:
        account.request = request


def _quota_request_closed(state: GatewayState, event: events.QuotaRequestClosed) -> None:
    account = close_request(state, event.counter)
    if account is not None:
        account.refused_by_cloud = event.answer in _NOT_THIS_ACCOUNT
        account.ask_after = Instant(event.ask_after)
        see_whether_low(state, account)


#: Answers that are about the payer, not about what there is to give.
_NOT_THIS_ACCOUNT = (
    gateway_sync_pb2.QUOTA_ANSWER_ACCOUNT_UNKNOWN,
    gateway_sync_pb2.QUOTA_ANSWER_ACCOUNT_SUSPENDED,
)


# Batches --------------------------------------------------------------------------------------------------------------


def _sealed(state: GatewayState, event: events.Sealed) -> None:
    if event.sequence != state.sequence + 1:
        raise StateError(f"batch {event.sequence} follows {state.sequence}")
    state.sequence = event.sequence
    state.batch_hash = event.batch_hash
    if event.again:
        _sealed_again(state, event)
        return
    state.sealed_position = event.last_position
    count = state.unsealed_up_to(event.last_position)
    state.batches[event.sequence] = SealedBatch(event.batch_hash, event.last_position, count)
    state.unsealed_micros -= sum(_sum(record.charges) for record in state.unsealed[:count])
    state.unsealed = state.unsealed[count:]
    state.carried, state.parked_unsealed = [], []
    not_ended: dict[bytes, Authorization] = {}
    for authorization in state.ended.values():
        if authorization.closed_position > event.last_position:
            not_ended[authorization.id] = authorization
            continue
        device = state.devices.get(authorization.device_id)
        # What can still be asked about stays; the rest is the journal's.
        if device is None or (authorization.intent_counter <= device.window_floor() and not authorization.standing):
            state.authorizations.pop(authorization.id, None)
    state.ended = not_ended
    for quota_id, still_held in event.stopped:
        state.quotas[quota_id].reported_held_micros = still_held
    for quota_id in event.closed:
        quota = state.quotas.pop(quota_id)
        state.stopped.pop(quota_id, None)
        account = state.accounts.get(quota.account_id)
        if account is not None:
            account.quotas.remove(quota)
    _drop_what_is_over(state)
    state.statistics = Statistics()


def _drop_what_is_over(state: GatewayState) -> None:
    """Quotas of older incarnations: until they are reported no more, a device may still show a grant that names one."""
    over = [
        quota
        for quota in state.quotas.values()
        if quota.frozen and not quota.held_micros and quota.report_until < state.recorded_head_at
    ]
    for quota in over:
        del state.quotas[quota.id]
        account = state.accounts.get(quota.account_id)
        if account is not None:
            account.quotas.remove(quota)


def _sealed_again(state: GatewayState, event: events.Sealed) -> None:
    if not state.to_seal_again or state.to_seal_again[0].batch_hash != event.again:
        raise StateError(f"batch {event.sequence} says again what is not the next to be said")
    old = state.to_seal_again.popleft()
    state.batches[event.sequence] = SealedBatch(event.batch_hash, old.last_position, old.records)


def _receipted(state: GatewayState, event: events.Receipted) -> None:
    batch = state.batches.get(event.sequence)
    if event.incarnation != state.incarnation or batch is None:
        return
    state.last_receipt = (event.raw, event.signature, event.key_id)
    state.receipted_sequence = event.sequence
    state.receipted_position = max(state.receipted_position, batch.last_position)
    state.usage.contact()
    for sequence in [sequence for sequence in state.batches if sequence <= event.sequence]:
        state.unreceipted_records -= state.batches.pop(sequence).records


# Starts, heads --------------------------------------------------------------------------------------------------------


def _started(state: GatewayState, event: events.Started) -> None:
    state.start_id = event.start_id
    state.check_salt = event.check_salt
    state.starts[event.start_id] = (state.incarnation, state.position)
    clock = state.clock
    if event.real_us < 0:
        # An older program read no clock: nothing is known of this boot.
        clock.boot_id, clock.offset_us, clock.trusted = "", None, False
        return
    clock.boot_id = event.boot_id
    clock.offset_us = event.real_us - event.monotonic_us
    clock.judge(event.at, trusted=event.trusted, lead_us=event.lead_us)
    if event.step_us:
        clock.steps += 1
        clock.stepped_us = event.step_us
    _clock_shows(state, event.at)


def _clock_stepped(state: GatewayState, event: events.ClockStepped) -> None:
    clock = state.clock
    clock.boot_id = event.boot_id
    clock.offset_us = event.real_us - event.monotonic_us
    clock.steps += 1
    clock.stepped_us = event.step_us
    clock.judge(event.at, trusted=event.trusted, lead_us=event.lead_us)
    _clock_shows(state, event.at)


def _clock_judged(state: GatewayState, event: events.ClockJudged) -> None:
    if event.by == events.BY_INCARNATION:
        # People have decided that this gateway begins anew: whatever had moved the lower bound is over.
        state.clock.known_at = Instant(0)
    state.clock.judge(event.at, trusted=event.trusted, lead_us=event.lead_us)
    _clock_shows(state, event.at)


def _clock_shows(state: GatewayState, shown: int) -> None:
    """The clock has been put to ``shown``: what was dated later by it has happened, and no time has passed since."""
    at = Instant(shown)
    for authorization in state.authorizations.values():
        if authorization.heard_at > at:
            authorization.heard_at = at
    for device in state.devices.values():
        for register in device.registers.values():
            if register.heard_at > at:
                register.heard_at = at
    if state.clock.trusted:
        state.usage.put_right(state.time_zone, at)


def _clock_led(state: GatewayState, event: events.ClockLed) -> None:
    state.clock.judge(event.at, trusted=state.clock.trusted, lead_us=event.lead_us)


def _word_doubted(state: GatewayState, event: events.WordDoubted) -> None:
    state.clock.doubted_us = event.ahead_us


def _head_recorded(state: GatewayState, event: events.HeadRecorded) -> None:
    state.usage.contact()
    state.head_at = state.recorded_head_at = max(state.head_at, Instant(event.at))
    state.clock.known_at = max(state.clock.known_at, Instant(event.at))


def _head_seen(state: GatewayState, event: events.HeadSeen) -> None:
    state.head_at = max(state.head_at, Instant(event.at))


def _rollback_suspected(state: GatewayState, event: events.RollbackSuspected) -> None:
    state.rollback_suspected = event.reason
    state.suspected_incarnation = event.incarnation


def _seen_beyond(state: GatewayState, event: events.SeenBeyond) -> None:
    state.seen_beyond[event.device] = event.reason


def _salvaged(state: GatewayState, event: events.Salvaged) -> None:
    # What was told devices and the cloud after it is not known here: like a journal that went back, only that we say so.
    state.rollback_suspected = f"this journal was salvaged, and is whole up to position {event.last_position} only"
    state.suspected_incarnation = state.incarnation


def _uplink_seen(state: GatewayState, event: events.UplinkSeen) -> None:
    state.online = event.online


def _hello_seen(state: GatewayState, event: events.HelloSeen) -> None:
    state.expected_incarnation = event.incarnation
    state.waits = event.waits


_APPLY: dict[type[Any], Callable[[GatewayState, Any], None]] = {
    events.Started: _started,
    events.DirectiveApplied: apply_directive,
    events.ClockStepped: _clock_stepped,
    events.ClockJudged: _clock_judged,
    events.ClockLed: _clock_led,
    events.WordDoubted: _word_doubted,
    events.HeadRecorded: _head_recorded,
    events.Granted: _granted,
    events.Lapsed: _lapsed,
    events.IntentRefused: _intent_refused,
    events.IntentCancelled: _intent_cancelled,
    events.BaselineTaken: _baseline_taken,
    events.Metered: _metered,
    events.ChainStarted: _chain_started,
    events.Ticked: _ticked,
    events.Settled: _settled,
    events.UseSetAside: _use_set_aside,
    events.Adopted: _adopted,
    events.Disclaimed: _disclaimed,
    events.EndCarried: _end_carried,
    events.StatementParked: _statement_parked,
    events.QuotaStopped: _quota_stopped,
    events.QuotaRequested: _quota_requested,
    events.QuotaRequestClosed: _quota_request_closed,
    events.Sealed: _sealed,
    events.Receipted: _receipted,
    events.RollbackSuspected: _rollback_suspected,
    events.SeenBeyond: _seen_beyond,
    events.Salvaged: _salvaged,
    events.UplinkSeen: _uplink_seen,
    events.HeadSeen: _head_seen,
    events.HelloSeen: _hello_seen,
}
