"""The only mutation: ``apply(state, event)``. Replay is the same function over the journal.

It believes events: rules were asked when the event was decided. What it cannot believe is a bug or a damaged journal, and
raises ``StateError``.
"""

import bisect
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from farthing.clock import Instant
from farthing.device.messages import TariffVersion
from farthing.evidence.batches import ZERO_HASH, batch_hash
from farthing.ids import (
    AccountId,
    AuthorizationId,
    DeviceId,
    OperatorId,
    QuotaId,
    RegisterId,
    SiteId,
    TariffId,
    TokenId,
)
from farthing.money import Currency
from farthing.tariff import TariffError
from farthing.tariff import parse as parse_tariff
from farthing.v1 import directive_pb2
from farthing_edge.authorization import events
from farthing_edge.authorization.events import Event
from farthing_edge.authorization.state import (
    FLOOR_FUNDING,
    MAX_SEAL_RECORDS,
    OVERRUN_FUNDING,
    Account,
    Authorization,
    Charge,
    Device,
    FloorPolicy,
    GatewayState,
    Quota,
    QuotaRequest,
    Register,
    SealedBatch,
    SealPolicy,
    Seen,
    SiteKeyRow,
    Statistics,
    TariffEntry,
    Token,
    Told,
    UsageRecord,
)

_NEVER = Instant(2**63 - 1)


class StateError(Exception):
    """An event that does not follow from the state: a bug of ours, or a damaged journal."""


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
            # Counters come nearly in order, so the first is nearly always the only one to go.
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
        pending.pop()
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
        _see_whether_low(state, account)


def _used(state: GatewayState, account_id: AccountId, at: Instant) -> None:
    """The account is spent from here again: what was recalled from it, or given back, is history."""
    account = state.accounts.get(account_id)
    if account is not None:
        account.ahead = True
        account.used_at = max(account.used_at, at)


def _see_whether_low(state: GatewayState, account: Account) -> None:
    if account.ahead and account.preload_micros and account.request is None:
        free = sum(quota.free_micros for quota in account.quotas if not quota.stopped)
        if free < account.low_water_micros:
            state.low.add(account.id)


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
) -> None:
    """Bill: spend the charges and keep the usage record until it is sealed."""
    amount = _spend(state, authorization, charges)
    state.unsealed_micros += amount
    state.records += 1
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
            told=authorization.told,
            traceparent=traceparent,
        )
    )
    authorization.recorded_to = register_to


def _close(state: GatewayState, device: Device, authorization: Authorization) -> None:
    authorization.closed = True
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
        register.open = authorization
        register.last_value = max(register.last_value, authorization.start)


def opened(event: events.Granted | events.BaselineTaken, position: int) -> Authorization:
    """The authorization that the entry at ``position`` opens, before anything is billed."""
    granted = event.__class__ is events.Granted
    return Authorization(
        authorization_id=AuthorizationId(event.authorization),
        device_id=DeviceId(event.device),
        intent_epoch=event.device_epoch,
        intent_counter=event.counter,
        account_id=AccountId(event.account),
        token_key=event.token_key,
        commitment=event.commitment if isinstance(event, events.Granted) else None,
        register_id=RegisterId(event.register_id),
        register_epoch=event.register_epoch,
        unit=event.unit,
        start=event.start,
        started_at=Instant(event.at),
        tariff=TariffVersion(tariff_id=TariffId(event.tariff_id), version=event.tariff_version),
        currency=Currency(event.currency),
        report_interval_s=event.report_interval_s,
        standing=not granted,
        first_statement=event.statement,
        traceparent=event.traceparent,
        opened_position=position,
    )


def _granted(state: GatewayState, event: events.Granted) -> None:
    device = _device(state, event.device)
    authorization = opened(event, state.position)
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
    _tell(state, authorization, event.decided_at, event.incarnation, event.limit, event.holds)
    if one_shot:
        _close(state, device, authorization)
    _used(state, authorization.account_id, Instant(event.decided_at))
    _check_money(state, authorization, event.charges)
    for statistics in (state.statistics, state.totals):
        if event.online:
            statistics.granted_online += 1
        else:
            statistics.granted_offline += 1


def _advance(device: Device, authorization: Authorization, value: int) -> None:
    authorization.value = value
    register = device.registers.get(authorization.register_id)
    if register is not None and register.epoch == authorization.register_epoch:
        register.last_value = max(register.last_value, value)


def _tell(
    state: GatewayState,
    authorization: Authorization,
    decided_at: int,
    incarnation: int,
    limit: int,
    holds: tuple[tuple[str, int], ...],
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
    )


def _intent_refused(state: GatewayState, event: events.IntentRefused) -> None:
    _remember(state, _device(state, event.device), event.counter, event.digest, None, event.refusal)
    for statistics in (state.statistics, state.totals):
        statistics.refusals[event.refusal] = statistics.refusals.get(event.refusal, 0) + 1


def _intent_cancelled(state: GatewayState, event: events.IntentCancelled) -> None:
    device = _device(state, event.device)
    device.cancelled[event.authorization] = event.counter
    _remember(state, device, event.counter, event.digest, None, None)


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
        )
    if event.charges or event.closing:
        _await_receipt(device, event.counter, state.position)
    if event.closing:
        # A claim's interval ends where the register does, also when the last of it cost nothing.
        authorization.recorded_to = event.value
    _advance(device, authorization, event.value)
    authorization.at = max(authorization.at, Instant(event.at))
    authorization.last_counter = max(authorization.last_counter, event.counter)
    _set_holds(state, authorization, event.holds)
    if not authorization.standing:
        _tell(state, authorization, event.decided_at, event.incarnation, event.limit, event.holds)
    if event.closing:
        _close(state, device, authorization)
    if authorization.standing and event.charges:
        _used(state, authorization.account_id, Instant(event.decided_at))
    _check_money(state, authorization, event.charges)


def _statement_parked(state: GatewayState, event: events.StatementParked) -> None:
    _remember(state, _device(state, event.device), event.counter, event.digest, None, event.refusal)
    state.parked += 1
    for statistics in (state.statistics, state.totals):
        statistics.refusals[event.refusal] = statistics.refusals.get(event.refusal, 0) + 1


# Quotas ---------------------------------------------------------------------------------------------------------------


def _stop(state: GatewayState, quota: Quota) -> None:
    quota.stopped = True
    state.spent.discard(quota.id)
    if not quota.frozen:
        state.stopped[quota.id] = quota
    account = state.accounts.get(quota.account_id)
    if account is not None:
        _see_whether_low(state, account)


def _quota_stopped(state: GatewayState, event: events.QuotaStopped) -> None:
    quota = state.quotas.get(event.quota_id)
    if quota is None:
        raise StateError(f"quota {event.quota_id} is not open")
    if event.reason == events.UNUSED:
        account = state.accounts.get(quota.account_id)
        if account is not None:
            account.ahead = False
    _stop(state, quota)
    state.next_stop_at = min(
        (quota.spend_until for quota in state.quotas.values() if not quota.stopped), default=_NEVER
    )


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


def _close_request(state: GatewayState, counter: int) -> Account | None:
    request = state.requests.pop(counter, None)
    if request is None:
        return None
    account = state.accounts.get(request.account_id)
    if account is not None and account.request is request:
        account.request = None
    return account


def _quota_request_closed(state: GatewayState, event: events.QuotaRequestClosed) -> None:
    account = _close_request(state, event.counter)
    if account is not None:
        account.ask_after = Instant(event.ask_after)
        _see_whether_low(state, account)


# Batches --------------------------------------------------------------------------------------------------------------


def _sealed(state: GatewayState, event: events.Sealed) -> None:
    if event.sequence != state.sequence + 1:
        raise StateError(f"batch {event.sequence} follows {state.sequence}")
    state.sequence = event.sequence
    state.batch_hash = event.batch_hash
    state.sealed_position = event.last_position
    state.batches[event.sequence] = SealedBatch(event.batch_hash, event.last_position, len(state.unsealed))
    state.unsealed = []
    state.unsealed_micros = 0
    for authorization in state.ended.values():
        device = state.devices.get(authorization.device_id)
        # What can still be asked about stays; the rest is the journal's.
        if device is None or (authorization.intent_counter <= device.window_floor() and not authorization.standing):
            state.authorizations.pop(authorization.id, None)
    state.ended = {}
    for quota_id, still_held in event.stopped:
        state.quotas[quota_id].reported_held_micros = still_held
    for quota_id in event.closed:
        quota = state.quotas.pop(quota_id)
        state.stopped.pop(quota_id, None)
        account = state.accounts.get(quota.account_id)
        if account is not None:
            account.quotas.remove(quota)
    state.statistics = Statistics()


def _receipted(state: GatewayState, event: events.Receipted) -> None:
    batch = state.batches.get(event.sequence)
    if event.incarnation != state.incarnation or batch is None:
        return
    state.receipted_sequence = event.sequence
    state.receipted_position = batch.last_position
    for sequence in [sequence for sequence in state.batches if sequence <= event.sequence]:
        state.unreceipted_records -= state.batches.pop(sequence).records


# Starts, heads --------------------------------------------------------------------------------------------------------


def _started(state: GatewayState, event: events.Started) -> None:
    state.start_id = event.start_id
    state.starts[event.start_id] = (state.incarnation, state.position)


def _head_recorded(state: GatewayState, event: events.HeadRecorded) -> None:
    state.head_at = state.recorded_head_at = max(state.head_at, Instant(event.at))


def _head_seen(state: GatewayState, event: events.HeadSeen) -> None:
    state.head_at = max(state.head_at, Instant(event.at))


def _rollback_suspected(state: GatewayState, event: events.RollbackSuspected) -> None:
    state.rollback_suspected = event.reason


def _uplink_seen(state: GatewayState, event: events.UplinkSeen) -> None:
    state.online = event.online


def _hello_seen(state: GatewayState, event: events.HelloSeen) -> None:
    state.expected_incarnation = event.incarnation


# Directives -----------------------------------------------------------------------------------------------------------


def _directive_applied(state: GatewayState, event: events.DirectiveApplied) -> None:
    if event.version != state.directive_version + 1:
        raise StateError(f"directive {event.version} follows {state.directive_version}")
    state.directive_version = event.version
    state.directive_hash = batch_hash(event.raw)
    directive = directive_pb2.Directive()
    try:
        directive.ParseFromString(event.raw)
    except DecodeError as err:
        raise StateError(f"directive {event.version} was journaled, but is none") from err
    state.head_at = max(state.head_at, Instant(directive.dated_at_us))
    kind = directive.WhichOneof("body")
    obey = _OBEY.get(kind or "")
    if obey is None:
        # A newer cloud may say what this gateway does not know yet: the chain goes on, people are told.
        state.directive_faults.append((event.version, f"body {kind or 'unknown'} is not understood"))
        return
    try:
        obey(state, getattr(directive, str(kind)))
        if kind == "quota_granted":
            # A new quota is not an unused one: its time begins now.
            account = state.accounts[directive.quota_granted.account_id]
            account.used_at = max(account.used_at, Instant(directive.dated_at_us))
    except (TariffError, ValueError) as err:
        state.directive_faults.append((event.version, f"{kind}: {err}"))


def _obey_welcome(state: GatewayState, welcome: directive_pb2.Welcome) -> None:
    state.operator_id = OperatorId(welcome.operator_id)
    state.site_id = SiteId(welcome.site_id)
    state.time_zone = welcome.time_zone
    state.receipt_keys = tuple(welcome.receipt_keys)
    if welcome.incarnation == state.incarnation:
        return
    state.incarnation = welcome.incarnation
    state.rollback_suspected = ""
    # A chain of batches belongs to one incarnation, and so do quotas: those of the one before only pay what they hold.
    state.sequence = 0
    state.batch_hash = ZERO_HASH
    state.batches = {}
    state.receipted_sequence = 0
    state.receipted_position = 0
    state.request_counter = 0
    for counter in list(state.requests):
        _close_request(state, counter)
    for quota in state.quotas.values():
        quota.frozen = True
        quota.stopped = True
    state.stopped = {}
    state.next_stop_at = _NEVER


def _obey_site_key(state: GatewayState, key: directive_pb2.SiteKey) -> None:
    state.site_keys[key.epoch] = SiteKeyRow(
        epoch=key.epoch, ephemeral_public_key=key.ephemeral_public_key, wrapped_key=key.wrapped_key
    )


def _obey_tariff(state: GatewayState, record: directive_pb2.TariffRecord) -> None:
    tariff = parse_tariff(record.ocpi_json)
    name = TariffVersion(tariff_id=TariffId(record.tariff_id), version=record.version)
    state.tariffs[record.tariff_id, record.version] = TariffEntry(
        name=name, currency=Currency(record.currency), tariff=tariff
    )


def _obey_device(state: GatewayState, record: directive_pb2.DeviceRecord) -> None:
    device = state.devices.get(record.device_id)
    if device is None:
        device = state.devices[record.device_id] = Device(DeviceId(record.device_id))
    if device.epoch != record.device_epoch:
        device.epoch = record.device_epoch
        device.highest = -1
        device.seen = {}
        device.cancelled = {}
        device.pending.clear()
    device.status = record.status
    device.profile = record.profile
    device.statement_key = record.statement_key
    device.static_dh_x = record.static_dh_x
    device.static_dh_kid = record.static_dh_kid
    device.tariff = TariffVersion(tariff_id=TariffId(record.tariff_id), version=record.tariff_version)
    device.report_interval_s = record.report_interval_s
    device.standing_account_id = AccountId(record.standing_account_id)
    device.stoppable = record.stoppable
    registers: dict[str, Register] = {}
    for row in record.registers:
        register = device.registers.get(row.register_id)
        if register is None or register.epoch != row.register_epoch:
            register = Register(
                RegisterId(row.register_id), row.register_epoch, row.unit, row.modulus, row.rated_per_hour
            )
        else:
            register.unit, register.modulus, register.rated_per_hour = row.unit, row.modulus, row.rated_per_hour
        registers[row.register_id] = register
    device.registers = registers


def _obey_account(state: GatewayState, record: directive_pb2.AccountRecord) -> None:
    account = state.accounts.get(record.account_id)
    if account is None:
        account = Account(AccountId(record.account_id), Currency(record.currency), record.status, record.preload_micros)
        state.accounts[record.account_id] = account
    else:
        account.status, account.preload_micros = record.status, record.preload_micros
    _see_whether_low(state, account)


def _obey_token(state: GatewayState, record: directive_pb2.TokenRecord) -> None:
    state.tokens[record.token_ref] = Token(
        token_id=TokenId(record.token_id), account_id=AccountId(record.account_id), key_epoch=record.key_epoch
    )
    state.denied.discard(record.token_ref)


def _obey_token_denied(state: GatewayState, record: directive_pb2.TokenDenied) -> None:
    state.denied.add(record.token_ref)


def _obey_quota_granted(state: GatewayState, record: directive_pb2.QuotaGranted) -> None:
    _close_request(state, record.request_counter)
    account = state.accounts.get(record.account_id)
    if account is None or account.currency != record.currency:
        raise ValueError(f"quota {record.quota_id} is of an account or currency that is not known here")
    if record.quota_id in state.quotas:
        raise ValueError(f"quota {record.quota_id} is already open")
    quota = Quota(
        quota_id=QuotaId(record.quota_id),
        account_id=account.id,
        currency=account.currency,
        amount_micros=record.amount_micros,
        spend_until=Instant(record.spend_until_us),
        report_until=Instant(record.report_until_us),
        incarnation=record.incarnation,
    )
    state.quotas[quota.id] = quota
    bisect.insort(account.quotas, quota, key=lambda other: other.spend_until)
    if record.incarnation != state.incarnation:
        quota.frozen = quota.stopped = True
        return
    state.next_stop_at = min(state.next_stop_at, quota.spend_until)
    state.low.discard(account.id)
    account.ask_after = Instant(0)
    _see_whether_low(state, account)


def _obey_quota_recalled(state: GatewayState, record: directive_pb2.QuotaRecalled) -> None:
    quota = state.quotas.get(record.quota_id)
    if quota is None:
        return
    account = state.accounts.get(quota.account_id)
    if account is not None:
        account.ahead = False
        state.low.discard(account.id)
    if not quota.stopped:
        _stop(state, quota)


def _obey_floor(state: GatewayState, record: directive_pb2.FloorPolicy) -> None:
    state.floor_policy = FloorPolicy(
        currency=record.currency,
        per_token_micros=record.per_token_micros,
        per_account_micros=record.per_account_micros,
        all_tokens_micros=record.all_tokens_micros,
    )


def _obey_seal(state: GatewayState, record: directive_pb2.SealPolicy) -> None:
    state.seal_policy = SealPolicy(
        amount_micros=record.amount_micros,
        records=max(1, min(record.records, MAX_SEAL_RECORDS)),
        age_s=record.age_s,
    )


def _obey_floor_resolved(state: GatewayState, record: directive_pb2.FloorResolved) -> None:
    floor = state.floor
    amount = min(record.amount_micros, floor.by_account.get(record.account_id, 0))
    if amount <= 0:
        return
    floor.total_micros -= amount
    floor.by_account[record.account_id] -= amount
    left = amount
    for key, taken in floor.by_token.items():
        if key[0] == record.account_id and left and taken > 0:
            back = min(left, taken)
            floor.by_token[key] = taken - back
            left -= back


_OBEY: dict[str, Callable[[GatewayState, Any], None]] = {
    "welcome": _obey_welcome,
    "site_key": _obey_site_key,
    "tariff": _obey_tariff,
    "device": _obey_device,
    "account": _obey_account,
    "token": _obey_token,
    "token_denied": _obey_token_denied,
    "quota_granted": _obey_quota_granted,
    "quota_recalled": _obey_quota_recalled,
    "floor": _obey_floor,
    "seal": _obey_seal,
    "floor_resolved": _obey_floor_resolved,
}

_APPLY: dict[type[Any], Callable[[GatewayState, Any], None]] = {
    events.Started: _started,
    events.DirectiveApplied: _directive_applied,
    events.HeadRecorded: _head_recorded,
    events.Granted: _granted,
    events.IntentRefused: _intent_refused,
    events.IntentCancelled: _intent_cancelled,
    events.BaselineTaken: _baseline_taken,
    events.Metered: _metered,
    events.StatementParked: _statement_parked,
    events.QuotaStopped: _quota_stopped,
    events.QuotaRequested: _quota_requested,
    events.QuotaRequestClosed: _quota_request_closed,
    events.Sealed: _sealed,
    events.Receipted: _receipted,
    events.RollbackSuspected: _rollback_suspected,
    events.UplinkSeen: _uplink_seen,
    events.HeadSeen: _head_seen,
    events.HelloSeen: _hello_seen,
}
