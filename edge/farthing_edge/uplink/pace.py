"""How much goes up a second, and how long what waits will take.

Rule 1: batches go as soon as something is left, and may take more than that: what they owe, the next ones wait for.
Rule 2: detail saves up all it needs before it goes, so it owes nothing: a batch that comes meanwhile takes what was saved, and detail waits
on. Rule 3: what has to be said at once (quota requests) is never held back; it is only counted.
Rule 4: nothing here knows a clock: times are monotonic nanoseconds, given by the caller.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

#: What may go at once after a pause: a second's worth, so that the average over any few seconds is the cap.
BURST_S: Final = 1
#: What HTTP/2, gRPC and TLS add to a message: frame headers, length prefix, record and tag (RFC 9113 section 4.1, RFC 8446 section 5.2).
OVERHEAD_BYTES: Final = 64
#: The rate at which a backlog drains is that of the last minute.
REMEMBERED_NS: Final = 60 * 10**9
#: Receipts remembered within it; more of them are as good a measure over a shorter time.
REMEMBERED: Final = 256

_SECOND_NS: Final = 10**9


class Bucket:
    """A token bucket over bytes: ``bytes_per_s`` flow in, up to a second's worth, or to what detail saves up for."""

    def __init__(self, *, bytes_per_s: int, now_ns: int) -> None:
        self._rate = bytes_per_s
        self._level_ns = BURST_S * _SECOND_NS
        self._at_ns = now_ns

    def _flow(self, now_ns: int, most_ns: int) -> None:
        # The level is kept in nanoseconds of the rate: whole numbers, whatever the rate is.
        gained = max(0, now_ns - self._at_ns)
        self._at_ns = max(self._at_ns, now_ns)
        self._level_ns = min(self._level_ns + gained, max(most_ns, self._level_ns))

    def _worth_ns(self, size: int) -> int:
        return -(-(size + OVERHEAD_BYTES) * _SECOND_NS // self._rate)

    def take_now(self, size: int, now_ns: int) -> None:
        """Count what went without asking."""
        self._flow(now_ns, BURST_S * _SECOND_NS)
        self._level_ns -= self._worth_ns(size)

    def batch(self, size: int, now_ns: int) -> int:
        """0 where a batch of ``size`` bytes may go, and is counted; else how long it has to wait, ns."""
        self._flow(now_ns, BURST_S * _SECOND_NS)
        if self._level_ns <= 0:
            return 1 - self._level_ns
        self._level_ns -= self._worth_ns(size)
        return 0

    def detail(self, size: int, now_ns: int) -> int:
        """0 where detail of ``size`` bytes may go, and is counted; else how long it has to wait if nothing else goes, ns."""
        worth = self._worth_ns(size)
        self._flow(now_ns, max(worth, BURST_S * _SECOND_NS))
        if self._level_ns < worth:
            return worth - self._level_ns
        self._level_ns -= worth
        return 0


class Pace:
    """What the uplink's senders wait for; without a cap nobody waits."""

    def __init__(
        self,
        bytes_per_s: int | None,
        *,
        now_ns: Callable[[], int],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._now_ns = now_ns
        self._sleep = sleep
        self._bytes_per_s = bytes_per_s
        self._bucket = None if bytes_per_s is None else Bucket(bytes_per_s=bytes_per_s, now_ns=now_ns())

    async def batch(self, size: int) -> None:
        """Return when a batch may go."""
        while self._bucket is not None and (wait_ns := self._bucket.batch(size, self._now_ns())):
            await self._sleep(wait_ns / _SECOND_NS)

    async def detail(self, size: int) -> None:
        """Return when detail may go."""
        while self._bucket is not None and (wait_ns := self._bucket.detail(size, self._now_ns())):
            await self._sleep(wait_ns / _SECOND_NS)

    def at_once(self, size: int) -> None:
        """Count what goes without waiting."""
        if self._bucket is not None:
            self._bucket.take_now(size, self._now_ns())

    def takes_s(self, size: int) -> float:
        """How long a line of this rate needs for so much: what an answer's time limit grows by."""
        return 0.0 if self._bytes_per_s is None else size / self._bytes_per_s


class Progress:
    """How fast receipts come: what a backlog's end is estimated from."""

    def __init__(self) -> None:
        #: (monotonic ns, batches receipted in all, their bytes in all), the oldest first.
        self._seen: deque[tuple[int, int, int]] = deque(maxlen=REMEMBERED)
        self._batches = 0
        self._bytes = 0

    def began(self, now_ns: int) -> None:
        """A connection begins: what was before is no measure of it."""
        self._seen.clear()
        self._seen.append((now_ns, self._batches, self._bytes))

    def receipted(self, batches: int, size: int, now_ns: int) -> None:
        """So many batches, of ``size`` bytes in all, arrived."""
        self._batches += batches
        self._bytes += size
        self._seen.append((now_ns, self._batches, self._bytes))
        while len(self._seen) > 2 and now_ns - self._seen[1][0] >= REMEMBERED_NS:
            self._seen.popleft()

    def bytes_of(self, backlog: int) -> int:
        """What ``backlog`` batches have, if they are as large as those before; 0 before the first receipt."""
        return 0 if not self._batches else backlog * self._bytes // self._batches

    def drains_in_s(self, backlog: int, now_ns: int) -> float:
        """How long until ``backlog`` batches are receipted at the present rate; infinite while nothing moves."""
        if not backlog:
            return 0.0
        if not self._seen:
            return math.inf
        at_ns, batches, _ = self._seen[0]
        moved = self._batches - batches
        return math.inf if not moved else backlog * (now_ns - at_ns) / _SECOND_NS / moved
