"""Two clocks: business time, which prices and dates use, and monotonic real time for everything that waits.

Rule 1: both enter at the composition root and are arguments everywhere else.
Rule 2: business time runs at rate 1 from the real epoch unless the configuration says ``simulation = true``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NewType

#: Microseconds since 1970-01-01T00:00:00Z, business time.
Instant = NewType("Instant", int)

SECOND_US = 1_000_000
QUARTER_US = 15 * 60 * SECOND_US
#: A simulation faster than this outruns the group commit: a hundred days in a minute.
MAX_RATE = 144_000


class ClockError(ValueError):
    """A business clock that the configuration does not allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessClock:
    """Business time as a straight line over real time.

    ``epoch_us`` is the business instant at the real instant ``real_epoch_us`` (both µs since 1970), ``rate`` business
    seconds pass per real second. The wall clock is read once, at ``anchor``; after that only monotonic time counts.
    """

    epoch_us: int
    real_epoch_us: int
    rate: int
    anchor_real_us: int
    anchor_monotonic_ns: int
    monotonic_ns: Callable[[], int]

    def now(self) -> Instant:
        """The business instant."""
        real_us = self.anchor_real_us + (self.monotonic_ns() - self.anchor_monotonic_ns) // 1_000
        return Instant(self.epoch_us + (real_us - self.real_epoch_us) * self.rate)


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
    )


def quarter_of(at: Instant) -> int:
    """The quarter of an hour UTC in which ``at`` lies, counted from 1970."""
    return at // QUARTER_US
