"""Steps of one stream that work side by side, each an item ahead of the next.

Rule 1: results leave in the order of their items; what a step raises leaves in the place of its item, after all before it.
Rule 2: a step holds at most two results: one that waits to be taken, and one that waits to wait; what waits to be gathered has a bound.
"""

import asyncio
from collections import deque
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


async def gathered(source: AsyncIterable[T], weight: Callable[[T], int], most: int) -> AsyncGenerator[list[T]]:
    """What waits in ``source``, together: one item at least, and no more than weigh ``most`` with it.

    The source is read ahead, as far as what waits weighs less than ``most``: nothing may weigh nothing. Close it as :func:`ahead`.
    """
    waiting: deque[T | _End] = deque()
    weighs = 0
    changed = asyncio.Condition()

    async def put(item: T | _End, weight_of_it: int) -> None:
        nonlocal weighs
        async with changed:
            await changed.wait_for(lambda: weighs < most)
            waiting.append(item)
            weighs += weight_of_it
            changed.notify_all()

    async def work() -> None:
        end = _End(None)
        try:
            async for item in source:
                await put(item, weight(item))
        except Exception as err:  # noqa: BLE001  # as above
            end = _End(err)
        await put(end, 0)

    task = asyncio.create_task(work())
    try:
        while True:
            together: list[T] = []
            async with changed:
                await changed.wait_for(lambda: bool(waiting))
                taken = 0
                while waiting and not isinstance(item := waiting[0], _End):
                    if together and taken + weight(item) > most:
                        break
                    together.append(item)
                    waiting.popleft()
                    taken += weight(item)
                weighs -= taken
                changed.notify_all()
            if together:
                yield together
            elif isinstance(end := waiting[0], _End):
                if end.cause is not None:
                    raise end.cause
                return
    finally:
        task.cancel()
        await asyncio.wait((task,))
