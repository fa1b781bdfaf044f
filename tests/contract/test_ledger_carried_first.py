"""An end that is carried up before its own gateway's batches takes what that gateway has for the use: no other line of it comes late for that."""

import asyncio
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st
from ledger_story import CHG, EUR, NOW, OP, TERMS, Story

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, QuotaId
from farthing.tariff import Part
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.core.carried import Carried, CarriedUse
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.core.received import ReceivedBatch
from farthing_cloud.ledger.core.rows import RegisterKey
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_edge.authorization.state import Charge, Quota
from farthing_edge.metering.funding import Purse, bill, hold

USE = AuthorizationId(b"use".ljust(16))
FOREVER = Instant(10**15)


@dataclass
class Record:
    """What a gateway has billed, and of which use."""

    use: bytes
    charges: tuple[Charge, ...]


@dataclass
class Edge:
    """An honest gateway's money: it spends and holds by the edge's own rules, and reports in the order of its journal."""

    quotas: list[Quota]
    holds: dict[str, int] = field(default_factory=dict)
    billed_micros: int = 0
    journal: list[Record] = field(default_factory=list)

    def spend(self, micros: int) -> None:
        """Another use, as far as there is money for it."""
        micros = min(micros, sum(quota.free_micros for quota in self.quotas))
        if micros:
            self._record(f"other {len(self.journal)}".encode().ljust(16), self._bill(micros, {}))

    def read(self, micros: int, need_micros: int) -> None:
        """The use has cost so much more, as far as it was held; then the hold rolls."""
        micros = min(micros, sum(self.holds.values()))
        purse = Purse(self.quotas, self.holds, 0)
        charges = self._bill(micros, self.holds)
        held = hold(purse, charges, need_micros, NOW, floor=False)
        self._let_go()
        self._record(USE, charges)
        self.billed_micros += micros
        for name, amount in held.parts:
            self._quota(name).held_micros += amount
        self.holds = dict(held.parts)

    def end(self, micros: int) -> int:
        """The use is over, within what was held: what is left is for others. What it cost in all."""
        micros = min(micros, sum(self.holds.values()))
        charges = self._bill(micros, self.holds)
        self._let_go()
        self._record(USE, charges)
        return self.billed_micros + micros

    def _bill(self, micros: int, holds: dict[str, int]) -> tuple[Charge, ...]:
        due = (Part(rate_ppm=CHG[1], net_micros=micros, tax_micros=0),) if micros else ()
        return bill(Purse(self.quotas, holds, 0), due, NOW)

    def _let_go(self) -> None:
        for name, amount in self.holds.items():
            self._quota(name).held_micros -= amount
        self.holds = {}

    def _record(self, use: bytes, charges: tuple[Charge, ...]) -> None:
        for charge in charges:
            quota = self._quota(charge.funding)
            quota.spent_micros += charge.net_micros
            assert quota.free_micros >= 0
        self.journal.append(Record(use, charges))

    def _quota(self, name: str) -> Quota:
        return next(quota for quota in self.quotas if quota.id == name)


class Reader:
    """What the one carried end proves, as the test laid it down."""

    def __init__(self) -> None:
        self.use: CarriedUse | None = None

    async def read(self, batch: ReceivedBatch) -> tuple[Carried, ...]:
        assert self.use is not None or not batch.carried
        return (self.use,) * len(batch.carried) if self.use is not None else ()


def sealed(story: Story, records: list[Record], claimed: dict[bytes, int], *, closed: tuple[str, ...] = ()) -> bytes:
    """G1's next batch: a line for each charge, and cumulative claims."""
    batch = batch_pb2.Batch.FromString(story.seal("G1", [], [], closed=closed))
    for record in records:
        cost = sum(charge.net_micros for charge in record.charges)
        claimed[record.use] = claimed.get(record.use, 0) + cost
        claim = next((each for each in batch.claims if each.authorization_id == record.use), None)
        if claim is None:
            claim = batch.claims.add(authorization_id=record.use, device_id=record.use.hex(), register_id="1")
        claim.register_to = claim.net_micros = claimed[record.use]
        for charge in record.charges:
            claim.shares.add(line=len(batch.lines), net_micros=charge.net_micros)
            batch.lines.add(
                account_id="P",
                quota_id=charge.funding,
                currency=EUR,
                tariff_id=CHG[0],
                tariff_version=1,
                tax_rate_ppm=CHG[1],
                evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
                net_micros=charge.net_micros,
            )
    batch.leaf_count = len(records)
    raw = story.sealed["G1"][-1] = batch.SerializeToString(deterministic=True)
    return raw


async def late_micros(
    amounts: list[int], before: list[tuple[str, int, int]], *, end: int, after: list[int], posted: int, above: int
) -> tuple[int, int]:
    """What comes late in all where the ledger has ``posted`` of the journal's records when the end is carried, at a price ``above`` its gateway's own;
    and so much of the use as the newest grant had billed, and nobody reported."""
    reader, story = Reader(), Story(MemoryStore())
    story.ledger = Ledger(story.store, terms=TERMS, receipt_keys=(), carried_ends=reader)
    await story.open()
    await story.fund("P", f"0.{sum(amounts):06}", "pay")
    for number, amount in enumerate(amounts):
        await story.grant(f"q{number}", "G1", f"0.{amount:06}")
    edge = Edge(
        [
            Quota(
                quota_id=QuotaId(story.quotas[f"q{number}"]),
                account_id=AccountId("P"),
                currency=EUR,
                amount_micros=amount,
                spend_until=Instant(FOREVER + number),
                report_until=FOREVER,
                incarnation=1,
            )
            for number, amount in enumerate(amounts)
        ]
    )
    for kind, micros, need in before:
        if kind == "read":
            edge.read(micros, need)
        else:
            edge.spend(micros)
    held, billed = dict(edge.holds), edge.billed_micros
    first = edge.journal[:posted]
    cost = edge.end(end)
    for micros in after:
        edge.spend(micros)

    claimed: dict[bytes, int] = {}
    await story.push(sealed(story, first, claimed))
    unreported = billed - claimed.get(USE, 0)
    reader.use = CarriedUse(
        authorization_id=USE,
        granted_by=GatewayId("G1"),
        account_id=AccountId("P"),
        register=RegisterKey(device_id=USE.hex(), register_id="1", register_epoch=0),
        register_from=0,
        register_to=cost,
        parts=((CHG[1], cost + above, 0),),
        held=tuple((QuotaId(name), amount) for name, amount in held.items()),
        floor_micros=0,
        granted_incarnation=1,
        final=True,
        billed_micros=billed,
        covered_micros=billed + sum(held.values()),
        statements=(b"intent", b"end"),
    )
    await story.push(story.seal("G2", [], [], carried=(batch_pb2.CarriedEnd(granted_by="G1"),)))
    await story.push(
        sealed(story, edge.journal[len(first) :], claimed, closed=tuple(f"q{n}" for n in range(len(amounts))))
    )

    transfers = await story.store.transfers(OP)
    assert (await story.store.verify()).fault == ""
    spent = sum(charge.net_micros for record in edge.journal for charge in record.charges)
    causes = (Cause.USE, Cause.LATE, Cause.OVERRUN)
    assert sum(transfer.amount_micros for transfer in transfers if transfer.cause in causes) == spent + above
    return sum(transfer.amount_micros for transfer in transfers if transfer.cause is Cause.LATE), unreported


amount = st.integers(1, 9).map(lambda hundreds: 100 * hundreds)


@settings(max_examples=300, deadline=None)
@given(
    amounts=st.lists(amount, min_size=1, max_size=3),
    before=st.lists(st.tuples(st.sampled_from(["read", "spend"]), amount, amount), max_size=6),
    last=st.tuples(amount, amount),
    end=amount,
    after=st.lists(amount, max_size=3),
    unposted=st.integers(0, 7),
    above=st.one_of(st.just(0), amount),
)
# Held on two quotas: each pays its part of it.
@example(
    amounts=[400, 400], before=[("spend", 300, 100)], last=(100, 300), end=300, after=[400, 100], unposted=2, above=0
)
# What the price is above its gateway's own, that gateway has let go, and spent.
@example(amounts=[500], before=[], last=(0, 300), end=100, after=[400], unposted=0, above=200)
def test_nobodys_line_comes_late_because_a_carried_end_came_first(
    amounts: list[int],
    before: list[tuple[str, int, int]],
    last: tuple[int, int],
    end: int,
    after: list[int],
    unposted: int,
    above: int,
) -> None:
    """Bounded by what was billed before the newest grant and is not reported, as no grant says on which of the quotas that was; and by what the ledger's
    price is above that of its gateway, which lets that much of the hold go."""
    steps = [*before, ("read", *last)]
    posted = max(0, len(steps) - unposted)
    late, unreported = asyncio.run(late_micros(amounts, steps, end=end, after=after, posted=posted, above=above))
    assert late <= unreported + above
