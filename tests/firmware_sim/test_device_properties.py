"""Whatever the network and the power do: counters, bytes, registers and limits hold, and in the end nothing is owed."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.device.messages import Answer, Grant, Intent, decode_statement
from farthing.ids import GatewayId
from farthing.refusal import Refusal
from farthing_firmware_sim.device.step import is_finished, new_state, restored, step
from farthing_firmware_sim.device.stored import dump, load
from farthing_firmware_sim.device.values import (
    Answered,
    Arrive,
    Draw,
    Finish,
    Finished,
    Input,
    Moment,
    Nameplate,
    Profile,
    Reconnected,
    RefusedIntent,
    Send,
    Tick,
)

START = 999_999_500  # the register turns over in the middle


@dataclass
class Storm:
    """A device, one or two gateways, and what is in the air between them."""

    plate: Nameplate
    gateways: dict[str, Any]
    at: Callable[..., Moment]
    plan: Callable[..., Any]
    seconds: float = 0
    up: list[Send] = field(default_factory=list)
    down: list[tuple[str, Answer, Grant | None]] = field(default_factory=list)
    contents: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    finished: list[Finished] = field(default_factory=list)
    refused: list[RefusedIntent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = new_state(self.plate, register_value=START, now=self.at(0))
        self.stored = dump(self.state, self.plate.profile)

    def give(self, given: Input) -> None:
        before = self.state
        outcome = step(self.plate, before, given, now=self.at(self.seconds))
        self.state = outcome.state
        if outcome.durable:
            self.stored = dump(self.state, self.plate.profile)
        for send in outcome.sends:
            # What is sent was stored: a power cut now must find the counter passed.
            assert load(self.stored).next_counter > send.counter
            content = (str(send.gateway), send.payload)
            assert self.contents.setdefault(send.counter, content) == content
            statement = decode_statement(send.payload)
            assert statement.recipient == send.gateway
            assert (send.token is not None) == isinstance(statement, Intent)
        self.up.extend(outcome.sends)
        for event in outcome.events:
            if isinstance(event, Finished):
                self.finished.append(event)
            elif isinstance(event, RefusedIntent):
                self.refused.append(event)
        use = self.state.use
        if use is not None and self.plate.stoppable and self.plate.profile is Profile.SESSION:
            assert use.used <= use.covered

    def do(self, op: tuple[str, int]) -> None:
        kind, number = op
        match kind:
            case "time":
                self.seconds += number
                self.give(Tick())
            case "arrive":
                names = tuple(GatewayId(name) for name in self.gateways)
                if self.plate.profile is Profile.STANDING:
                    self.give(Draw(rate_per_hour=number * 50))
                elif self.plate.profile is Profile.ONE_SHOT:
                    self.give(Arrive(plan=self.plan(target=1, gateways=names[number % len(names) :][:1])))
                else:
                    self.give(Arrive(plan=self.plan(target=100 + number * 20, gateways=names)))
            case "hear" | "hear twice" if self.up:
                index = number % len(self.up)
                send = self.up[index] if kind == "hear twice" else self.up.pop(index)
                answer, grant = self.gateways[send.gateway].hear(send.payload)
                self.down.append((send.gateway, answer, grant))
            case "answer" | "answer twice" if self.down:
                index = number % len(self.down)
                gateway, answer, grant = self.down[index] if kind == "answer twice" else self.down.pop(index)
                self.give(Answered(gateway=GatewayId(gateway), answer=answer, grant=grant))
            case "lose" if self.up:
                self.up.pop(number % len(self.up))
            case "lose answer" if self.down:
                self.down.pop(number % len(self.down))
            case "power cut":
                self.state = restored(load(self.stored), now=self.at(self.seconds))
                # Delivered since the last thing it said or heard, and unsigned: a meter that lost its power counts on from there.
            case "refuse":
                next(iter(self.gateways.values())).refuse_next = Refusal.QUOTA_EXHAUSTED
            case "no receipts":
                for each in self.gateways.values():
                    each.receipting = number % 2 == 0
            case "reconnect":
                for name in self.gateways:
                    self.give(Reconnected(gateway=GatewayId(name)))
            case _:
                pass

    def calm_down(self) -> None:
        """The network is good from now on: everything is said and answered."""
        for each in self.gateways.values():
            each.receipting, each.refuse_next = True, None
        self.give(Finish())
        for _ in range(400):
            if is_finished(self.state):
                return
            self.seconds += 900
            self.give(Tick())
            while self.up:
                self.do(("hear", 0))
            while self.down:
                self.do(("answer", 0))
        raise AssertionError(f"not finished: {self.state}")


#: (what, how often): mostly a day at work, now and then a blow.
OPS = {
    "time": 30, "hear": 30, "answer": 30, "arrive": 8, "hear twice": 4, "answer twice": 4, "lose": 3, "lose answer": 3,
    "power cut": 1, "refuse": 1, "no receipts": 1, "reconnect": 1,
}  # fmt: skip


def a_day(seed: int, length: int) -> Iterator[tuple[str, int]]:
    """Ops from a seed: hypothesis chooses the seed, so that a day is long enough for sessions to end in it."""
    lot = random.Random(seed)
    for _ in range(length):
        kind = lot.choices(list(OPS), list(OPS.values()))[0]
        yield kind, lot.randint(0, 300) if kind == "time" else lot.choice((0, 0, 0, lot.randint(0, 200)))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(0, 400),
    profile=st.sampled_from(list(Profile)),
    stoppable=st.booleans(),
    two=st.booleans(),
)
def test_a_storm_and_then_calm(seed, length, profile, stoppable, two, nameplate, new_gateway, at, plan):
    names = ("gw-1", "gw-2") if two and profile is not Profile.STANDING else ("gw-1",)
    storm = Storm(
        plate=nameplate(profile, stoppable=stoppable),
        gateways={name: new_gateway(gateway=GatewayId(name), step=700) for name in names},
        at=at,
        plan=plan,
    )
    for op in a_day(seed, length):
        storm.do(op)
    storm.calm_down()

    modulus = storm.plate.modulus
    state = storm.state
    assert not state.outgoing
    assert all(each.refused is not None for each in state.kept)
    if profile is Profile.STANDING:
        readings = storm.gateways["gw-1"].standing
        assert (state.standing.baseline, state.standing.recorded) == (min(readings)[1], max(readings)[1])
        assert state.standing.recorded == state.register_value
        return
    # Register conservation: uses touch end to start, and together are what the register moved.
    place = START
    for use in storm.finished:
        assert use.start == place
        place = use.end
    assert place == state.register_value
    # Each gateway claims what was delivered under it, no more and no less.
    for name, gateway in storm.gateways.items():
        claimed = sum(each.claimed for each in gateway.open.values())
        assert claimed == sum((use.end - use.start) % modulus for use in storm.finished if use.gateway == name)
        assert all(each.closed for each in gateway.open.values())
