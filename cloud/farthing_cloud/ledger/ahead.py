"""Steps of one stream that work side by side, each an item ahead of the next.

Rule 1: results leave in the order of their items; what a step raises leaves in the place of its item, after all before it.
Rule 2: a step holds at most two results: one that waits to be taken, and one that waits to wait.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")
U = TypeVar("U")

#: Results that wait for the step after. One keeps both busy; more would only be memory.
WAITING: Final = 1


@dataclass(frozen=True, slots=True)
class _End:
    """Nothing follows; ``cause`` is what ended it early."""

    cause: Exception | None


async def ahead(source: AsyncIterable[T], step: Callable[[T], Awaitable[U]]) -> AsyncGenerator[U]:
    """``step`` of each item in order, the next one begun while the caller is busy with the last.

    Close it (``contextlib.aclosing``) when it is not read to its end: its task ends then, and is waited for.
    """
    results: asyncio.Queue[U | _End] = asyncio.Queue(WAITING)

    async def work() -> None:
        end = _End(None)
        try:
            async for item in source:
                await results.put(await step(item))
        except Exception as err:  # noqa: BLE001  # not handled here: raised to the reader, in its place
            end = _End(err)
        await results.put(end)

    task = asyncio.create_task(work())
    try:
        while not isinstance(result := await results.get(), _End):
            yield result
        if result.cause is not None:
            raise result.cause
    finally:
        task.cancel()
        await asyncio.wait((task,))
