"""Steps of a stream side by side: in order, bounded, and nothing left behind."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from farthing.v1 import batch_pb2
from farthing_cloud.ledger.ahead import ahead, gathered
from farthing_cloud.ledger.door import MESSAGE_WEIGHT, weight_of


async def numbers(count: int, taken: list[int]) -> AsyncGenerator[int]:
    for number in range(count):
        taken.append(number)
        yield number


async def test_the_next_step_begins_while_the_last_is_under_way() -> None:
    second_began, first_may_end = asyncio.Event(), asyncio.Event()

    async def early(number: int) -> int:
        if number == 1:
            second_began.set()
        return number

    async def late(number: int) -> int:
        if number == 0:
            # The late step of the first item ends only when the early one of the second has begun.
            await second_began.wait()
            first_may_end.set()
        return number * 10

    async with aclosing(ahead(numbers(5, []), early)) as read, aclosing(ahead(read, late)) as results:
        assert [result async for result in results] == [0, 10, 20, 30, 40]
    assert first_may_end.is_set()


async def test_what_a_step_raises_comes_after_the_results_before_it() -> None:
    async def step(number: int) -> int:
        if number == 2:
            raise ValueError("the third")
        return number

    async def same(number: int) -> int:
        return number

    taken: list[int] = []
    async with aclosing(ahead(numbers(9, taken), step)) as read, aclosing(ahead(read, same)) as results:
        assert [await anext(results), await anext(results)] == [0, 1]
        with pytest.raises(ValueError, match="the third"):
            await anext(results)
    assert taken == [0, 1, 2]


async def test_it_is_a_bounded_number_of_items_ahead() -> None:
    taken: list[int] = []
    waiting = asyncio.Event()

    async def step(number: int) -> int:
        if number == 2:
            waiting.set()
        return number

    async with aclosing(ahead(numbers(100, taken), step)) as results:
        assert await anext(results) == 0
        await waiting.wait()
        # One result waits in the queue, one to get into it: no third is begun, however often others run.
        for _ in range(50):
            await asyncio.sleep(0)
        assert taken == [0, 1, 2]


async def test_a_reader_that_leaves_ends_the_step_under_way() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def step(number: int) -> int:
        if number == 1:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
        return number

    async def same(number: int) -> int:
        return number

    async with aclosing(ahead(numbers(3, []), step)) as read, aclosing(ahead(read, same)) as results:
        assert await anext(results) == 0
        await began.wait()
    assert ended.is_set()
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_caller_that_is_cancelled_ends_them_too() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def step(number: int) -> int:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return number

    async def read() -> None:
        async with aclosing(ahead(numbers(3, []), step)) as results:
            async for _ in results:
                pass

    reading = asyncio.create_task(read())
    await began.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ended.is_set()


async def settled() -> None:
    """Whatever can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_waits_is_gathered_up_to_its_weight() -> None:
    taken: list[int] = []
    async with aclosing(gathered(numbers(9, taken), lambda _: 10, 30)) as together:
        first = await anext(together)
        await settled()
        # As much as may wait, and one that waits to wait.
        assert len(taken) == len(first) + 4
        assert await anext(together) == taken[len(first) :][:3]
        rest = [some async for some in together]
    assert [number for some in rest for number in some] == list(range(len(first) + 3, 9))


async def test_what_weighs_more_than_the_most_comes_alone() -> None:
    async with aclosing(gathered(numbers(3, []), lambda number: 100 if number == 1 else 1, 30)) as together:
        assert [some async for some in together] == [[0], [1], [2]]


async def test_batches_that_say_nothing_are_not_read_without_end() -> None:
    read = 0

    async def source() -> AsyncGenerator[batch_pb2.SignedBatch]:
        nonlocal read
        while True:
            read += 1
            yield batch_pb2.SignedBatch()
            await asyncio.sleep(0)

    async with aclosing(gathered(source(), weight_of, 5 * MESSAGE_WEIGHT)) as together:
        first = await anext(together)
        await settled()
        assert read <= len(first) + 6
    signed = batch_pb2.SignedBatch(signature=bytes(5_000), key_id=bytes(3_000))
    assert weight_of(signed) > 8_000


async def test_nobody_waits_for_more_to_gather() -> None:
    more = asyncio.Event()

    async def source() -> AsyncGenerator[int]:
        yield 1
        await more.wait()
        yield 2

    async with aclosing(gathered(source(), lambda _: 1, 30)) as together:
        assert await anext(together) == [1]
        more.set()
        assert await anext(together) == [2]


async def test_what_the_source_raises_comes_after_what_was_gathered() -> None:
    async def source() -> AsyncGenerator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    async with aclosing(gathered(source(), lambda _: 1, 30)) as together:
        so_far: list[int] = []
        while len(so_far) < 2:
            so_far += await anext(together)
        assert so_far == [1, 2]
        with pytest.raises(ValueError, match="the third"):
            await anext(together)
