"""What others have seen of this journal: a witness that it does not know proves that it went backwards.

Rule 1: a witness is (incarnation, start, position); every answer and every message to the cloud carries one, devices and the cloud
give the last one back, and a token may remember the highest sealed batch.
Rule 2: whoever is right about it, nothing is lost by believing: authorizing stops, metering goes on, and people decide about the next
incarnation. So one active device's word is enough, over its own channel, beside a statement that it signed. Of one that is not active, its
word stops nobody until it is active again; but nothing is called receipted to it, or it would forget what this journal has forgotten.
Rule 3: an older incarnation's witness proves nothing about this one: that its journal is gone is known.
Rule 4: devices keep the furthest witness. So an answer says how far this journal is only where its device's own has been held against it, and proved nothing:
any other would take the place of what proves that it went backwards.
"""

from farthing.device.messages import Witness
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_edge.authorization import commands, events
from farthing_edge.authorization.commands import DeviceStatement, Reply
from farthing_edge.authorization.decision import NOTHING, Decision
from farthing_edge.authorization.state import GatewayState


def is_known(state: GatewayState, witness: Witness) -> bool:
    """Whether this journal has the position that ``witness`` names, in the start that it names."""
    if witness.start_id == state.start_id:
        return witness.position <= state.position
    found = state.starts.get(witness.start_id)
    if found is None:
        return False
    _, first = found
    # A start ends where the next one begins.
    last = min((at - 1 for _, at in state.starts.values() if at > first), default=state.position)
    return witness.position <= last


def disagreement(state: GatewayState, witness: Witness) -> str:
    """How ``witness`` proves that this journal went backwards; empty when it does not."""
    if witness.incarnation < state.incarnation or not state.incarnation:
        return ""
    if witness.incarnation > state.incarnation:
        return f"incarnation {witness.incarnation}, this journal {state.incarnation}"
    if is_known(state, witness):
        return ""
    if witness.start_id in state.starts:
        return f"position {witness.position} of a start that ends before it here"
    return "a start that this journal does not know"


def suspicion(state: GatewayState, command: DeviceStatement) -> events.RollbackSuspected | events.SeenBeyond | None:
    """What a device's statement, or the grant it shows, proves about this journal; None when it proves nothing new."""
    if state.rollback_suspected and state.suspected_incarnation >= state.incarnation:
        return None
    witness, shown = command.witness, command.shown
    if (
        witness is not None
        and witness.start_id == state.start_id
        and witness.position <= state.position
        and witness.incarnation <= state.incarnation
    ):
        # Nearly always.
        witness = None
    granted = None if shown is None or shown.grant is None else shown.grant
    if granted is not None and granted.gateway != state.gateway_id:
        granted = None
    statement = command.statement
    known = state.seen_beyond.get(statement.device, "") if state.seen_beyond else ""
    if witness is None and granted is None and not known:
        return None
    device = state.devices.get(statement.device)
    if device is None or device.epoch != statement.device_epoch:
        # Nobody's word. (What is carried is: its device says it here, over its own channel, with what it has seen of this journal.)
        witness, known = None, ""
    seen = "" if witness is None else disagreement(state, witness)
    is_heard = device is None or device.status == directive_pb2.DEVICE_STATUS_ACTIVE
    # What it has seen while its word was not enough counts now.
    told = seen or known if is_heard else ""
    # A grant is our own, whoever shows it.
    told = told or ("" if granted is None else disagreement(state, granted.witness))
    if told:
        # About this journal's own incarnation, whatever the witness says: one that never was would be waited for for ever. The cloud's
        # next welcome to this journal comes after people have decided.
        return events.RollbackSuspected(
            reason=f"device {statement.device} has seen {told}", incarnation=state.incarnation
        )
    if seen and not known:
        return events.SeenBeyond(device=statement.device, incarnation=state.incarnation, reason=seen)
    return None


def vouches(state: GatewayState, reply: Reply) -> bool:
    """Whether an answer may say how far this journal is. Not to whom it does not know, nor to ticks: they bring no witness."""
    device = state.devices.get(reply.device)
    return (
        device is not None
        and device.id not in state.seen_beyond
        and reply.refusal is not Refusal.DEVICE_EPOCH_DIFFERS
        and reply.answers is not None
        and reply.ticked is None
    )


def decide_token_witness(state: GatewayState, command: commands.TokenWitnessed, now: object) -> Decision:  # noqa: ARG001  # every command has one shape
    """The token remembers a batch that this journal does not end with or come after: the journal went backwards."""
    ours = (state.incarnation, state.sequence)
    theirs = (command.incarnation, command.sequence)
    if theirs < ours or (theirs == ours and command.batch_hash == state.batch_hash):
        return NOTHING
    reason = f"the token has seen batch {command.sequence} of incarnation {command.incarnation} sealed"
    if theirs == ours:
        reason += " with other content"
    return Decision(
        (
            events.RollbackSuspected(
                reason=f"{reason}, this journal ends with {state.sequence} of {state.incarnation}",
                incarnation=command.incarnation,
            ),
        )
    )
