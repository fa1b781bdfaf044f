"""The signed scorecard: points for what is known of an intent, tiers of their sum; and the random check with the cloud.

Rule 1: integers only, and nothing that is not in the state, the intent or ``now``.
Rule 2: a tier only ever reduces what the rules before and the money allow.
Rule 3: who is checked cannot be foreseen: the choice is a hash of the intent under a salt that every start draws anew.
"""

import hashlib

from farthing.money import PPM
from farthing.policy import Scorecard
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_edge.authorization.asking import Ask
from farthing_edge.authorization.place import locate
from farthing_edge.authorization.state import GatewayState
from farthing_edge.authorization.usage import hour_of


def risk_is_low(state: GatewayState, ask: Ask) -> Refusal | None:
    """Rule 11 of an intent."""
    scorecard = state.policies.scorecard
    tier = None if scorecard is None else scorecard.tier_of(score(state, ask, scorecard))
    if tier is not None:
        match tier.action:
            case directive_pb2.RISK_ACTION_REFUSE:
                return Refusal.RISK_TOO_HIGH
            case directive_pb2.RISK_ACTION_SHRINK:
                refusal = ask.cap(tier.hold_micros, Refusal.RISK_TOO_HIGH, lasting=True)
                if refusal is not None:
                    return refusal
            case directive_pb2.RISK_ACTION_ONLINE_ONLY:
                if not state.online:
                    return Refusal.RISK_TOO_HIGH
                ask.ask_cloud = (Refusal.RISK_TOO_HIGH,)
    if ask.ask_cloud is None and state.online and is_checked(state, ask):
        ask.ask_cloud = (None,)
    return None


def score(state: GatewayState, ask: Ask, scorecard: Scorecard) -> int:
    """The sum of points."""
    assert ask.token is not None  # the rules before
    assert ask.closing is not None
    points = scorecard.amount.points_of(ask.closing.gross_micros)
    if scorecard.hour_points:
        points += scorecard.hour_points[hour_of(state.time_zone, ask.now)]
    if not state.online:
        points += scorecard.offline_points
    locate(state, ask)
    use = state.usage.uses.get(ask.token.token_id)
    if use is None:
        return points + scorecard.new_token_points
    points += scorecard.recent.points_of(use.recent_count(ask.now))
    return points + scorecard.distance.points_of(ask.distance_m)


def is_checked(state: GatewayState, ask: Ask) -> bool:
    """Whether this intent is among those that wait for the cloud's word; a repeat of it is chosen alike."""
    share_ppm = state.policies.online_check_ppm
    if not share_ppm:
        return False
    if not state.check_salt:
        # A start that drew no salt could be foreseen: everybody is checked.
        return True
    drawn = hashlib.sha256(state.check_salt + ask.command.payload).digest()
    return int.from_bytes(drawn[:8], "big") % PPM < share_ppm
