"""What is asked of the engine: a command and who waits for what becomes of it, and what bounds all of them."""

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from farthing.device.messages import Answer
from farthing_edge.authorization.commands import Command, DeviceStatement


class Waiting(Protocol):
    """Who waits for what becomes of a command; a future of asyncio's is one."""

    def done(self) -> bool:
        """Whether it has its answer, or no longer wants it."""
        ...

    def set_result(self, answer: Answer | None, /) -> None:
        """What follows is durable: the answer to a statement, None to all others."""
        ...

    def set_exception(self, err: BaseException, /) -> None:
        """It is not known what became of it."""
        ...


class EngineError(Exception):
    """The engine has stopped: nothing more is decided in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What bounds the engine. Times are real."""

    #: Commands that wait: at 5,000 decisions a second, under a second of work; beyond it "later" is the honest answer.
    queue: int = 4_096
    #: Commands in one commit. Nobody is heard while it is decided, and nobody of it answered before the token has signed all of its grants: 64 are some 15 ms of
    #: each after a stall, and a commit of so many is no dearer for each than one of more.
    group: int = 64
    #: Statements that wait for a quota at once, and for how long each.
    parked_for_quota: int = 1_024
    quota_wait_ms: int = 1_500
    #: How often time itself is a command: quotas that are over, accounts that are low.
    tick_ms: int = 250
    #: What "later" tells a device to wait.
    retry_after_ms: int = 500
    #: Longest that a batch's detail waits for a moment without statements: a site that is never idle is proven all the same.
    detail_waits_ms: int = 2_000
    #: Grants being signed at once: the token makes some 5,000 a second, so a tenth of a second of its work.
    signing: int = 512


@dataclass(slots=True)
class Item:
    """A command and who waits for its answer."""

    command: Command
    waiting: Waiting
    #: Monotonic nanoseconds after which a statement no longer waits for a quota; 0 before it does.
    deadline_ns: int = 0
    #: It waits for the cloud's word, and is decided with what is there once it came.
    waits_once: bool = False

    def resolve(self, answer: Answer | None) -> None:
        """Say what became of it, unless that was said."""
        if not self.waiting.done():
            self.waiting.set_result(answer)

    def fail(self, err: EngineError) -> None:
        """It is not known what became of it."""
        if not self.waiting.done():
            self.waiting.set_exception(err)

    def no_longer_waiting(self) -> "Item":
        """The item, to be decided with what is there."""
        if isinstance(self.command, DeviceStatement):
            self.command = replace(self.command, may_wait=False)
        return self


class Bell:
    """Wakes everybody who waits for something to have changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Return at the next ring."""
        await self._event.wait()
