"""A device's clock in a replay that goes as fast as gateways answer: it shows the file's time, and stands while somebody is waited for."""

from farthing.clock import Instant


class FileClock:
    """Business time that only its device moves, forward."""

    def __init__(self, begins_us: Instant) -> None:
        self._now_us = begins_us

    def now(self) -> Instant:
        """The business instant."""
        return self._now_us

    def set_forward(self, to_us: Instant) -> None:
        """Let the time until ``to_us`` pass at once; an instant in the past changes nothing."""
        self._now_us = max(self._now_us, to_us)
