"""Where an intent is said: inside the fence, where the device belongs, and not too far from where its token just was.

Distances are integers: on a sphere of the mean radius, with the longitude shrunk by the cosine of the middle latitude. Over the
reach of a gateway (tens of kilometres) that is exact to a few parts in a thousand, and over more it still tells near from far.
"""

from math import cos, isqrt, radians

from farthing.clock import SECOND_US
from farthing.device.messages import Position
from farthing.refusal import Refusal
from farthing_edge.authorization.asking import Ask
from farthing_edge.authorization.state import GatewayState

#: One degree on a sphere of 6,371,008.8 m (IUGG mean radius).
METRES_PER_DEGREE = 111_195
_MICRO = 1_000_000
_HALF_TURN = 180 * _MICRO
#: Millionths of the cosine of whole degrees of latitude, so that every machine has the same integers.
_COSINES = tuple(round(cos(radians(degree)) * _MICRO) for degree in range(91))


def distance_m(one: Position, other: Position) -> int:
    """Metres between two places, rounded down."""
    north = abs(one.latitude_microdegrees - other.latitude_microdegrees)
    east = abs(one.longitude_microdegrees - other.longitude_microdegrees)
    if east > _HALF_TURN:
        east = 2 * _HALF_TURN - east
    middle = abs(one.latitude_microdegrees + other.latitude_microdegrees) // 2
    degree, rest = divmod(middle, _MICRO)
    low, high = _COSINES[degree], _COSINES[min(degree + 1, 90)]
    east = east * (low + (high - low) * rest // _MICRO) // _MICRO
    return isqrt(north * north + east * east) * METRES_PER_DEGREE // _MICRO


def place_fits(state: GatewayState, ask: Ask) -> Refusal | None:
    """Rule 10 of an intent: the fence, a device that moved, a token that travelled too fast."""
    policy, device = state.policies.place, ask.device
    assert policy is not None  # else the rule is not active
    assert device is not None  # the rules before
    _find(state, ask)
    position, said = ask.position, ask.intent.position
    if policy.fence_radius_m:
        assert policy.centre is not None  # no fence is taken without
        # A device that says nowhere is outside of every fence.
        if position is None or distance_m(position, policy.centre) > policy.fence_radius_m:
            return Refusal.OUTSIDE_FENCE
    if policy.moved_m and said is not None and distance_m(said, device.position or said) > policy.moved_m:
        return Refusal.OUTSIDE_FENCE
    if policy.travel_speed_m_per_h and ask.token is not None and ask.distance_m > policy.travel_distance_m:
        # A clock that went back has given the token no time to travel.
        elapsed_s = max(0, ask.now - state.usage.uses[ask.token.token_id].at) // SECOND_US
        if ask.distance_m * 3600 > policy.travel_speed_m_per_h * elapsed_s:
            return Refusal.IMPOSSIBLE_TRAVEL
    return None


def _find(state: GatewayState, ask: Ask) -> None:
    """Set where it happens, as the device says, else as its record does, and how far that is from where the token was."""
    device, token = ask.device, ask.token
    assert device is not None  # the rules before
    ask.position = ask.intent.position or device.position
    last = None if token is None else state.usage.uses.get(token.token_id)
    if last is not None and last.position is not None and ask.position is not None:
        ask.distance_m = distance_m(last.position, ask.position)


def locate(state: GatewayState, ask: Ask) -> None:
    """As :func:`place_fits` does on its way, for a scorecard without a place policy."""
    if ask.position is None:
        _find(state, ask)
