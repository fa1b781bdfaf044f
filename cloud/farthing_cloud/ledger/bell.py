"""Wake whoever waits in this process; a wait has an end of its own, for what other processes do."""

import asyncio


class Bell:
    """``ring`` ends every ``wait`` that is under way, and the next one of whoever was busy meanwhile."""

    def __init__(self) -> None:
        self._rung = 0
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something changed."""
        self._rung += 1
        self._event.set()
        self._event = asyncio.Event()

    @property
    def rung(self) -> int:
        """How often it rang: take it before looking, give it to ``wait``."""
        return self._rung

    async def wait(self, seen: int, *, milliseconds: int) -> None:
        """Return when it has rung more often than ``seen``, or after ``milliseconds`` (real)."""
        if self._rung != seen:
            return
        try:
            async with asyncio.timeout(milliseconds / 1_000):
                await self._event.wait()
        except TimeoutError:
            return
