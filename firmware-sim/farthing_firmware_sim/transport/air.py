"""The bad stretch between a device and its transport: messages are lost, doubled and overtaken, from a seed.

Rule 1: both directions pass through it. Rule 2: what is decided depends on the seed and the order of messages only. Rule 3: what
is under way is bounded; beyond that it is lost, as on any air.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from farthing_firmware_sim.config import Network

#: A device has a handful of statements unanswered; this many copies in the air are a storm of our own making.
MAX_UNDER_WAY = 64
_PPM = 1_000_000

Passage: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Air:
    """Lets messages of one device pass, or not."""

    def __init__(self, *, network: Network, lot: random.Random, tasks: asyncio.TaskGroup) -> None:
        self._network = network
        self._lot = lot
        self._tasks = tasks
        self._under_way = 0
        self.counts: Counter[str] = Counter()

    def carry(self, passage: Passage) -> None:
        """Let one message pass: run ``passage`` once, twice, later or never."""
        network = self._network
        self.counts["messages"] += 1
        if self._happens(network.loss_ppm):
            self.counts["lost"] += 1
            return
        copies = 1
        if self._happens(network.duplicate_ppm):
            self.counts["duplicated"] += 1
            copies = 2
        for _ in range(copies):
            delay_s = 0.0
            if self._happens(network.reorder_ppm):
                self.counts["reordered"] += 1
                delay_s = self._lot.randint(1, network.reorder_ms) / 1_000
            if self._under_way >= MAX_UNDER_WAY:
                self.counts["crowded out"] += 1
                continue
            self._under_way += 1
            self._tasks.create_task(self._pass(passage, delay_s))

    async def _pass(self, passage: Passage, delay_s: float) -> None:
        try:
            if delay_s:
                await asyncio.sleep(delay_s)
            await passage()
        finally:
            self._under_way -= 1

    def _happens(self, ppm: int) -> bool:
        return ppm > 0 and self._lot.randrange(_PPM) < ppm
