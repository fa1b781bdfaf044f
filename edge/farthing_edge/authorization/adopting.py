"""A session that this journal has lost goes on from what its device shows: the grant that an older journal signed, and the intent.

Rule 1: a grant beats a refusal: whatever this journal has said of an intent it did not know is forgotten when the yes is shown.
Rule 2: a reading adopts only if it is fresh, an end always: an old reading that wandered about would open what nobody ends.
Rule 3: it goes on under the same authorization and from the grant's start. Up to the signed limit it is held on the quotas that the
grant names, which are still the old incarnation's; beyond it on new ones. What the cloud has billed so far came with the welcome.
Rule 4: what this journal does know is never adopted: a grant that it gave and whose authorization it has forgotten is over.
"""

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import FLOOR, AnswerStatus, End, Grant, Intent, Reading, encode
from farthing.ids import AccountId, AuthorizationId, authorization_id, standing_authorization_id
from farthing.refusal import Refusal
from farthing.tariff import TariffError, Use, price
from farthing.v1 import directive_pb2
from farthing_edge.authorization import events
from farthing_edge.authorization.commands import DeviceStatement, Reply, Shown
from farthing_edge.authorization.decision import Decision, digest_of, no
from farthing_edge.authorization.opening import opened
from farthing_edge.authorization.readings import does_not_fit, heard, meter, not_believed, park, seen_before, unrolled
from farthing_edge.authorization.state import (
    FLOOR_FUNDING,
    Authorization,
    Device,
    GatewayState,
    OpenClaim,
    Register,
    TariffEntry,
)
from farthing_edge.authorization.witnesses import is_known
from farthing_edge.metering.funding import Purse, bill, floor_room_micros

#: A reading is fresh for this many of its report intervals: it asks again for every one that it misses.
FRESH_INTERVALS = 3
_ONE_SHOT = directive_pb2.DEVICE_PROFILE_ONE_SHOT
_STANDING = directive_pb2.DEVICE_PROFILE_STANDING


def named_authorization(state: GatewayState, device: Device, statement: Reading | End) -> AuthorizationId:
    """The authorization that a statement speaks of; a standing one's reading names none."""
    if statement.authorization is not None:
        return statement.authorization
    register = statement.register
    return standing_authorization_id(
        device.id, statement.device_epoch, register.register_id, register.register_epoch, state.gateway_id
    )


def is_unknown(state: GatewayState, device: Device, statement: Reading | End) -> bool:
    """Whether this journal has nothing of the authorization that a statement speaks of."""
    if statement.authorization is None:
        # Nearly always it is the register's own: no id to be computed.
        register = device.registers.get(statement.register.register_id)
        if (
            register is not None
            and register.open is not None
            and register.open.standing
            and register.epoch == statement.register.register_epoch
        ):
            return False
    return named_authorization(state, device, statement) not in state.authorizations


def wants_showing(state: GatewayState, command: DeviceStatement, device: Device, statement: Reading | End) -> bool:
    """Whether a standing authorization that is not known here began in a journal that is lost: then its device shows how."""
    if statement.authorization is not None or device.profile != _STANDING:
        return False
    if named_authorization(state, device, statement) in state.open_claims:
        return True
    witness = command.witness
    return witness is not None and witness.incarnation < state.incarnation and not is_known(state, witness)


def decide_adoption(
    state: GatewayState, command: DeviceStatement, statement: Reading | End, shown: Shown, device: Device, now: Instant
) -> Decision:
    """Go on with an authorization that is not known here; the device is, and its counter is new."""
    digest = digest_of(command.payload)
    if statement.counter <= device.window_floor():
        return no(statement, Refusal.COUNTER_TOO_OLD)
    name = named_authorization(state, device, statement)
    if not _belongs(state, device, statement, shown, name):
        return no(statement, Refusal.MALFORMED)
    grant, first = shown.grant, shown.first
    if grant is not None and is_known(state, grant.witness):
        return park(command, statement, digest, Refusal.INTENT_ENDED, now)
    if not state.is_complete or not state.incarnation:
        # The welcome says what the cloud has billed of it, and the site's time zone.
        return no(statement, Refusal.NOT_AUTHORIZING)
    register = device.registers.get(first.register.register_id)
    tariff = first.tariff if grant is None else grant.tariff
    entry = None if tariff is None else state.tariffs.get((tariff.tariff_id, tariff.version))
    account = _account(state, device, grant)
    if register is not None and register.epoch < first.register.register_epoch:
        # A journal that went back has not heard of it: that is still to come.
        return no(statement, Refusal.NOT_AUTHORIZING)
    if register is None or register.epoch != first.register.register_epoch:
        return park(command, statement, digest, Refusal.REGISTER_EPOCH_DIFFERS, now)
    if entry is None or account not in state.accounts:
        return park(command, statement, digest, Refusal.TARIFF_MISSING, now)
    if isinstance(statement, Reading) and not _is_fresh(statement, register, grant, now):
        return no(statement, Refusal.AUTHORIZATION_UNKNOWN)
    claim = state.open_claims.get(name)
    said_start = first.register.unrolled(register.modulus)
    # The turns that its device does not say are known to the cloud, if it knows the session.
    start = said_start if claim is None else claim.register_from
    try:
        billed = _billed(claim, entry, register.unit, start, first, statement, state.time_zone)
    except TariffError:
        return park(command, statement, digest, Refusal.TARIFF_MISSING, now)
    token_key = b"*" + device.id.encode() if grant is None else first.commitment or b""
    adopted = events.Adopted(
        device=device.id,
        device_epoch=first.device_epoch,
        counter=first.counter,
        digest=digest_of(shown.first_payload),
        statement=shown.first_cose,
        traceparent=command.traceparent,
        authorization=name,
        account=account,
        token_key=token_key,
        commitment=None if grant is None else first.commitment,
        register_id=register.id,
        register_epoch=register.epoch,
        unit=register.unit,
        start=start,
        at=first.at,
        tariff_id=entry.name.tariff_id,
        tariff_version=entry.name.version,
        currency=entry.currency,
        report_interval_s=device.report_interval_s if grant is None else grant.report_interval_s,
        grant=b"" if grant is None else encode(grant),
        holds=_holds(state, grant, account, token_key),
        register_to=start if claim is None else claim.register_to,
        billed=billed,
        decided_at=now,
        shown_start=first.register.value,
        said_start=said_start,
        cap=_cap(state, grant),
    )
    authorization = opened(adopted, state.position + 1)
    authorization.cap_micros = adopted.cap
    fault = does_not_fit(device, authorization, statement)
    if fault is not None:
        return park(command, statement, digest, fault, now)
    value = unrolled(device, authorization, statement)
    fault = not_believed(state, device, authorization, statement, value, now)
    if fault is not None:
        parked = park(command, statement, digest, fault, now, authorization, value)
        return parked._replace(events=(adopted, *parked.events))
    metered = meter(
        state,
        command,
        statement,
        device,
        authorization,
        digest,
        now,
        value,
        closing=isinstance(statement, End),
        purse=_purse(state, authorization, token_key),
    )
    if metered.reply is None or metered.reply.refusal is not None:
        return metered
    return Decision((adopted, *metered.events), metered.reply)


def _belongs(
    state: GatewayState, device: Device, statement: Reading | End, shown: Shown, name: AuthorizationId
) -> bool:
    """Whether what is shown is of this device, this gateway, this authorization, and says one thing."""
    first, grant = shown.first, shown.grant
    if (first.device, first.recipient) != (device.id, state.gateway_id) or first.device_epoch != device.epoch:
        return False
    if grant is None:
        return (
            isinstance(first, Reading)
            and first.authorization is None
            and device.profile == _STANDING
            and named_authorization(state, device, first) == name
            and first.counter <= statement.counter
        )
    return (
        isinstance(first, Intent)
        and first.one_shot is None
        and device.profile not in (_ONE_SHOT, _STANDING)
        and (grant.recipient, grant.gateway) == (device.id, state.gateway_id)
        and (grant.intent_epoch, grant.intent_counter) == (first.device_epoch, first.counter)
        and grant.authorization == name == authorization_id(device.id, first.device_epoch, first.counter, grant.gateway)
        and (grant.register_id, grant.register_epoch, grant.start)
        == (first.register.register_id, first.register.register_epoch, first.register.value)
        and grant.commitment == first.commitment
        and first.counter < statement.counter
    )


def _account(state: GatewayState, device: Device, grant: Grant | None) -> AccountId:
    """Who pays: what the grant says, or whose quota it names (grants of before they said it)."""
    if grant is None:
        return device.standing_account_id
    if grant.account is not None:
        return grant.account
    for part in grant.held:
        quota = state.quotas.get(part.quota_id)
        if quota is not None:
            return quota.account_id
    return AccountId("")


def _is_fresh(reading: Reading, register: Register, grant: Grant | None, now: Instant) -> bool:
    if register.open is not None or reading.register.unrolled(register.modulus) < register.last_value:
        return False
    # A standing authorization holds nothing and has no end: whatever its device's clock says, the next reading bills it all.
    return grant is None or now - reading.at <= FRESH_INTERVALS * grant.report_interval_s * SECOND_US


def _billed(
    claim: OpenClaim | None,
    entry: TariffEntry,
    unit: str,
    start: int,
    first: Intent | Reading,
    statement: Reading | End,
    time_zone: str,
) -> tuple[tuple[int, int, int], ...]:
    """What the claim has billed, by tax rate.

    The cloud may know only the sums. Then they are cut to the rates in the order in which the tariff prices them: what the register
    alone decides is exact, and what is billed from here on completes each rate to its price.
    """
    if claim is None or not claim.net_micros + claim.tax_micros:
        return ()
    if claim.rates:
        return claim.rates
    use = Use(
        unit=unit,
        start=start,
        end=claim.register_to,
        started_at=first.at,
        ended_at=Instant(max(first.at, statement.at)),
        time_zone=time_zone,
    )
    parts = price(entry.tariff, use, closing=False).parts
    net, tax = claim.net_micros, claim.tax_micros
    billed: list[tuple[int, int, int]] = []
    for number, part in enumerate(parts, start=1):
        last = number == len(parts)
        part_net = net if last else min(net, part.net_micros)
        part_tax = tax if last else min(tax, part.tax_micros)
        net, tax = net - part_net, tax - part_tax
        billed.append((part.rate_ppm, part_net, part_tax))
    return tuple(billed)


def _holds(
    state: GatewayState, grant: Grant | None, account: AccountId, token_key: bytes
) -> tuple[tuple[str, int], ...]:
    """What the grant says is held, as far as the old incarnation's quotas and the floor still have it."""
    if grant is None:
        return ()
    holds: list[tuple[str, int]] = []
    for part in grant.held:
        if part.quota_id == FLOOR:
            amount = min(part.amount_micros, floor_room_micros(state, state.accounts.get(account), token_key))
            name: str = FLOOR_FUNDING
        else:
            quota = state.quotas.get(part.quota_id)
            if quota is None or not quota.frozen or quota.account_id != account:
                continue
            amount, name = min(part.amount_micros, quota.free_micros), quota.id
        if amount > 0 and name not in {held for held, _ in holds}:
            holds.append((name, amount))
    return tuple(holds)


def _cap(state: GatewayState, grant: Grant | None) -> int | None:
    """The most that it may cost: the grant does not say it, so what holds here for any other holds for it, and the least cap of those risk tiers
    that it can have been given at. One whose cap is below what the grant has billed and held is none of them (only what could not be stopped is beyond its cap).
    """
    if grant is None:
        return None
    limits, scorecard = state.policies.limits, state.policies.scorecard
    caps = [] if limits is None or not limits.per_authorization_micros else [limits.per_authorization_micros]
    if scorecard is not None:
        covered = grant.net_micros + grant.tax_micros + sum(part.amount_micros for part in grant.held)
        caps += [
            tier.hold_micros
            for tier in scorecard.tiers
            if tier.action == directive_pb2.RISK_ACTION_SHRINK and tier.hold_micros >= covered
        ]
    return min(caps, default=None)


def _purse(state: GatewayState, authorization: Authorization, token_key: bytes) -> Purse:
    """The purse as it is once the adoption has happened."""
    account = state.accounts[authorization.account_id]
    holds = authorization.holds
    room = floor_room_micros(state, account, token_key) - holds.get(FLOOR_FUNDING, 0)
    return Purse(account.quotas, holds, room)


# A one-shot use: its yes is all there ever was -----------------------------------------------------------------------


def decide_shown_use(
    state: GatewayState, command: DeviceStatement, intent: Intent, shown: Shown, now: Instant
) -> Decision:
    """Bill a one-shot use whose yes an older journal gave and lost: its intent and its grant prove it, and nothing follows."""
    device = heard(state, intent)
    if isinstance(device, Refusal):
        return no(intent, device)
    digest = digest_of(command.payload)
    seen = device.seen.get(intent.counter)
    if seen is not None and (seen.refusal is None or seen.digest != digest):
        return seen_before(device, intent, digest)
    # A no that this journal has said since is forgotten (rule 1).
    if intent.counter <= device.window_floor():
        return no(intent, Refusal.COUNTER_TOO_OLD)
    grant = shown.grant
    if grant is None or not _proves_use(state, device, intent, shown, grant):
        return no(intent, Refusal.MALFORMED)
    if is_known(state, grant.witness):
        return no(intent, Refusal.INTENT_ENDED)
    if not state.is_complete or not state.incarnation:
        return no(intent, Refusal.NOT_AUTHORIZING)
    register = device.registers.get(intent.register.register_id)
    entry = state.tariffs.get((grant.tariff.tariff_id, grant.tariff.version))
    account = state.accounts.get(_account(state, device, grant))
    # All of it is shown: it can be billed whichever register is there by now.
    modulus = device.modulus(intent.register.register_id, intent.register.register_epoch)
    if register is None or not modulus:
        newer = register is not None and register.epoch < intent.register.register_epoch
        return no(intent, Refusal.NOT_AUTHORIZING if newer else Refusal.REGISTER_EPOCH_DIFFERS)
    if entry is None or account is None:
        return no(intent, Refusal.TARIFF_MISSING)
    start = intent.register.unrolled(modulus)
    used = intent.one_shot or 0
    try:
        closing = entry.closing(register.unit, start, used, intent.at, intent.at, state.time_zone, one_shot=True)
    except TariffError:
        return no(intent, Refusal.TARIFF_MISSING)
    # What the old incarnation's quotas still have pays first: one of those that were not over then paid it.
    still_held: dict[str, int] = {
        quota.id: quota.free_micros
        for quota in account.quotas
        if quota.frozen
        and quota.incarnation == grant.witness.incarnation
        and quota.spend_until > grant.at
        and quota.free_micros > 0
    }
    room = floor_room_micros(state, account, intent.commitment)
    charges = bill(Purse(account.quotas, still_held, room), closing.parts, state.clock.latest(now))
    granted = events.Granted(
        device=device.id,
        device_epoch=intent.device_epoch,
        counter=intent.counter,
        digest=digest,
        statement=command.cose,
        traceparent=command.traceparent,
        authorization=grant.authorization,
        account=account.id,
        token_key=intent.commitment,
        commitment=intent.commitment,
        register_id=register.id,
        register_epoch=intent.register.register_epoch,
        unit=register.unit,
        start=start,
        at=intent.at,
        tariff_id=entry.name.tariff_id,
        tariff_version=entry.name.version,
        currency=entry.currency,
        report_interval_s=grant.report_interval_s,
        holds=(),
        limit=start + used,
        decided_at=now,
        incarnation=grant.witness.incarnation,
        online=state.online,
        used_to=start + used,
        charges=charges,
        shown_start=intent.register.value,
        said_start=start,
    )
    reply = Reply(
        device=device.id,
        answers=(intent.device_epoch, intent.counter),
        status=AnswerStatus.GRANTED,
        grant_of=grant.authorization,
        closed=True,
    )
    return Decision((granted,), reply)


def _proves_use(state: GatewayState, device: Device, intent: Intent, shown: Shown, grant: Grant) -> bool:
    """Whether the grant is this gateway's yes to this very intent, for all that it uses."""
    return (
        intent.one_shot is not None
        and device.profile == _ONE_SHOT
        and shown.first == intent
        and (grant.recipient, grant.gateway) == (device.id, state.gateway_id)
        and (grant.intent_epoch, grant.intent_counter) == (intent.device_epoch, intent.counter)
        and grant.authorization == authorization_id(device.id, intent.device_epoch, intent.counter, state.gateway_id)
        and (grant.register_id, grant.register_epoch, grant.start)
        == (intent.register.register_id, intent.register.register_epoch, intent.register.value)
        and grant.limit - grant.start >= intent.one_shot
        and grant.commitment == intent.commitment
        and intent.tariff in (None, grant.tariff)
    )
