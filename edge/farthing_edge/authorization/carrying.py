"""Another gateway's last words: carried up as they came, under their own authorization. Nothing is decided or priced here (DESIGN 5.8).

Rule 1: an end, and a one-shot use's intent, come with the grant that answers the intent; a standing authorization's reading comes with the
one it began with, for it was told yes once and for all.
Rule 2: what is carried may be older than the window of counters: a device keeps its word for as long as its gateway is gone. What this
journal no longer remembers is carried again: claims are cumulative, so it costs bytes.
Rule 3: what its device has said here under the same counter does not matter: nobody else does that but a copied element, and which of the two is
the copy is not decided here. What the other gateway has said yes to goes up all the same.
"""

from typing import TypeAlias, TypeGuard

from farthing.clock import Instant
from farthing.device.messages import AnswerStatus, End, Intent, Reading, Statement
from farthing.ids import AuthorizationId, authorization_id, standing_authorization_id
from farthing.refusal import Refusal
from farthing_edge.authorization import events
from farthing_edge.authorization.commands import DeviceStatement, Reply, Shown
from farthing_edge.authorization.decision import Decision, digest_of, no
from farthing_edge.authorization.hearing_time import is_believed
from farthing_edge.authorization.state import MAX_CARRIED, GatewayState

LastWord: TypeAlias = End | Intent | Reading


def is_carried(statement: Statement) -> TypeGuard[LastWord]:
    """Whether it may be handed to another gateway than its own, with what proves it."""
    if isinstance(statement, Intent):
        return statement.one_shot is not None
    return isinstance(statement, End) or (isinstance(statement, Reading) and statement.authorization is None)


def decide_carried(
    state: GatewayState, command: DeviceStatement, word: LastWord, shown: Shown, now: Instant
) -> Decision:
    """Write down a last word that names another gateway, with what proves it."""
    device = state.devices.get(word.device)
    if device is None:
        return no(word, Refusal.DEVICE_UNKNOWN if state.is_complete else Refusal.NOT_AUTHORIZING)
    if device.epoch != word.device_epoch:
        return no(word, Refusal.DEVICE_EPOCH_DIFFERS)
    authorization = _proven(word, shown)
    if authorization is None:
        return no(word, Refusal.MALFORMED)
    if not is_believed(state, word.at, now):
        # The cloud would price it as it is dated. Its device keeps it; its own gateway parks it.
        return no(word, Refusal.CLOCK_AHEAD)
    digest = digest_of(command.payload)
    # Not closed: that is for its own gateway to say.
    heard = Reply(
        device=device.id, answers=(word.device_epoch, word.counter), status=AnswerStatus.RECORDED, closed=False
    )
    taken = device.carried.get(word.counter)
    if taken is not None:
        return Decision(reply=heard) if taken == digest else no(word, Refusal.COUNTER_REUSED)
    if word.counter <= device.window_floor() and device.awaits(word.counter):
        # It was taken, and is on its way.
        return Decision(reply=heard)
    if len(state.carried) >= MAX_CARRIED:
        return no(word, Refusal.OVERLOADED)
    grant = shown.grant
    carried = events.EndCarried(
        device=device.id,
        counter=word.counter,
        digest=digest,
        # A one-shot intent is its own first statement.
        statements=(command.cose,) if isinstance(word, Intent) else (shown.first_cose, command.cose),
        grant=shown.grant_cose,
        granted_by=word.recipient,
        # No grant of a standing authorization says one.
        granted_incarnation=0 if grant is None else grant.witness.incarnation,
        authorization=authorization,
        at=now,
    )
    return Decision((carried,), heard)


def _proven(word: LastWord, shown: Shown) -> AuthorizationId | None:
    """The one authorization that all of it speaks of, as far as can be seen without the other gateway's key; None: there is none."""
    first, grant = shown.first, shown.grant
    if (first.device, first.device_epoch, first.recipient) != (word.device, word.device_epoch, word.recipient) or (
        first.register.register_id,
        first.register.register_epoch,
    ) != (word.register.register_id, word.register.register_epoch):
        return None
    if isinstance(word, Reading):
        if (
            grant is not None
            or not isinstance(first, Reading)
            or first.authorization is not None
            or first.counter >= word.counter
            or first.tariff != word.tariff
        ):
            return None
        register = first.register
        return standing_authorization_id(
            word.device, word.device_epoch, register.register_id, register.register_epoch, word.recipient
        )
    if grant is None or not isinstance(first, Intent):
        return None
    name = authorization_id(first.device, first.device_epoch, first.counter, first.recipient)
    fits = (
        (grant.recipient, grant.gateway) == (word.device, word.recipient)
        and (grant.intent_epoch, grant.intent_counter) == (first.device_epoch, first.counter)
        and grant.authorization == name
        and word.commitment == first.commitment == grant.commitment
    )
    if isinstance(word, Intent):
        fits = fits and first == word and word.tariff in (None, grant.tariff)
    else:
        fits = fits and first.counter < word.counter and (word.authorization, word.tariff) == (name, grant.tariff)
    return name if fits else None
