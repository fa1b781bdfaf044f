"""How much an account lately spent at a gateway: what the next quota is sized by (DESIGN 5.4).

A sum that halves with every half-life, in integers: whole half-lives shift, the rest of one goes down in a straight line. So it never
grows by itself, never falls below half in one half-life, and two machines compute the same.
"""

from typing import Final

from farthing.clock import SECOND_US, Instant
from farthing.money import MAX_AMOUNT_MICROS
from farthing_cloud.ledger.core.rows import Demand

#: Business time. Steady spending then stands at 1.44 hours' worth: a quota of that size lasts a gateway over most cuts of its uplink, and a
#: rush is forgotten by the next meal.
HALF_LIFE_US: Final = 3600 * SECOND_US


def decayed(demand: Demand | None, *, now: Instant) -> int:
    """What is left of it now, micros. A clock that went back takes nothing off."""
    if demand is None:
        return 0
    whole, rest_us = divmod(max(0, now - demand.at), HALF_LIFE_US)
    if whole >= demand.micros.bit_length():
        return 0
    start = demand.micros >> whole
    return start - start * rest_us // (2 * HALF_LIFE_US)


def spent(demand: Demand | None, micros: int, *, now: Instant) -> Demand:
    """After ``micros`` more were spent."""
    at = now if demand is None else Instant(max(now, demand.at))
    return Demand(micros=min(MAX_AMOUNT_MICROS, decayed(demand, now=now) + micros), at=at)
