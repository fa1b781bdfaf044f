"""How long to wait before trying again: doubled each time up to a cap, with jitter, so that a site does not come back as one."""

import random
from collections.abc import Callable


class Backoff:
    """Waits in seconds: half of it fixed, half of it by chance ("equal jitter"); ``reset`` after a success."""

    __slots__ = ("_chance", "_least_s", "_most_s", "_next_s")

    def __init__(
        self,
        *,
        least_s: float,
        most_s: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._next_s = least_s
        self._chance = chance

    def next_s(self) -> float:
        """The wait before the next attempt."""
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, self._most_s)
        return wait_s / 2 + wait_s / 2 * self._chance()

    def reset(self) -> None:
        """The last attempt succeeded."""
        self._next_s = self._least_s
