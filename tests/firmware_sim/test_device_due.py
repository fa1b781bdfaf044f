"""A clock set forward to the next due instant gives the very statements that a clock which ran there gives."""

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import decode_statement
from farthing.ids import GatewayId
from farthing_firmware_sim.device.due import next_due_us
from farthing_firmware_sim.device.state import new_state
from farthing_firmware_sim.device.step import step
from farthing_firmware_sim.device.values import Answered, Arrive, Draw, Input, Moment, Profile, Tick

BEGIN_US = 1_772_420_400 * SECOND_US


def play(plate: Any, gateway: Any, first: Input, *, ticks_between: int, until_us: int) -> list[tuple[str, int, int]]:
    """(kind, at, value) of everything said until ``until_us``, looking ``ticks_between`` times between due instants."""
    now_us, said = BEGIN_US, []
    state = new_state(plate, register_value=500, now=Moment(business_us=Instant(now_us), real_us=0))
    given: list[Input] = [first]
    while True:
        while given:
            outcome = step(plate, state, given.pop(), now=Moment(business_us=Instant(now_us), real_us=0))
            state = outcome.state
            for send in outcome.sends:
                statement = decode_statement(send.payload)
                said.append((statement.kind, statement.at, statement.register.value))
                answer, grant = gateway.hear(send.payload)
                given.append(Answered(gateway=GatewayId("gw-1"), answer=answer, grant=grant))
        due_us = next_due_us(plate, state)
        if due_us is None or due_us > until_us:
            return said
        assert due_us > now_us or ticks_between == 0 or state.outgoing == ()
        for tick in range(ticks_between):
            between = Instant(now_us + (due_us - now_us) * (tick + 1) // (ticks_between + 1))
            outcome = step(plate, state, Tick(), now=Moment(business_us=between, real_us=0))
            assert not outcome.sends, "nothing is due before it is due"
            state = outcome.state
        now_us = max(now_us, due_us)
        given = [Tick()]


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the fixtures are factories
@given(
    target=st.integers(1, 20_000),
    rate=st.integers(1, 11_000),
    stay_s=st.integers(1, 20_000),
    covered=st.integers(1, 4_000),
    ticks=st.integers(1, 5),
)
def test_a_session(nameplate, plan, new_gateway, target, rate, stay_s, covered, ticks):
    brought = replace(plan(target=target, stay_s=stay_s), rate_per_hour=rate)
    until_us = BEGIN_US + 30_000 * SECOND_US
    runs = [
        play(nameplate(), new_gateway(step=covered), Arrive(plan=brought), ticks_between=between, until_us=until_us)
        for between in (0, ticks)
    ]
    assert runs[0] == runs[1]
    kinds = [kind for kind, _, _ in runs[0]]
    assert (kinds[0], kinds[-1]) == ("intent", "end")
    assert runs[0][-1][1] == BEGIN_US + stay_s * SECOND_US
    used = runs[0][-1][2] - 500
    assert used == min(target, min(rate, 11_000) * stay_s // 3_600) or covered * len(kinds) >= used


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the fixtures are factories
@given(rate=st.integers(0, 20_000), ticks=st.integers(1, 5))
def test_a_standing_meter(nameplate, new_gateway, rate, ticks):
    until_us = BEGIN_US + 10_000 * SECOND_US
    runs = [
        play(
            nameplate(Profile.STANDING),
            new_gateway(),
            Draw(rate_per_hour=rate),
            ticks_between=between,
            until_us=until_us,
        )
        for between in (0, ticks)
    ]
    assert runs[0] == runs[1]
    assert [at for _, at, _ in runs[0]] == list(range(BEGIN_US, until_us + 1, 900 * SECOND_US))
    assert runs[0][-1][2] == 500 + min(rate, 11_000) * (runs[0][-1][1] - BEGIN_US) // (3_600 * SECOND_US)


def test_nothing_is_due_where_only_others_bring_something(nameplate):
    plate = nameplate()
    assert next_due_us(plate, new_state(plate, register_value=0, now=Moment(business_us=Instant(0), real_us=0))) is None
