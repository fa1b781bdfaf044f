"""What follows from a command: ``decide(state, command, now=...)``.

Rule 1: it changes nothing; the decision's events, applied in order, are all that happens.
Rule 2: a statement that verified is never lost: it is billed, or recorded, or parked with its reason, or asked for again.
Rule 3: whatever was said once is said again: a repeat is answered with the first answer and what became of it, and a late or
reordered statement changes nothing twice.
Rule 4: use is always billed, whatever its device's status has become; rules stop new use only. (Each reading of a standing
authorization is new use.)
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from farthing.clock import Instant
from farthing.device.messages import Chain, End, Intent, Reading
from farthing_edge.authorization import commands
from farthing_edge.authorization.commands import Command, DeviceStatement
from farthing_edge.authorization.decision import NOTHING, Decision
from farthing_edge.authorization.decisions import carry_out, set_aside
from farthing_edge.authorization.from_cloud import (
    decide_directive,
    decide_head,
    decide_hello,
    decide_receipt,
    decide_start,
    decide_uplink,
)
from farthing_edge.authorization.intents import decide_intent
from farthing_edge.authorization.quotas import decide_quota_answer, decide_tick
from farthing_edge.authorization.readings import decide_chain, decide_end, decide_reading
from farthing_edge.authorization.state import (
    GatewayState,
)
from farthing_edge.authorization.ticks import decide_ticks
from farthing_edge.metering.sealing import seal


def decide(state: GatewayState, command: Command, *, now: Instant) -> Decision:
    """Decide ``command`` at the business instant ``now``."""
    return _DECIDE[command.__class__](state, command, now)


def _statement(state: GatewayState, command: DeviceStatement, now: Instant) -> Decision:
    statement = command.statement
    if statement.__class__ is Intent:
        return decide_intent(state, command, statement, now)
    if statement.__class__ is Reading:
        return decide_reading(state, command, statement, now)
    if statement.__class__ is Chain:
        return decide_chain(state, command, statement, now)
    assert isinstance(statement, End)
    return decide_end(state, command, statement, now)


def _seal(state: GatewayState, command: commands.SealDue, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    try:
        sealed = seal(state, now)
    except Exception:  # whatever is wrong with it: it is raised again unless the use at fault is found
        # One use that no batch can bill must not stop all others. Where none is at fault alone, it is a bug to be seen.
        aside = set_aside(state)
        if not aside:
            raise
        return Decision(aside)
    return NOTHING if sealed is None else Decision((sealed,))


def _tick(state: GatewayState, command: commands.Tick, now: Instant) -> Decision:
    settled = carry_out(state, now)
    tick = decide_tick(state, command, now)
    return replace(tick, events=(*settled, *tick.events)) if settled else tick


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
    commands.Tick: _tick,
    commands.Started: decide_start,
}
