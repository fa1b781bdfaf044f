"""At least once in, exactly once in effect."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from farthing.v1 import ledger_pb2
from farthing_cloud.events import consumer as consumer_module
from farthing_cloud.events.consumer import Consumer, ConsumerLimits, Event, Place, PoisonEvent, WorldNotReady

pytestmark = pytest.mark.real

QUICK = ConsumerLimits(first_pause_s=0.01, longest_pause_s=0.05)


class Crash(BaseException):
    """The process dies here."""


class Recorder:
    """A handler that writes each event's key; keys say what goes wrong."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.crash_at: str | None = None
        self.not_ready = False
        self.commits = 0
        self.batches: list[int] = []

    async def prepare(self, events: Sequence[Event]) -> None:  # noqa: ARG002 - the handler's signature
        if self.not_ready:
            raise WorldNotReady("a peer is away")

    async def handle(self, connection: Any, events: Sequence[Event]) -> None:
        self.batches.append(len(events))
        for event in events:
            await connection.execute("INSERT INTO effect (key) VALUES (%s)", (event.key,))
            if event.key in self.broken:
                raise PoisonEvent(f"{event.key} is broken")
            if event.key == "bug":
                raise ZeroDivisionError("a bug")
            if event.key == self.crash_at:
                raise Crash

    def committed(self) -> None:
        self.commits += 1


def event(transaction_id: int, sequence: int = 0, key: str | None = None) -> Event:
    return Event(
        place=Place(transaction_id=transaction_id, sequence=sequence),
        kind="batch.posted",
        key=key or f"k{transaction_id}.{sequence}",
        at_us=1,
        value=b"value",
        traceparent="",
    )


def row(transaction_id: int, sequence: int = 0, key: str | None = None) -> ledger_pb2.FollowEventsResponse:
    made = event(transaction_id, sequence, key)
    return ledger_pb2.FollowEventsResponse(
        cursor=ledger_pb2.EventCursor(transaction_id=transaction_id, sequence=sequence),
        kind=made.kind,
        key=made.key,
        at_us=made.at_us,
        value=made.value,
    )


async def effects(pool: Any) -> list[str]:
    async with pool.connection() as connection:
        rows = await connection.execute("SELECT key FROM effect ORDER BY id")
        return [key for (key,) in await rows.fetchall()]


@asynccontextmanager
async def running(consumer: Consumer) -> Any:
    task = asyncio.create_task(consumer.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make(pool: Any, ledger_channel: Any, recorder: Recorder) -> Callable[..., Consumer]:
    def build(limits: ConsumerLimits = QUICK) -> Consumer:
        return Consumer(
            name="test", kinds=("batch.posted",), pool=pool, ledger=ledger_channel, handler=recorder, limits=limits
        )

    return build


async def test_what_is_published_is_handled_in_order_once(make, outbox, pool, until, recorder):
    await outbox.publish(*(row(n) for n in range(1, 501)))
    consumer = make()
    async with running(consumer):
        await until(lambda: consumer.state.handled == 500)
        await outbox.publish(row(501))
        await until(lambda: consumer.state.handled == 501)
    assert await effects(pool) == [f"k{n}.0" for n in range(1, 502)]
    assert max(recorder.batches) <= QUICK.batch_events
    assert await consumer.place() == Place(transaction_id=501, sequence=0)


async def test_a_restart_goes_on_from_the_cursor(make, outbox, pool, until):
    await outbox.publish(row(1), row(1, 1))
    first = make()
    async with running(first):
        await until(lambda: first.state.handled == 2)
    await outbox.publish(row(2))
    second = make()
    async with running(second):
        await until(lambda: second.state.handled == 1)
    assert outbox.asked_after == [(0, 0), (1, 1)]
    assert await effects(pool) == ["k1.0", "k1.1", "k2.0"]


async def test_a_ledger_that_sends_everything_again_changes_nothing(make, outbox, pool, until):
    outbox.forgetful = True
    await outbox.publish(*(row(n) for n in range(1, 51)))
    first = make()
    async with running(first):
        await until(lambda: first.state.handled == 50)
    second = make()
    async with running(second):
        await until(lambda: second.state.repeated == 50)
    assert len(await effects(pool)) == 50


async def test_twice_in_one_batch_is_once(make, pool):
    consumer = make()
    await consumer.take([event(1), event(1), event(2), event(1)])
    assert await effects(pool) == ["k1.0", "k2.0"]
    assert (consumer.state.handled, consumer.state.repeated) == (2, 2)


async def test_a_late_one_is_handled_and_the_cursor_stays(make, pool):
    consumer = make()
    await consumer.take([event(10), event(12)])
    await consumer.take([event(11), event(11, 1)])
    assert await effects(pool) == ["k10.0", "k12.0", "k11.0", "k11.1"]
    assert await consumer.place() == Place(transaction_id=12, sequence=0)


async def test_a_crash_between_effect_and_commit_leaves_neither(make, pool, recorder):
    consumer = make()
    recorder.crash_at = "k2.0"
    with pytest.raises(Crash):
        await consumer.take([event(1), event(2)])
    assert await effects(pool) == []
    assert await consumer.place() == Place(transaction_id=0, sequence=0)
    recorder.crash_at = None
    again = make()
    await again.take([event(1), event(2)])
    assert await effects(pool) == ["k1.0", "k2.0"]


async def test_a_crash_after_the_commit_does_nothing_twice(make, pool, recorder, monkeypatch):
    consumer = make()

    def die() -> None:
        raise Crash

    monkeypatch.setattr(recorder, "committed", die)
    with pytest.raises(Crash):
        await consumer.take([event(1)])
    monkeypatch.undo()
    again = make()
    await again.take([event(1)])
    assert await effects(pool) == ["k1.0"]
    assert again.state.repeated == 1


async def test_two_processes_of_one_name_do_it_once(make, pool):
    batch = [event(n) for n in range(1, 101)]
    await asyncio.gather(*(make().take(batch) for _ in range(4)))
    assert await effects(pool) == [f"k{n}.0" for n in range(1, 101)]


@pytest.mark.parametrize("key", ["poison", "bug"])
async def test_a_broken_one_is_parked_and_the_others_go_on(make, outbox, pool, until, recorder, key):
    recorder.broken.add("poison")
    await outbox.publish(row(1), row(2, key=key), row(3))
    consumer = make()
    async with running(consumer):
        await until(lambda: consumer.state.handled == 2)
    assert await effects(pool) == ["k1.0", "k3.0"]
    assert await consumer.parked() == 1
    assert consumer.state.parked == 1


async def test_a_parked_one_can_be_replayed_when_its_cause_has_come(make, pool, recorder):
    recorder.broken.add("k2.0")
    consumer = make()
    await consumer.take([event(1), event(2)])
    assert await consumer.replay_parked() == 0
    assert await consumer.parked() == 1
    recorder.broken.clear()
    assert await consumer.replay_parked() == 1
    assert await consumer.replay_parked() == 0
    assert await consumer.parked() == 0
    assert await effects(pool) == ["k1.0", "k2.0"]
    await consumer.take([event(2)])
    assert await effects(pool) == ["k1.0", "k2.0"]


async def test_parked_ones_are_tried_again_by_themselves(make, outbox, pool, until, recorder):
    recorder.broken.add("k1.0")
    await outbox.publish(row(1))
    consumer = make(ConsumerLimits(first_pause_s=0.01, longest_pause_s=0.05, replay_interval_s=0.05))
    async with running(consumer):
        await until(lambda: consumer.state.parked == 1)
        recorder.broken.clear()
        await until(lambda: consumer.state.replayed == 1)
    assert await effects(pool) == ["k1.0"]


async def test_too_many_parked_stop_the_consumer_at_its_place(make, outbox, pool, until, recorder):
    recorder.broken |= {"k1.0", "k2.0", "k3.0"}
    await outbox.publish(row(1), row(2))
    consumer = make(ConsumerLimits(first_pause_s=0.01, longest_pause_s=0.05, parked_events=2))
    async with running(consumer):
        await until(lambda: consumer.state.parked == 2)
        await outbox.publish(row(3))
        await until(lambda: "parked" in consumer.state.waits_for)
        assert await consumer.place() == Place(transaction_id=2, sequence=0)
        assert await consumer.parked() == 2
        recorder.broken.clear()
        await until(lambda: consumer.state.handled == 1)
    assert await effects(pool) == ["k3.0"]


async def test_the_inbox_is_bounded_and_what_it_forgot_is_parked_not_done_twice(make, pool):
    consumer = make(ConsumerLimits(inbox_rows=10))
    for n in range(1, 31):
        await consumer.take([event(n)])
    async with pool.connection() as connection:
        (kept,) = await (await connection.execute("SELECT count(*) FROM event_inbox")).fetchone()
    assert kept == 10
    await consumer.take([event(25), event(5)])
    assert len(await effects(pool)) == 30
    assert await consumer.parked() == 1


async def test_it_waits_for_a_peer_and_catches_up(make, outbox, pool, until, recorder):
    recorder.not_ready = True
    await outbox.publish(row(1))
    consumer = make()
    async with running(consumer):
        await until(lambda: "a peer is away" in consumer.state.waits_for)
        assert await effects(pool) == []
        recorder.not_ready = False
        await until(lambda: consumer.state.handled == 1)
    assert consumer.state.parked == 0


async def test_it_waits_for_the_ledger_and_catches_up(make, outbox, pool, until, ledger_server):
    await outbox.publish(row(1))
    consumer = make()
    async with running(consumer):
        await until(lambda: consumer.state.handled == 1)
        await ledger_server.stop()
        await until(lambda: not consumer.state.connected)
        await outbox.publish(row(2))
        await ledger_server.start()
        await until(lambda: consumer.state.handled == 2)
    assert await effects(pool) == ["k1.0", "k2.0"]
    assert consumer.state.waits_for == ""


@pytest.mark.timeout(20)
async def test_a_fault_of_the_reader_itself_is_met_and_not_waited_for(make, outbox, pool, until, recorder, monkeypatch):
    understand = consumer_module._event
    faults = [ZeroDivisionError("a bug")]

    def stumble(response: Any) -> Event:
        if faults:
            raise faults.pop()
        return understand(response)

    monkeypatch.setattr(consumer_module, "_event", stumble)
    await outbox.publish(row(1), row(2))
    consumer = make()
    async with running(consumer):
        await until(lambda: consumer.state.handled == 2)
    assert consumer.state.failures == 1
    assert await effects(pool) == ["k1.0", "k2.0"]


async def test_it_waits_for_the_database_and_catches_up(make, outbox, pool, until):
    await outbox.publish(row(1))
    consumer = make()
    async with running(consumer):
        await until(lambda: consumer.state.handled == 1)
        for n in range(2, 6):
            # Every connection of the pool is cut, again and again, while events come.
            async with pool.connection() as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE pid <> pg_backend_pid() AND datname = current_database()"
                )
            await outbox.publish(row(n))
        await until(lambda: consumer.state.handled == 5)
    assert await effects(pool) == [f"k{n}.0" for n in range(1, 6)]


async def test_the_ledger_hears_how_far_we_have_durably_come(make, outbox, pool, until):
    await outbox.publish(row(1), row(2))
    consumer = make(ConsumerLimits(first_pause_s=0.01, longest_pause_s=0.05, acknowledge_interval_s=0.01))
    async with running(consumer):
        await until(lambda: outbox.passed[-1:] == [(2, 0)])
        # Not with each event, but also while nothing comes.
        said = len(outbox.passed)
        await until(lambda: len(outbox.passed) > said + 1)
    # From where it stands in its own database; also where that was restored meanwhile.
    assert outbox.passed[0] == (0, 0)
    async with pool.connection() as connection:
        await connection.execute("UPDATE event_cursor SET transaction_id = 1")
    said = len(outbox.passed)
    consumer = make()
    async with running(consumer):
        await until(lambda: len(outbox.passed) > said)
        assert outbox.passed[said] == (1, 0)


async def test_where_nothing_has_happened_yet_it_follows_and_is_heard(make, outbox, until):
    consumer = make()
    async with running(consumer):
        await until(lambda: consumer.state.connected and outbox.passed == [(0, 0)])
    assert (consumer.state.failures, consumer.state.waits_for) == (0, "")


async def test_a_ledger_that_cannot_hear_how_far_we_are_is_read_all_the_same(make, outbox, until):
    outbox.deaf = True
    await outbox.publish(row(1))
    consumer = make(ConsumerLimits(first_pause_s=0.01, longest_pause_s=0.05, acknowledge_interval_s=0.01))
    async with running(consumer):
        await until(lambda: consumer.state.handled == 1 and len(outbox.passed) > 3)
        assert (consumer.state.connected, consumer.state.failures) == (True, 0)
