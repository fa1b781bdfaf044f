"""The one thread that uses the journal: a call goes there and its outcome comes back, with as little on the way as there can be.

A pool's executor does the same with two futures, a work item and a wake-up for each call; a commit is asked for hundreds of times a second.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

from farthing.hsm.thread import Outcome, Told, ToLoop

T = TypeVar("T")
_Send: TypeAlias = Callable[[Told, Any, BaseException | None], None]


class JournalThread:
    """Calls one after the other, each with its outcome for the loop that made it. Starts at once; ``close`` ends it."""

    def __init__(self) -> None:
        self._to_loop = ToLoop.of(asyncio.get_running_loop())
        # Bounded by who asks: the writer waits for each call, and beside it there are a handful of tasks.
        self._calls: SimpleQueue[tuple[_Send, Told, Callable[..., Any], tuple[object, ...]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def ask(self, call: Callable[..., T], *arguments: object) -> "asyncio.Future[T]":
        """The result of ``call``. Once asked it is done, whether or not anybody still waits for it."""
        future: Outcome[T] = Outcome(loop=asyncio.get_running_loop())
        self._calls.put((self._to_loop.send, future.settle, call, arguments))
        return future

    def tell(self, told: Told, call: Callable[..., object], *arguments: object) -> None:
        """``told`` hears, on the loop, what became of ``call``. What of the token's work could not be used before comes with it (``ToLoop.expect``)."""
        self._to_loop.expect()
        self._calls.put((self._to_loop.send_expected, told, call, arguments))

    def soon(self, call: Callable[[], None]) -> None:
        """On the loop: call it at the end of the turn that tells of outcomes, if this is one; else in the loop's next turn."""
        self._to_loop.soon(call)

    def close(self) -> None:
        """Let the thread end, after what was asked before."""
        self._calls.put(None)

    def _run(self) -> None:
        while (asked := self._calls.get()) is not None:
            send, told, call, arguments = asked
            try:
                result = call(*arguments)
            except BaseException as err:  # noqa: BLE001  # whatever it is belongs to who asked
                send(told, None, err)
            else:
                send(told, result, None)
            del asked, send, told, call, arguments
