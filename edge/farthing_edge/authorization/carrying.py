"""Another gateway's end: carried up as it came, under its own authorization. Nothing is decided or priced here (DESIGN 5.8)."""

from farthing.clock import Instant
from farthing.device.messages import AnswerStatus, End, Intent
from farthing.ids import authorization_id
from farthing.refusal import Refusal
from farthing_edge.authorization import events
from farthing_edge.authorization.commands import DeviceStatement, Reply, Shown
from farthing_edge.authorization.decision import Decision, digest_of, no
from farthing_edge.authorization.state import MAX_CARRIED, GatewayState


def decide_carried(state: GatewayState, command: DeviceStatement, end: End, shown: Shown, now: Instant) -> Decision:
    """Write down an end that names another gateway, with the grant and the intent that prove what it ends."""
    device = state.devices.get(end.device)
    if device is None:
        return no(end, Refusal.DEVICE_UNKNOWN if state.is_complete else Refusal.NOT_AUTHORIZING)
    if device.epoch != end.device_epoch:
        return no(end, Refusal.DEVICE_EPOCH_DIFFERS)
    if not _belongs(end, shown):
        return no(end, Refusal.MALFORMED)
    digest = digest_of(command.payload)
    # Not closed: that is for its own gateway to say.
    heard = Reply(device=device.id, answers=(end.device_epoch, end.counter), status=AnswerStatus.RECORDED, closed=False)
    seen = device.seen.get(end.counter)
    if seen is not None:
        return Decision(reply=heard) if seen.digest == digest else no(end, Refusal.COUNTER_REUSED)
    if end.counter <= device.window_floor():
        return no(end, Refusal.COUNTER_TOO_OLD)
    if len(state.carried) >= MAX_CARRIED:
        return no(end, Refusal.OVERLOADED)
    grant = shown.grant
    assert grant is not None  # _belongs
    carried = events.EndCarried(
        device=device.id,
        counter=end.counter,
        digest=digest,
        statements=(shown.first_cose, command.cose),
        grant=shown.grant_cose,
        granted_by=grant.gateway,
        granted_incarnation=grant.witness.incarnation,
        authorization=end.authorization,
        at=now,
    )
    return Decision((carried,), heard)


def _belongs(end: End, shown: Shown) -> bool:
    """What can be seen without the other gateway's key: that end, intent and grant speak of one authorization."""
    first, grant = shown.first, shown.grant
    return (
        grant is not None
        and isinstance(first, Intent)
        and (first.device, first.device_epoch, first.recipient) == (end.device, end.device_epoch, end.recipient)
        and first.counter < end.counter
        and (grant.recipient, grant.gateway) == (end.device, end.recipient)
        and (grant.intent_epoch, grant.intent_counter) == (first.device_epoch, first.counter)
        and end.authorization == grant.authorization
        and end.authorization == authorization_id(first.device, first.device_epoch, first.counter, first.recipient)
        and end.commitment == first.commitment == grant.commitment
        and end.tariff == grant.tariff
        and (end.register.register_id, end.register.register_epoch)
        == (first.register.register_id, first.register.register_epoch)
    )
