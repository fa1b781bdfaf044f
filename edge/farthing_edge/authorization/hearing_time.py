"""Readings of the clock, and what the cloud's dated words say of it: whether it is trusted, and what has surely passed.

Rule 1: a dated word is late, never early: what it says has passed. It lowers nothing, however old it is.
Rule 2: only a head confirms a clock: the cloud signs it when it is asked. Directives and receipts may be old.
Rule 3: a clock that is behind what was signed is not trusted, whoever synchronises it.
"""

from farthing.clock import STEP_US, Instant
from farthing_edge.authorization import commands, events
from farthing_edge.authorization.decision import NOTHING, Decision
from farthing_edge.authorization.events import Event
from farthing_edge.authorization.state import GatewayState, TariffEntry
from farthing_edge.authorization.timekeeping import AGREES_US, BELIEVED_AHEAD_US, NO_LEAD_US


def read_at_start(state: GatewayState, command: commands.Started, now: Instant) -> tuple[bool, int, int]:
    """(trusted, lead, step) of the clock when a process begins, business µs: within one boot it is the clock of the process before.

    After a boot only what was proven before holds: a machine without a battery for its clock begins anywhere.
    """
    before, rate = state.clock, state.settings.clock_rate
    trusted, lead_us, step_us = False, NO_LEAD_US, 0
    if command.boot_id and command.boot_id == before.boot_id and before.offset_us is not None:
        strayed_us = command.real_us - command.monotonic_us - before.offset_us
        if abs(strayed_us) > STEP_US:
            step_us = strayed_us * rate
        trusted, lead_us = before.trusted and not step_us, before.lead_us - step_us
    # An older program's journal has no lower bound but its head.
    lead_us = max(lead_us, (before.known_at or state.head_at) - now)
    if before.trusted:
        lead_us = max(lead_us, command.journal_at - now)
    return *_judged(state, trusted or command.synchronised, lead_us), step_us


def _judged(state: GatewayState, trusted: bool, lead_us: int) -> tuple[bool, int]:
    """A clock that is behind what was proven is not trusted, and a trusted one has nothing behind it."""
    if trusted and lead_us <= AGREES_US * state.settings.clock_rate:
        return True, max(0, lead_us)
    return False, lead_us


def decide_clock(state: GatewayState, command: commands.ClockRead, now: Instant) -> Decision:
    """A look at the clock while the process runs: a step of it, or that the kernel has begun to vouch for it."""
    clock, rate = state.clock, state.settings.clock_rate
    if command.stepped_us:
        step_us = command.stepped_us * rate
        trusted, lead_us = _judged(state, command.synchronised, clock.lead_us - step_us)
        return Decision(
            (
                events.ClockStepped(
                    at=now,
                    step_us=step_us,
                    boot_id=command.boot_id,
                    real_us=command.real_us,
                    monotonic_us=command.monotonic_us,
                    trusted=trusted,
                    lead_us=lead_us,
                ),
            )
        )
    if clock.trusted or not command.synchronised:
        return NOTHING
    trusted, lead_us = _judged(state, True, clock.lead_us)
    if not trusted:
        return NOTHING
    return Decision((events.ClockJudged(at=now, trusted=True, lead_us=lead_us, by="kernel"),))


def is_believed(state: GatewayState, at: int, now: Instant) -> bool:
    """Whether the cloud, or a device, may have said something at ``at``: not where that is more than a day ahead of a clock that is trusted."""
    ahead_us = at - now
    # Nearly always: asked for every statement.
    if ahead_us <= BELIEVED_AHEAD_US:
        return True
    return not state.clock.trusted or ahead_us <= AGREES_US * state.settings.clock_rate


def heard_at(state: GatewayState, at: int, now: Instant, *, by: str, confirms: bool = False) -> tuple[Event, ...]:
    """What follows from the cloud's signed word of the instant ``at``; ``confirms``: it was signed just now."""
    clock = state.clock
    said_us = at - now
    if not is_believed(state, at, now):
        return (events.WordDoubted(ahead_us=said_us),)
    agrees_us = AGREES_US * state.settings.clock_rate
    trusted, lead_us = _judged(
        state, clock.trusted or (confirms and said_us >= -agrees_us), max(clock.lead_us, said_us)
    )
    doubts = (events.WordDoubted(ahead_us=0),) if clock.doubted_us else ()
    if trusted != clock.trusted or lead_us - clock.lead_us > agrees_us:
        return (events.ClockJudged(at=now, trusted=trusted, lead_us=lead_us, by=by), *doubts)
    if lead_us > clock.lead_us:
        # Seconds: not worth an entry each.
        return (events.ClockLed(at=now, lead_us=lead_us), *doubts)
    return doubts


def begins_anew(state: GatewayState, at: int, now: Instant) -> tuple[Event, ...]:
    """What follows from a welcome to a new incarnation, dated ``at``: a lower bound that was moved beyond it begins there again."""
    lead_us = at - now
    if state.clock.lead_us <= lead_us + AGREES_US * state.settings.clock_rate or state.clock.trusted:
        return heard_at(state, at, now, by="directive")
    return (events.ClockJudged(at=now, trusted=False, lead_us=lead_us, by=events.BY_INCARNATION),)


def lacks_a_clock(state: GatewayState, tariff: TariffEntry, unit: str) -> bool:
    """Whether a new use would be priced by date or time of day while no clock is trusted, and the operator named no fall-back."""
    if state.clock.trusted or state.settings.prices_by_untrusted_clock:
        return False
    return tariff.goes_by_calendar(unit) or tariff.name.tariff_id in state.dated_tariffs
