"""What follows from a command: ``decide(state, command, now=...)``.

Rule 1: it changes nothing; the decision's events, applied in order, are all that happens.
Rule 2: a statement that verified is never lost: it is billed, or recorded, or parked with its reason, or asked for again.
Rule 3: whatever was said once is said again: a repeat is answered with the first answer and what became of it, and a late or
reordered statement changes nothing twice.
Rule 4: use is always billed, whatever its device's status has become; rules stop new use only. (Each reading of a standing
authorization is new use.)
"""

from collections.abc import Callable
from typing import Any

from farthing.clock import Instant
from farthing.device.messages import Chain, Disclaimer, End, Intent, Reading
from farthing.refusal import Refusal
from farthing_edge.authorization import commands
from farthing_edge.authorization.adopting import decide_adoption, decide_shown_use, is_unknown, wants_showing
from farthing_edge.authorization.carrying import decide_carried, is_carried
from farthing_edge.authorization.commands import Command, DeviceStatement
from farthing_edge.authorization.decision import NOTHING, Decision, no
from farthing_edge.authorization.decisions import carry_out, set_aside
from farthing_edge.authorization.events import BaselineTaken, RollbackSuspected, parks
from farthing_edge.authorization.from_cloud import (
    decide_directive,
    decide_head,
    decide_hello,
    decide_receipt,
    decide_start,
    decide_uplink,
)
from farthing_edge.authorization.hearing_time import decide_clock
from farthing_edge.authorization.intents import decide_intent
from farthing_edge.authorization.lapsing import lapse
from farthing_edge.authorization.quotas import decide_quota_answer, decide_tick
from farthing_edge.authorization.readings import decide_chain, decide_end, decide_reading, heard
from farthing_edge.authorization.silence import asks, decide_disclaimer
from farthing_edge.authorization.state import MAX_PARKED_UNSEALED, Device, GatewayState
from farthing_edge.authorization.ticks import decide_ticks
from farthing_edge.authorization.witnesses import decide_token_witness, suspicion
from farthing_edge.metering.sealing import seal, seal_again


def decide(state: GatewayState, command: Command, *, now: Instant) -> Decision:
    """Decide ``command`` at the business instant ``now``."""
    return _DECIDE[command.__class__](state, command, now)


def _statement(state: GatewayState, command: DeviceStatement, now: Instant) -> Decision:
    statement = command.statement
    decision = _by_kind(state, command, now)
    if len(state.parked_unsealed) >= MAX_PARKED_UNSEALED and parks(decision.events):
        # Only the cloud can have what is parked for as long as it takes: its device says it again until a batch has room.
        decision = no(statement, Refusal.OVERLOADED)
    suspected = suspicion(state, command)
    if suspected is not None:
        begins = any(isinstance(event, BaselineTaken) for event in decision.events)
        asks_for_more = statement.__class__ is Intent and command.shown is None
        if suspected.__class__ is RollbackSuspected and (
            begins or (asks_for_more and (decision.events or decision.wait))
        ):
            # What was about to be granted, or begun, is not: the next try meets the rule.
            decision = no(statement, Refusal.NOT_AUTHORIZING)
        decision = decision._replace(events=(*decision.events, suspected))
    reply = decision.reply
    if reply is not None:
        asked = asks(state, command, reply, now)
        if asked:
            decision = decision._replace(reply=reply._replace(asks=asked))
    return decision


def _by_kind(state: GatewayState, command: DeviceStatement, now: Instant) -> Decision:
    statement = command.statement
    if statement.recipient != state.gateway_id and command.shown is not None and is_carried(statement):
        return decide_carried(state, command, statement, command.shown, now)
    if isinstance(statement, Reading) and statement.authorization in state.authorizations:
        # Nearly always: what follows is about uses that are not known.
        return decide_reading(state, command, statement, now)
    if isinstance(statement, Intent):
        if command.shown is not None:
            return decide_shown_use(state, command, statement, command.shown, now)
        return decide_intent(state, command, statement, now)
    if isinstance(statement, Disclaimer):
        return decide_disclaimer(state, command, statement, now)
    if statement.__class__ is Chain:
        return decide_chain(state, command, statement, now)
    assert isinstance(statement, Reading | End)
    shown = command.shown
    device = heard(state, statement)
    if isinstance(device, Device) and statement.counter not in device.seen and is_unknown(state, device, statement):
        if shown is not None:
            return decide_adoption(state, command, statement, shown, device, now)
        if wants_showing(state, command, device, statement):
            return no(statement, Refusal.AUTHORIZATION_UNKNOWN)
    if isinstance(statement, Reading):
        return decide_reading(state, command, statement, now)
    return decide_end(state, command, statement, now)


def _seal_again(state: GatewayState, command: commands.SealAgain, now: Instant) -> Decision:
    sealed = seal_again(state, command.raw, now)
    return NOTHING if sealed is None else Decision((sealed,))


def _seal(state: GatewayState, command: commands.SealDue, now: Instant) -> Decision:
    try:
        sealing = seal(state, now, command.drafted)
    except Exception:  # whatever is wrong with it: it is raised again unless the use at fault is found
        # One use that no batch can bill must not stop all others. Where none is at fault alone, it is a bug to be seen.
        aside = set_aside(state)
        if not aside:
            raise
        return Decision(aside)
    return NOTHING if sealing is None else Decision((sealing.sealed,), leaves=sealing.leaves)


def _tick(state: GatewayState, command: commands.Tick, now: Instant) -> Decision:
    # What is closed does not lapse besides: the next tick looks again.
    settled = carry_out(state, now) or lapse(state, now)
    tick = decide_tick(state, command, now)
    return tick._replace(events=(*settled, *tick.events)) if settled else tick


_DECIDE: dict[type[Any], Callable[[GatewayState, Any, Instant], Decision]] = {
    DeviceStatement: _statement,
    commands.TicksArrived: decide_ticks,
    commands.DirectiveArrived: decide_directive,
    commands.HeadArrived: decide_head,
    commands.ReceiptArrived: decide_receipt,
    commands.Connected: decide_hello,
    commands.UplinkChanged: decide_uplink,
    commands.QuotaAnswered: decide_quota_answer,
    commands.SealDue: _seal,
    commands.SealAgain: _seal_again,
    commands.TokenWitnessed: decide_token_witness,
    commands.Tick: _tick,
    commands.Started: decide_start,
    commands.ClockRead: decide_clock,
}
