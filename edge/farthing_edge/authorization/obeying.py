"""What each directive changes. A directive was verified and journaled before: one that cannot be obeyed is noted for people, and the
chain goes on.
"""

import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from farthing.clock import Instant
from farthing.device.messages import TariffVersion
from farthing.evidence.batches import ZERO_HASH, batch_hash
from farthing.ids import (
    AccountId,
    DeviceId,
    OperatorId,
    QuotaId,
    RegisterId,
    SiteId,
    TariffId,
    TokenId,
)
from farthing.money import Currency
from farthing.policy import (
    entitlement_of,
    online_check_ppm_of,
    place_policy_of,
    position_of,
    scorecard_of,
    usage_limits_of,
)
from farthing.refusal import Refusal
from farthing.tariff import TariffError
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization import events
from farthing_edge.authorization.keeping import close_request, decided, see_whether_low, stop_quota
from farthing_edge.authorization.state import (
    MAX_ENTITLEMENTS,
    MAX_MODULI,
    MAX_SEAL_RECORDS,
    NEVER,
    NEW_DEVICE_EPOCH,
    NEW_REGISTER_EPOCH,
    UNNAMED_DECISION,
    Account,
    Authorization,
    Device,
    Due,
    FloorPolicy,
    GatewayState,
    OpenClaim,
    Quota,
    Register,
    SealPolicy,
    SiteKeyRow,
    StateError,
    TariffEntry,
    Token,
    ToSealAgain,
)
from farthing_edge.authorization.usage import day_of


def apply_directive(state: GatewayState, event: events.DirectiveApplied) -> None:
    if event.version != state.directive_version + 1:
        raise StateError(f"directive {event.version} follows {state.directive_version}")
    state.directive_version = event.version
    state.directive_hash = batch_hash(event.raw)
    directive = directive_pb2.Directive()
    try:
        directive.ParseFromString(event.raw)
    except DecodeError as err:
        raise StateError(f"directive {event.version} was journaled, but is none") from err
    if directive.HasField("welcome"):
        # Another journal's too: what it has counted is lost with it.
        welcome, dated_at = directive.welcome, Instant(directive.dated_at_us)
        state.usage.begins_anew(welcome.incarnation, day_of(welcome.time_zone, dated_at))
    if event.passed_over:
        return
    state.head_at = max(state.head_at, Instant(directive.dated_at_us))
    state.usage.contact()
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
    # A chain of batches belongs to one incarnation: what the one before left without a receipt is said again in the new one.
    left = [
        ToSealAgain(state.incarnation, sequence, batch.batch_hash, batch.last_position, batch.records)
        for sequence, batch in sorted(state.batches.items())
    ]
    state.to_seal_again = deque([*left, *state.to_seal_again])
    state.incarnation = welcome.incarnation
    if welcome.incarnation > state.suspected_incarnation:
        state.rollback_suspected = ""
    state.authorizing_stopped = ""
    state.seen_beyond = {}
    state.open_claims = {claim.authorization_id: _open_claim(claim) for claim in welcome.open_claims}
    state.sequence = 0
    state.batch_hash = ZERO_HASH
    state.batches = {}
    state.receipted_sequence = 0
    state.request_counter = 0
    for counter in list(state.requests):
        close_request(state, counter)
    # And so do quotas: those of the one before only pay what they hold.
    for quota in state.quotas.values():
        quota.frozen = True
        quota.stopped = True
    state.stopped = {}
    state.spent = set()
    state.next_stop_at = NEVER
    for account in state.accounts.values():
        see_whether_low(state, account)


def _open_claim(claim: batch_pb2.Claim) -> OpenClaim:
    return OpenClaim(claim.register_from, claim.register_to, claim.net_micros, claim.tax_micros, ())


def _obey_site_key(state: GatewayState, key: directive_pb2.SiteKey) -> None:
    state.site_keys[key.epoch] = SiteKeyRow(
        epoch=key.epoch, ephemeral_public_key=key.ephemeral_public_key, wrapped_key=key.wrapped_key
    )


def _obey_tariff(state: GatewayState, record: directive_pb2.TariffRecord) -> None:
    entry = TariffEntry.of(record)
    tariff = entry.tariff
    state.tariffs[record.tariff_id, record.version] = entry
    if tariff.valid_from is not None or tariff.valid_until is not None:
        versions = state.dated_tariffs.setdefault(record.tariff_id, [])
        if record.version not in versions:
            bisect.insort(versions, record.version)


def _obey_device(state: GatewayState, record: directive_pb2.DeviceRecord) -> None:
    device = state.devices.get(record.device_id)
    if device is None:
        device = state.devices[record.device_id] = Device(DeviceId(record.device_id))
    if record.device_epoch < device.epoch:
        # Only a registry that was restored from a backup says so. What the device has signed under that epoch would be new once more. Who is to be
        # stopped is stopped all the same.
        if record.status != directive_pb2.DEVICE_STATUS_ACTIVE:
            device.status = record.status
        raise ValueError(
            f"its device_epoch goes back from {device.epoch} to {record.device_epoch}: put the device again"
        )
    new_device = device.epoch != record.device_epoch
    if new_device:
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
    if device.entitled_only != record.entitled_only:
        device.entitled_only = record.entitled_only
        _see_who_is_entitled(state)
    device.position = position_of(record.position) if record.HasField("position") else None
    # A registry that was restored tells of a register that was replaced since: the one that is known stays, and so does its use.
    rows = [row for row in record.registers if not _is_replaced(device, row)]
    kept = {row.register_id: device.registers[row.register_id] for row in record.registers if _is_replaced(device, row)}
    epochs = {row.register_id: row.register_epoch for row in rows} | {name: each.epoch for name, each in kept.items()}
    for authorization in open_of(state, record.device_id):
        # What it signed until now is all that will be heard of it: a new epoch begins a new use.
        if new_device:
            _is_due(state, authorization, Due(NEW_DEVICE_EPOCH, None))
        elif epochs.get(authorization.register_id) != authorization.register_epoch:
            _is_due(state, authorization, Due(NEW_REGISTER_EPOCH, None))
    registers: dict[str, Register] = dict(kept)
    for row in rows:
        register = device.registers.get(row.register_id)
        if register is not None and register.epoch != row.register_epoch:
            device.moduli[register.id, register.epoch] = register.modulus
            if len(device.moduli) > MAX_MODULI:
                del device.moduli[next(iter(device.moduli))]
        if register is None or register.epoch != row.register_epoch:
            register = Register(
                RegisterId(row.register_id), row.register_epoch, row.unit, row.modulus, row.rated_per_hour
            )
        else:
            register.unit, register.modulus, register.rated_per_hour = row.unit, row.modulus, row.rated_per_hour
        registers[row.register_id] = register
    device.registers = registers


def _is_replaced(device: Device, row: directive_pb2.RegisterRecord) -> bool:
    known = device.registers.get(row.register_id)
    return known is not None and row.register_epoch < known.epoch


def _obey_account(state: GatewayState, record: directive_pb2.AccountRecord) -> None:
    account = state.accounts.get(record.account_id)
    if account is None:
        account = Account(AccountId(record.account_id), Currency(record.currency), record.status, record.preload_micros)
        state.accounts[record.account_id] = account
    else:
        account.status, account.preload_micros = record.status, record.preload_micros
    see_whether_low(state, account)


def _obey_token(state: GatewayState, record: directive_pb2.TokenRecord) -> None:
    state.tokens[record.token_ref] = Token(
        token_id=TokenId(record.token_id), account_id=AccountId(record.account_id), key_epoch=record.key_epoch
    )
    state.denied.discard(record.token_ref)


def _obey_token_denied(state: GatewayState, record: directive_pb2.TokenDenied) -> None:
    state.denied.add(record.token_ref)


def _obey_entitlement(state: GatewayState, record: directive_pb2.EntitlementRecord) -> None:
    entitlement = entitlement_of(record)
    state.entitling.add(entitlement.paid_by)
    known = state.entitlements.pop(entitlement.account_id, ())
    # What is over by what the cloud last said is forgotten: the list is short, and stays so.
    others = [each for each in known if each.id != entitlement.id and each.ends_at > state.recorded_head_at]
    fits = len(others) < MAX_ENTITLEMENTS
    if entitlement.begins_at < entitlement.ends_at and fits:
        others.append(entitlement)
    if others:
        others.sort(key=lambda each: (each.priority, each.ends_at, each.id))
        state.entitlements[entitlement.account_id] = tuple(others)
    _see_who_is_entitled(state)
    if not fits:
        raise ValueError(f"{entitlement.account_id} has {MAX_ENTITLEMENTS} others")


def _see_who_is_entitled(state: GatewayState) -> None:
    state.entitles = bool(state.entitlements) or any(device.entitled_only for device in state.devices.values())


def _obey_quota_granted(state: GatewayState, record: directive_pb2.QuotaGranted) -> None:
    close_request(state, record.request_counter)
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
    account.refused_by_cloud = False
    see_whether_low(state, account)


def _obey_quota_recalled(state: GatewayState, record: directive_pb2.QuotaRecalled) -> None:
    quota = state.quotas.get(record.quota_id)
    if quota is None:
        return
    account = state.accounts.get(quota.account_id)
    if account is not None:
        account.ahead = False
        state.low.discard(account.id)
    if not quota.stopped:
        stop_quota(state, quota)


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


def _obey_end_carried(state: GatewayState, carried: directive_pb2.EndCarried) -> None:
    """The end itself follows as an entry of its own (``from_cloud``): nothing more is to be done."""


def _obey_authorizing_stopped(state: GatewayState, stopped: directive_pb2.AuthorizingStopped) -> None:
    if stopped.incarnation == state.incarnation:
        state.authorizing_stopped = stopped.reason or "the cloud has heard two stories of this gateway"


def _obey_ledger_restored(state: GatewayState, restored: directive_pb2.LedgerRestored) -> None:
    """What was granted stands, and so does every record; the uplink sends again what the ledger has lost."""
    state.ledger_epoch = max(state.ledger_epoch, restored.ledger_epoch)


def _obey_audit_drawn(state: GatewayState, drawn: directive_pb2.AuditDrawn) -> None:
    """Nothing that is decided depends on it: the uplink sends the detail."""


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


def open_of(state: GatewayState, device_id: str) -> list[Authorization]:
    """The open authorizations of a device."""
    return [
        authorization
        for authorization in state.authorizations.values()
        if authorization.device_id == device_id and not authorization.closed
    ]


def _is_due(state: GatewayState, authorization: Authorization, due: Due) -> None:
    """Decisions may come together (after an outage): what is believed is billed first, lowest first, then the use is closed."""
    waiting = state.due.get(authorization.id, ())
    if due.parked is None and any(other.parked is None for other in waiting):
        return
    state.due[authorization.id] = tuple(sorted((*waiting, due), key=_order))


def _order(due: Due) -> tuple[bool, bool, int]:
    return (True, True, 0) if due.parked is None else (False, due.parked.closing, due.parked.value)


def _obey_use_closed(state: GatewayState, record: directive_pb2.UseClosed) -> None:
    for authorization in open_of(state, record.device_id):
        # Every gateway that knows the device is told; one of them has it open, or none any more.
        if record.authorization_id and authorization.id != record.authorization_id:
            continue
        _is_due(state, authorization, Due(record.decision or UNNAMED_DECISION, None))


def _obey_parked_decided(state: GatewayState, record: directive_pb2.ParkedDecided) -> None:
    key = (record.device_id, record.device_epoch, record.counter)
    parked = state.parked_statements.get(key)
    if parked is None:
        return  # at another gateway, or decided
    if record.accept:
        authorization = state.authorizations.get(parked.authorization)
        if authorization is None or parked.value < 0:
            raise ValueError("it names no use that is known here")
        if authorization.closed:
            raise ValueError("its use is closed, and a final claim does not grow")
        if parked.value < authorization.value or parked.refusal == Refusal.REGISTER_WENT_BACK:
            raise ValueError("its register went back: close the use instead")
        if parked.refusal == Refusal.CLOCK_AHEAD:
            raise ValueError("its device's clock was ahead, and time is billed as it was signed: close the use instead")
        _is_due(state, authorization, Due(record.decision or UNNAMED_DECISION, parked))
    decided(state, *key)


def _obey_usage_limits(state: GatewayState, record: directive_pb2.UsageLimits) -> None:
    limits = usage_limits_of(record)
    if limits is None or state.policies.limits is None:
        # Nothing was counted while there was no limit, and nothing is kept when there is none any more.
        state.usage.forget_limits()
        for authorization in state.authorizations.values():
            authorization.counted_micros = 0
    state.policies = replace(state.policies, limits=limits)


def _obey_place(state: GatewayState, record: directive_pb2.PlacePolicy) -> None:
    state.policies = replace(state.policies, place=place_policy_of(record))
    _forget_tokens(state)


def _obey_scorecard(state: GatewayState, record: directive_pb2.Scorecard) -> None:
    state.policies = replace(state.policies, scorecard=scorecard_of(record))
    _forget_tokens(state)


def _forget_tokens(state: GatewayState) -> None:
    if not state.policies.remembers_tokens:
        state.usage.uses = {}


def _obey_online_check(state: GatewayState, record: directive_pb2.OnlineCheck) -> None:
    state.policies = replace(state.policies, online_check_ppm=online_check_ppm_of(record))


_OBEY: dict[str, Callable[[GatewayState, Any], None]] = {
    "welcome": _obey_welcome,
    "site_key": _obey_site_key,
    "tariff": _obey_tariff,
    "device": _obey_device,
    "account": _obey_account,
    "token": _obey_token,
    "token_denied": _obey_token_denied,
    "entitlement": _obey_entitlement,
    "quota_granted": _obey_quota_granted,
    "quota_recalled": _obey_quota_recalled,
    "floor": _obey_floor,
    "seal": _obey_seal,
    "floor_resolved": _obey_floor_resolved,
    "use_closed": _obey_use_closed,
    "parked_decided": _obey_parked_decided,
    "usage_limits": _obey_usage_limits,
    "place": _obey_place,
    "scorecard": _obey_scorecard,
    "online_check": _obey_online_check,
    "end_carried": _obey_end_carried,
    "authorizing_stopped": _obey_authorizing_stopped,
    "ledger_restored": _obey_ledger_restored,
    "audit_drawn": _obey_audit_drawn,
}
