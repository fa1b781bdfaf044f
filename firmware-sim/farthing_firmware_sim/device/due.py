"""When a device's own clock next brings something, if nobody says anything to it until then.

Between two such instants a step changes nothing but the register's count, which is linear in time. So a device that waits for nobody
may have its clock set forward to the next one: that is how years of a file are played in minutes.
"""

from farthing.clock import SECOND_US, Instant
from farthing_firmware_sim.device.values import Nameplate, Profile, Stage, State

_HOUR_US = 3600 * SECOND_US


def next_due_us(nameplate: Nameplate, state: State) -> Instant | None:
    """The business instant of the next reading or end; None where only a payer or an answer brings something."""
    if state.standing is not None:
        return None if state.standing.final_counter is not None else state.standing.due_us
    use = state.use
    if use is None or use.stage is not Stage.USING or nameplate.profile is not Profile.SESSION:
        return None
    due_us = min(use.granted_at_us + use.plan.stay_us, use.report_due_us, *use.readings_due[:1])
    rate = min(use.plan.rate_per_hour, nameplate.rated_per_hour)
    left = use.covered - use.used
    if not use.told_at_limit and 0 < left < use.plan.target - use.used and rate:
        # The limit will be reached before what was wanted: it is reported when it is.
        due_us = min(due_us, state.metered_at_us - (-(left * _HOUR_US - state.register_rest) // rate))
    return Instant(due_us)
