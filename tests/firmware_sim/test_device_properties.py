"""Whatever the network and the power do: counters, bytes, registers and limits hold, and in the end nothing is owed."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.ids import GatewayId
from farthing_firmware_sim.device.values import Profile

START = 999_999_500  # the register turns over in the middle


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(0, 400),
    profile=st.sampled_from(list(Profile)),
    stoppable=st.booleans(),
    two=st.booleans(),
)
def test_a_storm_and_then_calm(seed, length, profile, stoppable, two, storm, day, nameplate, new_gateway, at, plan):
    names = ("gw-1", "gw-2") if two and profile is not Profile.STANDING else ("gw-1",)
    world = storm(
        plate=nameplate(profile, stoppable=stoppable),
        gateways={name: new_gateway(gateway=GatewayId(name), step=700) for name in names},
        at=at,
        plan=plan,
        start=START,
    )
    for op in day(seed, length):
        world.do(op)
    world.calm_down()

    modulus = world.plate.modulus
    state = world.state
    assert not state.outgoing
    assert all(each.refused is not None for each in state.kept)
    if profile is Profile.STANDING:
        readings = world.gateways["gw-1"].standing
        assert (state.standing.baseline, state.standing.recorded) == (min(readings)[1], max(readings)[1])
        assert state.standing.recorded == state.register_value
        return
    # Register conservation: uses touch end to start, and together are what the register moved.
    place = START
    for use in world.finished:
        assert use.start == place
        place = use.end
    assert place == state.register_value
    # Each gateway claims what was delivered under it, no more and no less.
    for name, gateway in world.gateways.items():
        claimed = sum(each.claimed for each in gateway.open.values())
        assert claimed == sum((use.end - use.start) % modulus for use in world.finished if use.gateway == name)
        assert all(each.closed for each in gateway.open.values())
