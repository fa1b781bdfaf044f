"""What a device does next: one pure function over everything it knows.

Rule 1: a counter is taken by writing the state that has passed it; the caller stores the state before it signs, so no
counter is ever used for other content or another recipient.
Rule 2: a statement is sent again with the same bytes to the same gateway until it is answered; newer readings replace
older ones on the air (they are cumulative), never what is kept.
Rule 3: end first. Whoever leaves an intent without an answer, or asks elsewhere, signs an end before; the next use starts
where it ends. A one-shot intent is left for another payer only, when its gateway has long been silent: its yes *is* the use, so the register passes
over what it asked for, and only that gateway says whether there was one.
A yes that comes when it has lapsed begins nothing: an end without width, then a new intent, a few times at the most.
Rule 4: use goes on up to the signed limit and no further, unless nothing in the device can stop it.
Rule 5: what was signed is kept until the cloud has receipted it.
"""

import hashlib
from dataclasses import replace

from farthing.ids import GatewayId
from farthing_firmware_sim.device.hearing import Hearing
from farthing_firmware_sim.device.state import begun, can_serve, may_be_replaced, served_at
from farthing_firmware_sim.device.values import (
    Answered,
    ArrivalTurnedAway,
    Arrive,
    Draw,
    Finish,
    Input,
    Moment,
    Nameplate,
    Plan,
    Reconnected,
    Replaced,
    State,
    Step,
    Tick,
)


def step(nameplate: Nameplate, state: State, given: Input, *, now: Moment) -> Step:
    """The next state, what to send, what happened. Illegal inputs change nothing."""
    draft = _Draft(nameplate, state, now)
    draft.advance()
    match given:
        case Tick():
            pass
        case Arrive(plan=plan):
            draft.arrive(plan)
        case Draw(rate_per_hour=rate):
            draft.draw(rate)
        case Answered():
            draft.answered(given)
        case Reconnected(gateway=gateway):
            draft.reconnected(gateway)
        case Finish():
            draft.finish()
        case Replaced(value=value):
            # Nothing but the old register is spoken of in this step: what is due is said under the nameplate of the new one.
            draft.replaced(value)
            return draft.outcome()
    draft.carry_on()
    draft.transmit()
    return draft.outcome()


def traceparent(trace_id: bytes, counter: int) -> str:
    """W3C Trace Context of the statement with this counter: one trace per use, one span per statement."""
    span = hashlib.sha256(trace_id + counter.to_bytes(8, "big")).digest()[:8]
    return f"00-{trace_id.hex()}-{span.hex()}-01"


class _Draft(Hearing):
    """The whole device within one step."""

    def arrive(self, plan: Plan) -> None:
        first, *left = served_at(self.state, plan.gateways, self.now)
        why = can_serve(self.nameplate, self.state, first, self.now)
        if why is not None:
            self.events.append(ArrivalTurnedAway(source=plan.source, why=why))
            return
        if self.state.use is not None:
            self._leave(self.state.use)
        self._ask(plan, gateway=first, left=tuple(left), arrived_real_us=self.now.real_us, again=0)

    def draw(self, rate_per_hour: int) -> None:
        if self.state.standing is not None and not self.state.finishing:
            self.state = replace(self.state, drawn_per_hour=rate_per_hour)

    def reconnected(self, gateway: GatewayId) -> None:
        self.state = replace(
            self.state,
            outgoing=tuple(
                replace(each, try_at_us=self.now.real_us) if each.gateway == gateway else each
                for each in self.state.outgoing
            ),
        )

    def replaced(self, value: int) -> None:
        """End what is open at what the old register shows, then begin with the new one."""
        if not may_be_replaced(self.nameplate, self.state):
            return
        if self.state.use is not None:
            self._end(self.state.use)
        standing = self.state.standing
        if standing is not None and standing.baseline is not None and standing.final_counter is None:
            self._read_standing()
        self.state = begun(self.state, register_value=value, now=self.now)
        self.durable = True

    def finish(self) -> None:
        self.state = replace(self.state, finishing=True, drawn_per_hour=0)
        self.durable = True
