"""What a gateway knows of the time: what its clock shows, and what has surely passed.

Rule 1: the clock is *trusted* when the kernel says that it is synchronised, or a signed head that was heard in this boot agrees with it; until it
is stepped, or the machine boots. Within a boot it goes by monotonic time, so that one agreement holds.
Rule 2: the *lower bound* of the present is the latest of what was proven: signed, dated words of the cloud, and what a trusted clock showed; with
the time since. Nothing lowers it but a new incarnation, which people decide.
Rule 3: what stops new use goes by ``latest``, the clock or the lower bound, whichever is later. What closes, voids or takes away goes by
``surely``: the lower bound, which a trusted clock is never behind.
"""

from farthing.clock import SECOND_US, Instant

#: A head and a clock that agree: a message takes seconds, a minute is more than any keeps. Real µs.
AGREES_US = 60 * SECOND_US
#: So far ahead of a trusted clock nobody's word is believed: the cloud's clock is wrong then. What it can do until then is to stop use a day early.
#: Business µs.
BELIEVED_AHEAD_US = 24 * 3600 * SECOND_US
#: Before anything was proven.
NO_LEAD_US = -(2**62)


class Timekeeping:
    """What was proven of the time, as numbers that stand still while the clock goes: all are relative to it."""

    __slots__ = (
        "ahead_us",
        "boot_id",
        "doubted_us",
        "known_at",
        "lead_us",
        "offset_us",
        "stepped_us",
        "steps",
        "trusted",
    )

    def __init__(self) -> None:
        #: Of the machine, in this start; empty where nobody says.
        self.boot_id = ""
        #: Wall clock less monotonic time, real µs; None before the first reading.
        self.offset_us: int | None = None
        self.trusted = False
        #: Lower bound less clock: above 0 the clock is behind what was proven.
        self.lead_us = NO_LEAD_US
        #: The part of it that is above 0: asked by every decision.
        self.ahead_us = 0
        #: The lower bound when it was last written down: it outlives a boot.
        self.known_at = Instant(0)
        #: Steps that were seen since the journal began, and the last one, business µs.
        self.steps = 0
        self.stepped_us = 0
        #: Volatile: how far ahead of a trusted clock the cloud's last word was that was not believed; 0 where it is believed.
        self.doubted_us = 0

    def latest(self, now: Instant) -> Instant:
        """What stops new use: the clock, or what has surely passed."""
        return Instant(now + self.ahead_us)

    def surely(self, now: Instant) -> Instant:
        """What has surely passed when the clock shows ``now``."""
        return Instant(max(0, now + self.lead_us))

    def judge(self, at: int, *, trusted: bool, lead_us: int) -> None:
        """Take over a judgement made when the clock showed ``at``."""
        self.trusted = trusted
        self.lead_us = lead_us
        self.ahead_us = max(0, lead_us)
        self.known_at = Instant(max(self.known_at, at + lead_us))
