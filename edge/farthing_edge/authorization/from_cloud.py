"""What the cloud says: directives, heads, receipts, hellos; and that it is there at all."""

from farthing.clock import Instant
from farthing.device.cose import decode_sign1
from farthing.device.messages import End, MessageError, Reading, Witness, decode_statement
from farthing.ids import StartId
from farthing.v1 import directive_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands, events
from farthing_edge.authorization.adopting import is_unknown
from farthing_edge.authorization.commands import DeviceStatement
from farthing_edge.authorization.decision import NOTHING, Decision
from farthing_edge.authorization.events import Event
from farthing_edge.authorization.hearing_time import begins_anew, heard_at, is_believed, read_at_start
from farthing_edge.authorization.readings import decide_end, decide_reading
from farthing_edge.authorization.state import GatewayState
from farthing_edge.authorization.witnesses import disagreement

#: A head is journaled only when it is this part of the allowed age newer than the last: it bounds writes, not safety.
_HEAD_RECORDS = 16


def decide_directive(state: GatewayState, command: commands.DirectiveArrived, now: Instant) -> Decision:
    """Only the next of this gateway's chain is obeyed; anything else is asked for again by whoever follows the chain."""
    body = command.body
    if (
        body.gateway_id != state.gateway_id
        or body.version != state.directive_version + 1
        or body.previous_hash != state.directive_hash
    ):
        return NOTHING
    kind = body.WhichOneof("body")
    applied = events.DirectiveApplied(
        version=body.version,
        raw=command.raw,
        signature=command.signature,
        key_id=command.key_id,
        passed_over=kind == "welcome" and _is_passed_over(state, body.welcome.incarnation),
    )
    if kind == "quota_granted" and _answers_what_was_never_asked(state, body.quota_granted):
        granted, asked = body.quota_granted.request_counter, state.request_counter
        reason = f"the cloud has answered quota request {granted}, this journal has asked {asked}"
        return Decision((applied, events.RollbackSuspected(reason=reason, incarnation=state.incarnation)))
    if kind == "end_carried":
        return Decision((applied, *_ended_elsewhere(state, body.end_carried, now)))
    if kind == "welcome" and body.welcome.incarnation != state.incarnation and not applied.passed_over:
        return Decision((applied, *begins_anew(state, body.dated_at_us, now)))
    return Decision((applied, *heard_at(state, body.dated_at_us, now, by="directive")))


def _answers_what_was_never_asked(state: GatewayState, granted: directive_pb2.QuotaGranted) -> bool:
    """A request is written down before it is sent: its answer, and no request, is a journal that went back.

    It would ask under that number again, and take the yes that it has had already for the answer to come.
    """
    return (
        granted.incarnation == state.incarnation
        and granted.request_counter > state.request_counter
        and not state.rollback_suspected
    )


def _is_passed_over(state: GatewayState, incarnation: int) -> bool:
    """A journal that begins anew reads its chain from the first directive: an incarnation that another journal has begun is not its own."""
    expected = state.expected_incarnation
    if expected is None or incarnation == state.incarnation:
        return False
    return incarnation <= expected if state.waits else incarnation < expected


def _ended_elsewhere(state: GatewayState, carried: directive_pb2.EndCarried, now: Instant) -> tuple[Event, ...]:
    """Take the last word that another gateway has carried up as if its device had handed it over. The cloud has verified it.

    A one-shot use was billed when it was granted. A standing authorization that this journal does not know its device shows.
    """
    if not carried.statements:
        return ()
    cose = carried.statements[-1]
    try:
        payload = decode_sign1(cose).payload
        word = decode_statement(payload)
    except MessageError:
        return ()
    command = DeviceStatement(statement=word, cose=cose, payload=payload)
    happened: tuple[Event, ...] = ()
    device = state.devices.get(word.device)
    if isinstance(word, End):
        happened = decide_end(state, command, word, now).events
    elif isinstance(word, Reading) and device is not None and not is_unknown(state, device, word):
        happened = decide_reading(state, command, word, now).events
    # The cloud has it: no batch need tell it.
    return tuple(
        event._replace(goes_up=False) if isinstance(event, events.StatementParked) else event for event in happened
    )


def decide_head(state: GatewayState, command: commands.HeadArrived, now: Instant) -> Decision:
    """A head says what time it is at the cloud; one of the version we have, that we know all there is."""
    time_said = heard_at(state, command.at, now, by="head", confirms=True)
    at = command.at if is_believed(state, command.at, now) else now
    if command.version != state.directive_version:
        return Decision(time_said)
    if not state.is_complete:
        # The first head that finds nothing missing: from now on, what no directive named is unknown.
        return Decision((*time_said, events.HeadRecorded(version=command.version, at=at)))
    if at <= state.head_at:
        return Decision(time_said)
    if at - state.recorded_head_at >= state.settings.directive_max_age_us // _HEAD_RECORDS:
        return Decision((*time_said, events.HeadRecorded(version=command.version, at=at)))
    return Decision((*time_said, events.HeadSeen(at=at)))


def decide_receipt(state: GatewayState, command: commands.ReceiptArrived, now: Instant) -> Decision:
    """A receipt counts for the batch whose hash it names."""
    receipt = command.receipt
    batch = state.batches.get(receipt.sequence)
    if (
        receipt.gateway_id != state.gateway_id
        or receipt.incarnation != state.incarnation
        or batch is None
        or batch.batch_hash != receipt.batch_hash
    ):
        return NOTHING
    return Decision(
        (
            events.Receipted(
                incarnation=receipt.incarnation,
                sequence=receipt.sequence,
                batch_hash=receipt.batch_hash,
                raw=command.raw,
                signature=command.signature,
                key_id=command.key_id,
            ),
            *heard_at(state, receipt.posted_at_us, now, by="receipt"),
        )
    )


def decide_hello(state: GatewayState, command: commands.Connected, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    """The cloud says by which incarnation it knows us, and how much of this journal it has seen."""
    hello = command.hello
    waits = hello.standing == gateway_sync_pb2.HELLO_STANDING_WAITS
    because = hello.waits_because or "the cloud waits for people to decide about a new incarnation"
    happened: list[Event] = [events.HelloSeen(incarnation=hello.incarnation, waits=because if waits else "")]
    if hello.incarnation == state.incarnation and not state.rollback_suspected:
        reason = _rollback(state, hello)
        if reason:
            happened.append(events.RollbackSuspected(reason=reason, incarnation=hello.incarnation))
    return Decision(tuple(happened))


def _rollback(state: GatewayState, hello: gateway_sync_pb2.HelloResponse) -> str:
    if hello.posted_sequence > state.sequence:
        return f"the cloud has posted batch {hello.posted_sequence}, this journal ends with {state.sequence}"
    if not hello.witnessed_start_id:
        return ""
    witness = Witness(
        incarnation=hello.incarnation,
        start_id=StartId(hello.witnessed_start_id),
        position=hello.witnessed_position,
    )
    reason = disagreement(state, witness)
    return f"the cloud has seen {reason}" if reason else ""


def decide_uplink(state: GatewayState, command: commands.UplinkChanged, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    if command.online == state.online:
        return NOTHING
    return Decision((events.UplinkSeen(online=command.online),))


def decide_start(state: GatewayState, command: commands.Started, now: Instant) -> Decision:
    trusted, lead_us, step_us = read_at_start(state, command, now)
    started = events.Started(
        start_id=command.start_id,
        boot_id=command.boot_id,
        clock_epoch_us=command.clock_epoch_us,
        clock_real_epoch_us=command.clock_real_epoch_us,
        clock_rate=command.clock_rate,
        check_salt=command.check_salt,
        real_us=command.real_us,
        monotonic_us=command.monotonic_us,
        at=now,
        trusted=trusted,
        lead_us=lead_us,
        step_us=step_us,
    )
    if command.entries_lost and not state.rollback_suspected:
        return Decision((started, events.RollbackSuspected(reason=command.entries_lost, incarnation=state.incarnation)))
    return Decision((started,))
