"""Two clocks: business time, which prices and dates use, and monotonic real time for everything that waits.

Rule 1: both enter at the composition root and are arguments everywhere else.
Rule 2: business time runs at rate 1 from the real epoch unless the configuration says ``simulation = true``.
Rule 3: within one boot it goes by monotonic time. A step of the wall clock (NTP, a person) is never followed in silence: whoever owns the
clock asks ``strayed_us``, writes the step down, and goes on with ``put_on``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NewType, Self

#: Microseconds since 1970-01-01T00:00:00Z, business time.
Instant = NewType("Instant", int)

SECOND_US = 1_000_000
QUARTER_US = 15 * 60 * SECOND_US
#: The year 9000, short of where calendars end: no clock that works shows it.
END_OF_DATES = Instant(7_030 * 365 * 86_400 * SECOND_US)
#: A simulation faster than this outruns the group commit: a hundred days in a minute.
MAX_RATE = 144_000
#: A wall clock further than this from monotonic time has been stepped: slewing (NTP, leap smears) moves both alike.
STEP_US = 100_000
#: Between two readings of monotonic time no longer than this, one of the wall clock belongs to both.
_AT_ONCE_NS = 10_000_000
_TRIES = 3


class ClockError(ValueError):
    """A business clock that the configuration does not allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessClock:
    """Business time as a straight line over real time.

    ``epoch_us`` is the business instant at the real instant ``real_epoch_us`` (both µs since 1970), ``rate`` business
    seconds pass per real second. The wall clock (``wall_ns``, ns since 1970; None: there is none to stray from) is read at ``anchor``; after that
    only monotonic time counts.
    """

    epoch_us: int
    real_epoch_us: int
    rate: int
    anchor_real_us: int
    anchor_monotonic_ns: int
    monotonic_ns: Callable[[], int]
    wall_ns: Callable[[], int] | None = None

    def now(self) -> Instant:
        """The business instant."""
        real_us = self.anchor_real_us + (self.monotonic_ns() - self.anchor_monotonic_ns) // 1_000
        return Instant(self.epoch_us + (real_us - self.real_epoch_us) * self.rate)

    @property
    def offset_us(self) -> int:
        """What the wall clock showed more than monotonic time at the anchor, real µs: the same until somebody steps it, or the machine boots."""
        return self.anchor_real_us - self.anchor_monotonic_ns // 1_000

    def strayed_us(self) -> int:
        """By how much the wall clock has been stepped since the anchor, real µs; 0 for less than ``STEP_US``. No system call on Linux (vDSO)."""
        wall_ns = self.wall_ns
        if wall_ns is None:
            return 0
        strayed_us = (wall_ns() - self.monotonic_ns()) // 1_000 - self.offset_us
        if -STEP_US <= strayed_us <= STEP_US:
            return 0
        # Either a step, or the processor was elsewhere between the two.
        for _ in range(_TRIES):
            before_ns = self.monotonic_ns()
            shown_ns = wall_ns()
            if self.monotonic_ns() - before_ns <= _AT_ONCE_NS:
                strayed_us = (shown_ns - before_ns) // 1_000 - self.offset_us
                return strayed_us if abs(strayed_us) > STEP_US else 0
        return 0

    def put_on(self, real_us: int) -> Self:
        """The clock from here on, by ``real_us`` later (or earlier)."""
        return replace(self, anchor_real_us=self.anchor_real_us + real_us)


def real_clock() -> BusinessClock:
    """Business time as it is."""
    now_us = time.time_ns() // 1_000
    return BusinessClock(
        epoch_us=now_us,
        real_epoch_us=now_us,
        rate=1,
        anchor_real_us=now_us,
        anchor_monotonic_ns=time.monotonic_ns(),
        monotonic_ns=time.monotonic_ns,
        wall_ns=time.time_ns,
    )


def simulated_clock(*, epoch_us: int, real_epoch_us: int, rate: int) -> BusinessClock:
    """A fast clock that several processes share; raise ``ClockError`` for a rate outside 1..``MAX_RATE``."""
    if not 1 <= rate <= MAX_RATE:
        raise ClockError(f"the business clock's rate must be 1 to {MAX_RATE}, not {rate}")
    return BusinessClock(
        epoch_us=epoch_us,
        real_epoch_us=real_epoch_us,
        rate=rate,
        anchor_real_us=time.time_ns() // 1_000,
        anchor_monotonic_ns=time.monotonic_ns(),
        monotonic_ns=time.monotonic_ns,
        wall_ns=time.time_ns,
    )


def is_date(at: int) -> bool:
    """Whether a calendar of any time zone has the instant ``at``, and it can be written down as a date."""
    return 0 <= at < END_OF_DATES


def quarter_of(at: Instant) -> int:
    """The quarter of an hour UTC in which ``at`` lies, counted from 1970."""
    return at // QUARTER_US
