"""The outbox is pruned from its beginning: of what is old, and every reader has passed; the same in both stores."""

import random
from collections.abc import Sequence

import pytest
from ledger_story import EUR, OP, Story

from farthing.clock import Instant
from farthing.ids import AccountId
from farthing.v1 import events_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core.funds import Funding
from farthing_cloud.ledger.store.interface import Cursor, LedgerStore, StoredEvent
from farthing_cloud.ledger.store.postgres import PostgresStore

LATER = Instant(10**15)
READERS = ("documents", "fraud")


class Outbox:
    """A ledger whose events are payments, numbered."""

    def __init__(self, store: LedgerStore) -> None:
        self.store = store
        self.story = Story(store)
        self.published = 0

    async def publish(self, at_us: int) -> None:
        self.published += 1
        funding = Funding(
            operator_id=OP,
            account_id=AccountId("P"),
            currency=EUR,
            amount_micros=1,
            payment_id=str(self.published),
            source="bank/main",
        )
        assert await self.story.ledger.fund(funding, now=Instant(at_us))

    async def rows(self) -> Sequence[StoredEvent]:
        return await self.store.events(Cursor(), 1_000, ())

    async def kept(self) -> list[int]:
        return [int(events_pb2.AccountFunded.FromString(row.value).payment_id) for row in await self.rows()]

    async def passed(self, reader: str, cursor: Cursor) -> None:
        await self.store.events_passed(reader, cursor, now=LATER)

    async def prune(self, before_us: int = LATER, limit: int = 100, readers: Sequence[str] = READERS) -> int:
        return await self.store.prune_events(readers, Instant(before_us), limit)


@pytest.fixture
async def outbox(store: LedgerStore) -> Outbox:
    made = Outbox(store)
    await made.story.open()
    assert await made.kept() == []
    return made


async def test_nothing_goes_while_a_reader_was_never_heard(outbox: Outbox) -> None:
    for _ in range(3):
        await outbox.publish(1)
    last = (await outbox.rows())[-1].cursor
    assert (await outbox.prune(), await outbox.prune(readers=())) == (0, 0)
    await outbox.passed("fraud", last)
    assert await outbox.prune() == 0
    assert await outbox.store.events_pruned() == Cursor()
    await outbox.passed("documents", last)
    assert (await outbox.prune(), await outbox.kept(), await outbox.store.events_pruned()) == (3, [], last)
    assert await outbox.prune() == 0
    # What comes next stands behind what is gone.
    await outbox.publish(1)
    assert (await outbox.rows())[0].cursor > last
    assert await outbox.kept() == [4]


async def test_who_is_furthest_back_is_waited_for_whoever_it_is(outbox: Outbox) -> None:
    for _ in range(5):
        await outbox.publish(1)
    places = [row.cursor for row in await outbox.rows()]
    for reader in READERS:
        await outbox.passed(reader, places[-1])
    # Nobody has named this one.
    await outbox.passed("another", places[1])
    assert (await outbox.prune(), await outbox.kept()) == (2, [3, 4, 5])
    await outbox.passed("another", places[3])
    # Its database was restored: it goes by what it says last.
    await outbox.passed("fraud", places[2])
    assert (await outbox.prune(), await outbox.kept()) == (1, [4, 5])


async def test_what_is_young_stays_and_all_that_came_after_it(outbox: Outbox) -> None:
    for at_us in (10, 20, 99, 30):
        await outbox.publish(at_us)
    for reader in READERS:
        await outbox.passed(reader, (await outbox.rows())[-1].cursor)
    assert (await outbox.prune(20), await outbox.kept()) == (1, [2, 3, 4])
    assert (await outbox.prune(99), await outbox.kept()) == (1, [3, 4])
    assert (await outbox.prune(100, limit=1), await outbox.kept()) == (1, [4])
    assert (await outbox.prune(100, limit=1), await outbox.kept()) == (1, [])


async def test_no_reader_ever_misses_what_it_has_not_passed(outbox: Outbox) -> None:
    """What readers say and when it is pruned in any order; each reads on from where it is, and hears every event once."""
    seeded = random.Random(5)
    heard: dict[str, list[int]] = {reader: [] for reader in READERS}
    at: dict[str, Cursor] = dict.fromkeys(READERS, Cursor())
    pruned = 0
    for step in range(120):
        reader = seeded.choice(READERS)
        match seeded.choice(("publish", "publish", "read", "say", "prune")):
            case "publish":
                await outbox.publish(step)
            case "read":
                for row in await outbox.store.events(at[reader], seeded.randrange(1, 5), ()):
                    at[reader] = row.cursor
                    heard[reader].append(int(events_pb2.AccountFunded.FromString(row.value).payment_id))
            case "say":
                await outbox.passed(reader, at[reader])
            case _:
                pruned += await outbox.prune(max(0, step - seeded.randrange(40)), limit=seeded.randrange(1, 6))
        assert await outbox.store.events_pruned() <= min(at.values())
    assert pruned > 10
    assert len(await outbox.kept()) == outbox.published - pruned
    for reader in READERS:
        assert heard[reader] == list(range(1, len(heard[reader]) + 1))


@pytest.mark.real
async def test_what_commits_late_is_not_taken_away_with_what_was_quick(ledger_pool: Pool) -> None:
    """A reader that claims more than anybody can have read."""
    store = PostgresStore(ledger_pool)
    add = b"INSERT INTO outbox (kind, key, at_us, value, traceparent) VALUES (%s, 'k', 0, '', '')"
    await store.events_passed("fraud", Cursor(transaction_id=2**62, sequence=2**62), now=LATER)
    async with ledger_pool.connection() as slow, ledger_pool.connection() as quick:
        async with slow.transaction():
            await slow.execute(add, ["slow"])
            async with quick.transaction():
                await quick.execute(add, ["quick"])
            assert await store.prune_events(("fraud",), LATER, 10) == 0
        assert [row.kind for row in await store.events(Cursor(), 10, ())] == ["slow", "quick"]
        assert await store.prune_events(("fraud",), LATER, 10) == 2
