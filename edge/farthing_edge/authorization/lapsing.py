"""A yes lapses: from an instant on no new use begins under it, and what it holds stays (DESIGN, section 2).

    "it **lapses** when no new use may start, but the hold stays until the device's last word" (section 2);
    "A hold is released only by a device-signed end, or by the operator's recorded decision that the device is gone" (section 4);
    "stops new use as soon as any trusted reading says so" (section 4, of a deadline).

Rule 1: the grant names the instant, as far after its intent as the gateway's configuration says, by the clock that dated the intent. So a device whose
clock stands wrong, and goes right, keeps it; whoever begins has the use, and says so with its first reading.
Rule 2: nothing is released by it. Where nothing of a use is known when as much time has passed here, that is written down; its device is asked what became of
it with the next answer it gets, and people see how much is held so.
Rule 3: who has begun in time and was not heard, and who begins too late all the same (a clock that was put back, firmware that does not know the rule), cannot be
told apart by anything that is signed. Use is always billed: from the hold, which is there for it, and then as any other.
"""

from itertools import islice, takewhile

from farthing.clock import Instant
from farthing.device.messages import MAX_COUNT, Intent
from farthing_edge.authorization import events
from farthing_edge.authorization.state import GatewayState

#: Written down at once, at most; more at the next tick, a moment later. A commit of so many small entries delays nobody.
MAX_LAPSED_AT_ONCE = 256


def lapses_at(state: GatewayState, intent: Intent) -> int | None:
    """When a yes to ``intent`` lapses, by the clock that dated it; None where it does not. A one-shot use is its yes: nothing begins later."""
    lapse_us = state.settings.grant_lapse_us
    if not lapse_us or intent.one_shot is not None:
        return None
    return min(MAX_COUNT, intent.at + lapse_us)


def lapse(state: GatewayState, now: Instant) -> tuple[events.Lapsed, ...]:
    """What has lapsed by the later of the clock and what has surely passed: it stops new use. They lapse in the order in which they were given."""
    latest = state.clock.latest(now)
    over = takewhile(lambda each: each[1] <= latest, state.not_begun.items())
    return tuple(events.Lapsed(authorization=name, at=now) for name, _ in islice(over, MAX_LAPSED_AT_ONCE))
