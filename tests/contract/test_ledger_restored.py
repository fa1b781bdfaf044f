"""A ledger's database is replaced by an older one (DESIGN 5.10): nothing lost, doubled or overspent; the same in memory and in PostgreSQL."""

import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import psycopg
import pytest
from ledger_story import CHG, EUR, NOW, OP, SPLIT, TERMS, TOLL, Story, grants, micros, order, seal_all
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId, SiteId
from farthing.v1 import directive_pb2, gateway_sync_pb2
from farthing_cloud.database import Pool, open_pool
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.incarnations import Standing
from farthing_cloud.ledger.core.quotas import QuotaRequest
from farthing_cloud.ledger.core.restoring import LedgerRestoring, Link, Proof, Shown
from farthing_cloud.ledger.core.rows import AccountStatus, Balances, DecisionKind, LedgerState, QuotaStatus
from farthing_cloud.ledger.operations import Greeting, Ledger
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.restored import TakenBack
from farthing_cloud.ledger.store.interface import LedgerStore, StoredDirective
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import PostgresStore

G1, G2 = GatewayId("G1"), GatewayId("G2")
RESTORING = gateway_sync_pb2.QUOTA_ANSWER_LEDGER_RESTORING
A = b"a" * 16


@dataclass
class Disk:
    """A store that can be backed up and restored."""

    store: LedgerStore
    copy: Callable[[], Awaitable[LedgerStore]]
    #: What was copied last.
    backup: LedgerStore | None = None
    #: The restored database, where it is one.
    pools: list[Pool] = field(default_factory=list)

    async def back_up(self) -> None:
        self.backup = await self.copy()


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
def database(request: pytest.FixtureRequest) -> tuple[str, Pool] | None:
    """URL and pool of a ledger in PostgreSQL; None for one in memory."""
    if request.param == "memory":
        return None
    return request.getfixturevalue("database_url"), request.getfixturevalue("ledger_pool")


@pytest.fixture
async def disk(database: tuple[str, Pool] | None) -> AsyncIterator[Disk]:
    if database is None:
        memory = MemoryStore()

        async def remember() -> LedgerStore:
            return copy.deepcopy(memory)

        yield Disk(memory, remember)
        return
    url, pool = database
    name = str(conninfo_to_dict(url)["dbname"])
    pools: list[Pool] = []

    async def take() -> LedgerStore:
        with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as connection:
            # The copy needs the database for itself: whoever is connected connects again.
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(f"{name}_backup"), sql.Identifier(name))
            )
        await pool.check()
        # One connection is enough for all that a restored ledger does: who asks for a second while it holds one waits for himself.
        pools.append(await open_pool(make_conninfo(url, dbname=f"{name}_backup"), schema="ledger", max_size=1))
        return PostgresStore(pools[0])

    yield Disk(PostgresStore(pool), take, pools=pools)
    for each in pools:
        await each.close()
    with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(f"{name}_backup")))


async def unaccounted(disk: Disk) -> int:
    """What is claimed and stands nowhere in an operator's sums, after a restore, micros; there are such sums over a database only."""
    if not disk.pools:
        return 0
    found = await Reports(disk.pools[0]).reconcile(OP, now=NOW, silent_us=600_000_000)
    return found.claimed_micros - (found.payers_micros + found.debt_micros + found.risk_micros + found.suspense_micros)


@dataclass
class Told:
    """What a gateway's journal has of the cloud: directives, and its last receipt."""

    gateway_id: GatewayId
    directives: list[StoredDirective] = field(default_factory=list)
    receipt: tuple[int, int, bytes, int] = (0, 0, b"", 0)

    async def hear(self, story: Story, *, up_to: int = 1_000_000) -> None:
        """Follow the chain, and take the receipt of the last batch."""
        at = len(self.directives)
        rows = await story.store.directives(self.gateway_id, at, up_to - at)
        assert all(row.version == at + 1 + place for place, row in enumerate(rows))
        self.directives += rows
        gateway = await story.store.gateway(self.gateway_id)
        assert gateway is not None
        chain = await story.store.chain(self.gateway_id, gateway.incarnation)
        stored = await story.store.batch(self.gateway_id, chain.incarnation, chain.sequence) if chain.sequence else None
        if stored is not None:
            self.receipt = (chain.incarnation, chain.sequence, stored.batch_hash, stored.receipt.ledger_epoch)

    def proof(self) -> Proof:
        if not self.directives:
            return Proof(0, b"", 0, *self.receipt)
        last = self.directives[-1]
        epoch = directive_pb2.Directive.FromString(last.body).ledger_epoch
        return Proof(last.version, last.body_hash, max(1, epoch), *self.receipt)

    async def hello(self, story: Story, incarnation: int = 1) -> Greeting:
        return await story.ledger.hello(
            self.gateway_id,
            incarnation=incarnation,
            start_id=A,
            position=1_000,
            now=NOW,
            directive_version=len(self.directives),
            proof=self.proof(),
        )

    async def show(self, story: Story, *, leave_out: int = 0) -> TakenBack:
        """What the uplink does when its hello is answered with REWIND."""
        links = [Link(row.version, row.body_hash) for row in reversed(self.directives)]
        fork = await story.ledger.restored.common(self.gateway_id, links)
        shown = [
            Shown(directive_pb2.Directive.FromString(row.body), row.body, b"signature", b"key")
            for row in self.directives[fork.version : len(self.directives) - leave_out]
        ]
        gateway = await story.store.gateway(self.gateway_id)
        assert gateway is not None
        return await story.ledger.restored.take_back(gateway, fork, shown, self.receipt[:2], now=NOW)

    def bodies(self, kind: str) -> list[directive_pb2.Directive]:
        parsed = (directive_pb2.Directive.FromString(row.body) for row in self.directives)
        return [directive for directive in parsed if directive.WhichOneof("body") == kind]


def restore(story: Story, disk: Disk) -> None:
    """The database is the backup, from here on."""
    assert disk.backup is not None
    story.store = disk.backup
    story.ledger = Ledger(disk.backup, terms=TERMS, receipt_keys=())


async def begin(story: Story) -> None:
    """Two persons begin the next epoch."""
    decision = await story.ledger.restored.propose(OP, reason="the disk died", person="anna", now=NOW)
    assert await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)


async def balances(store: LedgerStore) -> dict[str, Balances]:
    return {path: balance for path, _, balance in await store.balances(OP, "") if balance != Balances()}


async def state(story: Story) -> tuple[int, LedgerState]:
    epoch = await story.store.epoch()
    return epoch.number, epoch.state


def wish(counter: int, wanted: str = "0.10", gateway: GatewayId = G1) -> QuotaRequest:
    return QuotaRequest(
        operator_id=OP,
        gateway_id=gateway,
        incarnation=1,
        counter=counter,
        account_id=AccountId("P"),
        currency=EUR,
        wanted_micros=micros(wanted),
    )


async def test_a_day_across_a_restore_is_the_same_day(disk: Disk) -> None:
    story = Story(disk.store)
    told = {"G1": Told(G1), "G2": Told(G2)}
    await story.open()
    await story.fund("P", "10.00", "pay-1")
    await story.fund("F", "0.80", "pay-2")
    await story.grant("q1", "G1", "4.00")
    story.counter += 2  # the page's names of the others, before they are granted
    story.quotas |= {"q2": wish(2, gateway=G2).quota_id(), "q3": wish(3).quota_id()}
    sealed = seal_all(story)
    await story.push(sealed["G1#1"])
    await disk.back_up()
    story.counter = 1
    await story.grant("q2", "G2", "3.00")
    # So much later that what the account spent is no reason to give it more.
    await story.grant("q3", "G1", "2.00", Instant(10**14))
    for name in ("G1#2", "G2#1"):
        await story.push(sealed[name])
    for each in told.values():
        await each.hear(story)
    # Without a restore it ends like this.
    for name in ("G1#3", "G2#2", "G2#3"):
        await story.push(sealed[name])
    expected = await balances(story.store)

    restore(story, disk)
    # The first gateway that comes proves it, and from then on nothing goes out.
    with pytest.raises(
        LedgerRestoring, match="G1 has proven it: directive 3 was signed in epoch 1, which is not there"
    ):
        await told["G1"].hello(story)
    assert await state(story) == (1, LedgerState.STOPPED)
    before = await balances(story.store)
    assert (await story.ledger.request_quota(wish(7), now=NOW)).answer == RESTORING
    for refused in (
        lambda: story.ledger.correct(order("goodwill", "g-1", account_id="P", amount="1.00"), person="anna", now=NOW),
        lambda: story.ledger.close_window(OP, EUR, "w1", {SiteId("S1"): SPLIT}, now=NOW),
        lambda: story.push(sealed["G1#2"]),
        lambda: told["G2"].hello(story),
    ):
        with pytest.raises(LedgerRestoring):
            await refused()
    assert await story.ledger.end_silent(now=Instant(10**15)) == 0
    assert await story.ledger.resolve_floors(now=NOW) == 0

    decision = await story.ledger.restored.propose(OP, reason="disk", person="anna", now=NOW)
    with pytest.raises(LedgerRefusal, match="another person"):
        await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="anna", now=NOW)
    with pytest.raises(LedgerRefusal, match="with the content"):
        await story.ledger.approve(decision.decision_id, content_hash=bytes(32), person="ben", now=NOW)
    assert await state(story) == (1, LedgerState.STOPPED)
    approve = story.ledger.approve
    assert await approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)
    assert not await approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)
    assert await state(story) == (2, LedgerState.RESTORING)
    assert await balances(story.store) == before

    assert (await told["G1"].hello(story)).standing is Standing.REWIND
    with pytest.raises(LedgerRestoring, match="not yet shown"):
        await story.push(sealed["G1#2"])
    back = await told["G1"].show(story)
    assert (back.quotas, back.reinstated_micros) == (1, micros("2.00"))
    with pytest.raises(LedgerRefusal, match="nothing to show now"):
        await told["G1"].show(story)  # not twice
    greeting = await told["G1"].hello(story)
    assert (greeting.standing, greeting.chain.sequence) == (Standing.AGREED, 1)
    await told["G1"].hear(story)
    assert [d.ledger_epoch for d in told["G1"].bodies("ledger_restored")] == [2]
    assert (await story.ledger.request_quota(wish(7), now=NOW)).answer == RESTORING
    first = await story.push(sealed["G1#1"])
    again = await story.push(sealed["G1#2"])
    assert first.receipt is not None
    assert again.receipt is not None
    # What the backup has is receipted as it ever was.
    assert (first.step, first.receipt.ledger_epoch) == (ChainStep.REPLAY, 1)
    assert (again.step, again.receipt.ledger_epoch) == (ChainStep.NEXT, 2)
    assert not await story.ledger.restored.open_again(now=NOW)

    assert (await told["G2"].hello(story)).standing is Standing.REWIND
    assert (await told["G2"].show(story)).reinstated_micros == micros("3.00")
    assert not await story.ledger.restored.open_again(now=NOW)  # its batch is missing
    assert (await told["G2"].hello(story)).earlier == ()
    await story.push(sealed["G2#1"])
    assert await story.ledger.restored.open_again(now=NOW)
    assert not await story.ledger.restored.open_again(now=NOW)
    assert await state(story) == (2, LedgerState.OPEN)
    assert [(row.gateway_id, row.is_done) for row in await story.store.rewindings()] == [(G1, True), (G2, True)]

    for name in ("G1#3", "G2#2", "G2#3"):
        await story.push(sealed[name])
    assert await balances(story.store) == expected
    verdict = await story.store.verify()
    assert verdict.fault == ""
    # A request is answered anew; the one that was granted before the restore is known again, and not granted twice.
    assert (await story.ledger.request_quota(wish(7), now=NOW)).quota_id
    assert (await story.ledger.request_quota(wish(3, "2.00"), now=NOW)).quota_id == story.quotas["q3"]
    assert (await told["G1"].hello(story)).standing is Standing.AGREED


async def test_what_the_account_no_longer_has_is_counted_and_recalled(disk: Disk) -> None:
    story = Story(disk.store)
    told = Told(G1)
    await story.open()
    await story.fund("P", "4.00", "pay-1")
    await disk.back_up()
    await story.fund("P", "5.00", "pay-2")
    await story.grant("q1", "G1", "3.00")
    await story.grant("q2", "G1", "6.00")
    await told.hear(story)
    use = story.seal("G1", [("t1", "x1", 0, 9, "5.00", "1.00", [(0, "5.00", "1.00")])], [("P", "q2", TOLL, "10:00")])
    await story.push(use)
    await told.hear(story)

    restore(story, disk)
    await begin(story)
    assert (await told.show(story)).reinstated_micros == micros("9.00")
    # What was used is posted from its hold, whatever the account has.
    await story.push(use)
    await Told(G2).show(story)
    assert await story.ledger.restored.open_again(now=NOW)
    # It has 4.00 and has spent 6.00: that is debt; and nothing is left of the other grant, which is recalled.
    stood = await balances(story.store)
    assert (stood["payer/P"].debits_posted, stood["payer/P"].credits_posted) == (micros("6.00"), micros("6.00"))
    assert stood["payer/P"].debits_pending == 0
    assert stood["debt/P"].debits_posted == micros("2.00")
    assert await unaccounted(disk) == 0
    (short,) = [row.rewinding for row in await story.store.rewindings() if row.gateway_id == G1]
    assert short is not None
    assert short.short_micros == micros("3.00")
    await told.hear(story)
    assert [d.quota_recalled.quota_id for d in told.bodies("quota_recalled")] == [story.quotas["q1"]]
    # What is spent of it all the same is late: nothing available, the debt is at its limit, the operator bears it.
    await story.push(
        story.seal("G1", [("t2", "x1", 9, 10, "1.00", "0", [(0, "1.00", "0")])], [("P", "q1", TOLL, "10:00")])
    )
    stood = await balances(story.store)
    assert stood["risk"].debits_posted == micros("1.00")
    gateway = await story.store.gateway(G1)
    assert gateway is not None
    assert gateway.late_micros == micros("1.00")
    # The payment comes after all: it pays the debt first.
    await story.fund("P", "5.00", "pay-2")
    stood = await balances(story.store)
    assert stood["debt/P"].debits_posted == stood["debt/P"].credits_posted
    assert await unaccounted(disk) == 0
    assert (await story.store.verify()).fault == ""


async def test_a_hold_whose_end_is_yet_to_come_takes_no_room_from_the_next(disk: Disk) -> None:
    """One gateway gave back what the other was then granted: the other shows first."""
    story = Story(disk.store)
    told, other = Told(G1), Told(G2)
    await story.open()
    await story.fund("P", "5.00", "pay-1")
    await story.grant("q1", "G1", "5.00")
    await disk.back_up()
    closes = story.seal("G1", [], [], closed=("q1",))
    await story.push(closes)
    await story.grant("q2", "G2", "5.00")
    use = story.seal("G2", [("t1", "x1", 0, 9, "4.00", "1.00", [(0, "4.00", "1.00")])], [("P", "q2", TOLL, "10:00")])
    await story.push(use)
    for each in (told, other):
        await each.hear(story)
    expected = await balances(story.store)
    restore(story, disk)
    await begin(story)
    await other.show(story)
    await story.push(use)
    await told.show(story)
    await story.push(closes)
    assert await story.ledger.restored.open_again(now=NOW)
    assert await balances(story.store) == expected
    assert (await story.store.verify()).fault == ""


async def test_payments_posted_again_before_the_epoch_begins_leave_nothing_short(disk: Disk) -> None:
    story = Story(disk.store)
    told = Told(G1)
    await story.open()
    await disk.back_up()
    await story.fund("P", "5.00", "pay-2")
    await story.grant("q1", "G1", "5.00")
    await told.hear(story)
    expected = await balances(story.store)
    restore(story, disk)
    await story.ledger.restored.stop("a person says so", now=NOW)
    await story.fund("P", "5.00", "pay-2")  # money may come in at any time
    await begin(story)
    await told.show(story)
    await Told(G2).show(story)
    assert await story.ledger.restored.open_again(now=NOW)
    assert {row.rewinding.short_micros for row in await story.store.rewindings() if row.rewinding} == {0}
    assert await balances(story.store) == expected


async def test_what_was_written_without_knowing_the_chain_comes_after_it(disk: Disk) -> None:
    story = Story(disk.store)
    told, other = Told(G1), Told(G2)
    await grants(story)
    await disk.back_up()
    seal = directive_pb2.SealPolicy(records=7)
    await story.ledger.issue_directive(OP, G1, seal, idempotency_key="lost", now=NOW)
    lost = directive_pb2.FloorPolicy(currency=EUR, all_tokens_micros=3)
    await story.ledger.issue_directive(OP, G1, lost, idempotency_key="lost floor", now=NOW)
    await story.ledger.recall(OP, gateway_id="G1", account_id="", reason="lost", now=NOW)
    await told.hear(story)
    await other.hear(story)

    restore(story, disk)
    # Nobody has noticed yet: a directive for a gateway whose chain is longer than the ledger knows.
    floor = directive_pb2.FloorPolicy(currency=EUR, all_tokens_micros=5)
    fork = await story.ledger.issue_directive(OP, G1, floor, idempotency_key="late", now=NOW)
    with pytest.raises(LedgerRestoring, match="G1 has proven it"):
        await told.hello(story)
    await begin(story)
    known = len(told.directives)
    back = await told.show(story)
    assert (back.directives, back.directive_version) == (known - fork + 1, known + 2)
    await told.hear(story)
    # What counts against its exposure is what it was told last.
    assert [d.floor.all_tokens_micros for d in told.bodies("floor")] == [3, 5]
    gateway = await story.store.gateway(G1)
    assert gateway is not None
    assert gateway.floor_micros == 5
    assert [d.seal.records for d in told.bodies("seal")] == [7]
    # The wish stands where its directive stands now, and is not fulfilled twice.
    again = await story.ledger.issue_directive(OP, G1, floor, idempotency_key="late", now=NOW)
    assert again == known + 1
    assert {row.status for row in await story.store.account_quotas(OP, AccountId("P")) if row.gateway_id == G1} == {
        QuotaStatus.RECALLED
    }
    # Nothing of this gateway was lost.
    assert (await other.hello(story)).standing is Standing.REWIND
    assert (await other.show(story)).directives == 0
    assert await story.ledger.restored.open_again(now=NOW)
    assert (await story.store.verify()).fault == ""


async def test_a_gateway_that_is_given_up_holds_nobody_up_and_may_come_back(disk: Disk) -> None:
    story = Story(disk.store)
    told, gone = Told(G1), Told(G2)
    await story.open()
    await story.fund("P", "10.00", "pay-1")
    await story.grant("q2", "G2", "3.00")
    use = story.seal("G2", [("t1", "x1", 0, 9, "2.50", "0.50", [(0, "2.50", "0.50")])], [("P", "q2", TOLL, "10:00")])
    await disk.back_up()
    await story.grant("q4", "G2", "1.00")
    await gone.hear(story)
    await told.hear(story)

    restore(story, disk)
    await begin(story)
    await told.show(story)
    assert not await story.ledger.restored.open_again(now=NOW)
    # An empty journal shows nothing, and is told what to do.
    with pytest.raises(LedgerRestoring, match="give-up"):
        await story.ledger.hello(G2, incarnation=0, start_id=A, position=0, now=NOW)
    # Which incarnation comes next nobody knows before.
    decision = await story.ledger.propose(DecisionKind.INCARNATION, G2, reason="new", person="anna", now=NOW)
    with pytest.raises(
        LedgerRestoring, match=r"G2 has not yet shown what it was told: where its journal is lost, .* give-up propose"
    ):
        await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)
    decision = await story.ledger.propose(DecisionKind.GIVEN_UP, G2, reason="burnt", person="anna", now=NOW)
    assert await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)
    assert await story.ledger.restored.open_again(now=NOW)
    quotas = {q.quota_id: q.status for q in await story.store.account_quotas(OP, AccountId("P"))}
    assert quotas[story.quotas["q2"]] is QuotaStatus.FROZEN
    assert story.quotas["q4"] not in quotas

    # It was only away: alone it shows what an earlier epoch told it, and the ledger stays open.
    assert (await gone.hello(story)).standing is Standing.REWIND
    assert await state(story) == (2, LedgerState.OPEN)
    assert (await gone.show(story)).reinstated_micros == micros("1.00")
    await gone.hear(story)
    assert [d.welcome.incarnation for d in gone.bodies("welcome")] == [1, 1_001]
    assert (await story.push(use)).step is ChainStep.NEXT
    assert (await gone.hello(story, 1_001)).standing is Standing.AGREED
    assert (await story.store.verify()).fault == ""


async def test_who_was_given_up_and_comes_back_sends_its_batches_also_where_no_directive_is_missing(disk: Disk) -> None:
    story = Story(disk.store)
    told, gone = Told(G1), Told(G2)
    await story.open()
    await story.fund("P", "10.00", "pay-1")
    await story.grant("q2", "G2", "3.00")
    use = story.seal("G2", [("t1", "x1", 0, 9, "2.50", "0.50", [(0, "2.50", "0.50")])], [("P", "q2", TOLL, "10:00")])
    await disk.back_up()
    await story.push(use)
    await gone.hear(story)
    await told.hear(story)
    expected = await balances(story.store)

    restore(story, disk)
    await begin(story)
    await told.show(story)
    decision = await story.ledger.propose(DecisionKind.GIVEN_UP, G2, reason="burnt", person="anna", now=NOW)
    assert await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)
    assert await story.ledger.restored.open_again(now=NOW)

    assert (await gone.hello(story)).standing is Standing.BEGIN
    greeting = await gone.hello(story, 1_001)
    assert (greeting.standing, greeting.earlier is not None) == (Standing.AGREED, True)
    assert (await story.push(use)).step is ChainStep.NEXT
    assert (await gone.hello(story, 1_001)).earlier is None
    assert await balances(story.store) == expected
    assert (await story.store.verify()).fault == ""


async def test_a_gateway_that_has_shown_and_whose_batches_do_not_come_holds_nobody_up(disk: Disk) -> None:
    story = Story(disk.store)
    told, gone = Told(G1), Told(G2)
    await story.open()
    await story.fund("P", "10.00", "pay-1")
    await story.grant("q2", "G2", "3.00")
    use = story.seal("G2", [("t1", "x1", 0, 9, "2.50", "0.50", [(0, "2.50", "0.50")])], [("P", "q2", TOLL, "10:00")])
    await disk.back_up()
    await story.push(use)
    await gone.hear(story)
    await told.hear(story)
    expected = await balances(story.store)

    restore(story, disk)
    await begin(story)
    await told.show(story)
    assert (await gone.hello(story)).standing is Standing.REWIND
    await gone.show(story)
    # It burns now: its receipt is known, and its batch is not there.
    assert not await story.ledger.restored.open_again(now=NOW)
    decision = await story.ledger.propose(DecisionKind.GIVEN_UP, G2, reason="burnt", person="anna", now=NOW)
    assert await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)
    assert await story.ledger.restored.open_again(now=NOW)
    assert await state(story) == (2, LedgerState.OPEN)
    # Who has rewound is waited for no longer, and is not given up.
    other = await story.ledger.propose(DecisionKind.GIVEN_UP, G1, reason="burnt", person="anna", now=NOW)
    with pytest.raises(LedgerRefusal, match="does not wait for G1"):
        await story.ledger.approve(other.decision_id, content_hash=other.content_hash, person="ben", now=NOW)

    # It was only away: what it has a receipt for is wanted still, and nothing of it is lost.
    greeting = await gone.hello(story)
    assert (greeting.standing, greeting.gateway.incarnation) == (Standing.BEGIN, 1_001)
    assert greeting.earlier is not None
    assert (await story.push(use)).step is ChainStep.NEXT
    assert (await gone.hello(story)).earlier is None
    assert await balances(story.store) == expected
    assert (await story.store.verify()).fault == ""


async def decide(story: Story, gateway_id: GatewayId) -> None:
    """Two persons let a gateway begin its next incarnation."""
    decision = await story.ledger.propose(
        DecisionKind.INCARNATION, gateway_id, reason="a new disk", person="anna", now=NOW
    )
    assert await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)


async def test_a_journal_that_is_lost_after_it_was_shown_wants_one_decision_and_no_other(disk: Disk) -> None:
    story = Story(disk.store)
    told, lost = Told(G1), Told(G2)
    await story.open()
    await story.fund("P", "10.00", "pay-1")
    await story.grant("q2", "G2", "3.00")
    use = story.seal("G2", [("t1", "x1", 0, 9, "2.50", "0.50", [(0, "2.50", "0.50")])], [("P", "q2", TOLL, "10:00")])
    await disk.back_up()
    await story.push(use)
    await lost.hear(story)
    await told.hear(story)
    expected = await balances(story.store)

    restore(story, disk)
    await begin(story)
    await told.show(story)
    await lost.show(story)
    # Its disk is lost now: the receipt that it has shown is for a batch that nobody has.
    empty = Told(G2)
    waits = await empty.hello(story, 0)
    assert (waits.standing, "no journal" in waits.why) == (Standing.WAITS, True)
    assert not await story.ledger.restored.open_again(now=NOW)
    await decide(story, G2)
    assert (await empty.hello(story, 0)).standing is Standing.BEGIN
    # Until the new journal speaks: the old machine may still be there, with its batches.
    assert not await story.ledger.restored.open_again(now=NOW)
    await empty.hear(story)
    assert (await empty.hello(story, 1_001)).standing is Standing.AGREED
    assert await story.ledger.restored.open_again(now=NOW)
    assert (await story.store.verify()).fault == ""

    # The disk turns up: what it has a receipt for is wanted, and is billed once.
    assert (await lost.hello(story)).standing is Standing.WAITS
    await decide(story, G2)
    greeting = await lost.hello(story, 1_002)
    assert (greeting.standing, greeting.earlier is not None) == (Standing.AGREED, True)
    assert (await story.push(use)).step is ChainStep.NEXT
    assert (await lost.hello(story, 1_002)).earlier is None
    assert await balances(story.store) == expected
    assert (await story.store.verify()).fault == ""


async def test_who_shows_less_than_it_has_shown_waits_for_people_and_is_then_waited_for_as_far_as_it_goes(
    disk: Disk,
) -> None:
    story = Story(disk.store)
    told, other = Told(G2), Told(G1)
    await story.open()
    await story.fund("P", "10.00", "pay-1")
    await story.grant("q2", "G2", "3.00")
    uses = [
        story.seal(
            "G2",
            [(f"t{number}", "x1", number, number + 1, "1.00", "0.00", [(0, "1.00", "0.00")])],
            [("P", "q2", TOLL, "10:00")],
        )
        for number in range(2)
    ]
    await disk.back_up()
    await story.push(uses[0])
    await told.hear(story)
    before = told.receipt
    await story.push(uses[1])
    await told.hear(story)
    await other.hear(story)

    restore(story, disk)
    await begin(story)
    await other.show(story)
    await told.show(story)
    # Its disk is that of some time ago: nothing else that it says is behind what this ledger has seen.
    copied = Told(G2, told.directives, before)
    greeting = await copied.hello(story)
    assert greeting.standing is Standing.WAITS
    assert greeting.why == (
        "its last receipt is for batch 1 of incarnation 1, and since the ledger was restored it has shown one for batch 2 of incarnation 1"
    )
    await decide(story, G2)
    # It has begun the new incarnation, and its first batch goes after all earlier ones.
    assert (await copied.hello(story, 1_001)).standing is Standing.AGREED
    assert not await story.ledger.restored.open_again(now=NOW)
    await story.push(uses[0])
    assert await story.ledger.restored.open_again(now=NOW)
    # Once in the new chain, nothing of this is asked again.
    assert (await copied.hello(story, 1_001)).standing is Standing.AGREED


async def test_no_two_journals_begin_one_incarnation_over_a_restore(disk: Disk) -> None:
    """What was decided since the backup is lost with the database, and with a journal that is an older one: its number is not given again."""
    story = Story(disk.store)
    old, other = Told(G1), Told(G2)
    await grants(story)
    await old.hear(story)
    await other.hear(story)
    await disk.back_up()
    await decide(story, G1)
    first = Told(G1)
    await first.hear(story)
    assert [d.welcome.incarnation for d in first.bodies("welcome")] == [1, 2]

    restore(story, disk)
    await begin(story)
    # The journal that began incarnation 2 is gone; an older one shows what it was told.
    await old.show(story)
    await decide(story, G1)
    await old.hear(story)
    assert [d.welcome.incarnation for d in old.bodies("welcome")] == [1, 1_001]
    await decide(story, G1)
    await old.hear(story)
    assert [d.welcome.incarnation for d in old.bodies("welcome")] == [1, 1_001, 1_002]


async def test_an_incarnation_decided_since_the_backup_is_taken_back(disk: Disk) -> None:
    story = Story(disk.store)
    told = Told(G1)
    await grants(story)
    sealed = seal_all(story)
    await disk.back_up()
    await story.push(sealed["G1#1"])
    decision = await story.ledger.propose(DecisionKind.INCARNATION, G1, reason="new", person="anna", now=NOW)
    assert await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)
    story.begins("G1")
    first = story.seal(
        "G1", [("a1", "c1", 812340, 816478, "1.6", "0.3", [(0, "0.06575", "0.00")])], [("P", "q1", CHG, "10:00")]
    )
    await story.push(first)
    await told.hear(story)
    await Told(G2).hear(story)
    expected = await balances(story.store)

    restore(story, disk)
    await begin(story)
    assert (await told.hello(story, 2)).standing is Standing.REWIND
    await told.show(story)
    greeting = await told.hello(story, 2)
    assert (greeting.standing, greeting.gateway.incarnation, greeting.chain.sequence) == (Standing.AGREED, 2, 0)
    assert greeting.earlier is not None  # batches of incarnation 1 are wanted first
    for raw in (sealed["G1#1"], first):
        assert (await story.push(raw)).step is ChainStep.NEXT
    assert (await told.hello(story, 2)).earlier is None
    assert await balances(story.store) == expected
    assert {q.status for q in await story.store.account_quotas(OP, AccountId("P")) if q.gateway_id == G1} == {
        QuotaStatus.FROZEN
    }
    assert (await story.store.verify()).fault == ""


async def test_room_of_a_floor_returns_once(disk: Disk) -> None:
    story = Story(disk.store)
    told = Told(G2)
    await grants(story)
    await disk.back_up()
    use = story.seal("G2", [("t1", "x1", 0, 1, "0.50", "0.00", [(0, "0.50", "0.00")])], [("F", "floor", TOLL, "10:00")])
    await story.push(use)
    assert await story.ledger.prove(G2, 1, 1, events=(), now=NOW)
    await told.hear(story)
    assert [d.floor_resolved.amount_micros for d in told.bodies("floor_resolved")] == [micros("0.50")]

    restore(story, disk)
    await begin(story)
    await told.show(story)
    await story.push(use)
    assert await story.ledger.prove(G2, 1, 1, events=(), now=NOW)
    await told.hear(story)
    assert [d.floor_resolved.amount_micros for d in told.bodies("floor_resolved")] == [micros("0.50")]
    # The next time counts again.
    more = story.seal(
        "G2", [("t2", "x1", 1, 2, "0.10", "0.00", [(0, "0.10", "0.00")])], [("F", "floor", TOLL, "10:00")]
    )
    await story.push(more)
    assert await story.ledger.prove(G2, 1, 2, events=(), now=NOW)
    await told.hear(story)
    assert [d.floor_resolved.amount_micros for d in told.bodies("floor_resolved")] == [micros("0.50"), micros("0.10")]


async def test_what_is_no_chain_or_names_nobody_is_not_taken_back(disk: Disk) -> None:
    story = Story(disk.store)
    told = Told(G1)
    await story.open()
    await story.fund("P", "9.00", "pay-1")
    await disk.back_up()
    await story.ledger.put_account(
        operator_id=OP,
        account_id=AccountId("N"),
        currency=EUR,
        credit_limit_micros=micros("5"),
        debt_limit_micros=0,
        status=AccountStatus.ACTIVE,
        preload_micros=0,
        now=NOW,
    )
    await story.grant("q1", "G1", "1.00")
    lost = QuotaRequest(
        operator_id=OP,
        gateway_id=G1,
        incarnation=1,
        counter=9,
        account_id=AccountId("N"),
        currency=EUR,
        wanted_micros=5,
    )
    assert (await story.ledger.request_quota(lost, now=NOW)).quota_id
    await told.hear(story)
    restore(story, disk)
    await begin(story)
    before = await balances(story.store)
    with pytest.raises(LedgerRestoring, match="account N, which the restored ledger does not know"):
        await told.show(story)
    hole = Told(G1, [told.directives[0], *told.directives[2:]], told.receipt)
    with pytest.raises(LedgerRefusal, match="does not follow"):
        await hole.show(story)
    another = Told(G2, told.directives, told.receipt)
    with pytest.raises(LedgerRefusal, match="does not follow"):
        await another.show(story)
    assert await balances(story.store) == before
    assert await state(story) == (2, LedgerState.RESTORING)


async def test_who_hides_its_last_grants_has_no_holds_for_them(disk: Disk) -> None:
    """A stolen gateway: what it spends of the hidden grant names a quota that nobody knows, and costs no payer anything unseen."""
    story = Story(disk.store)
    told = Told(G1)
    await story.open()
    await story.fund("P", "9.00", "pay-1")
    await disk.back_up()
    await story.grant("q1", "G1", "1.00")
    await story.grant("q2", "G1", "8.00")
    await told.hear(story)
    restore(story, disk)
    await begin(story)
    assert (await told.show(story, leave_out=1)).reinstated_micros == micros("1.00")
    raw = story.seal("G1", [("t1", "x1", 0, 9, "5.00", "1.00", [(0, "5.00", "1.00")])], [("P", "q2", TOLL, "10:00")])
    outcome = await story.push(raw)
    assert outcome.receipt is not None
    assert outcome.receipt.parked == ((0, "its quota is unknown"),)
    assert (await balances(story.store))["payer/P"].debits_posted == 0
