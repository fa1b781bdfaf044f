"""Whatever classes a batch names: what the site takes is billed, what is below is set aside to the micro, and nothing twice, in whatever way it is decided."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_story import EUR, NOW, OP, Story, micros

from farthing.ids import GatewayId, SiteId
from farthing.v1 import batch_pb2, events_pb2
from farthing_cloud.ledger.core.rows import Balances
from farthing_cloud.ledger.store.interface import Cursor
from farthing_cloud.ledger.store.memory import MemoryStore

#: A line of one claim: cents of net and tax, its class.
LINE = st.tuples(st.integers(0, 300), st.integers(0, 60), st.integers(1, 3))


async def told(lines: list[tuple[int, int, int]], least: int, *, quota: str, release: bool) -> None:
    story = Story(MemoryStore())
    await story.open()
    await story.fund("P", "20", "pay-1")
    await story.grant("q1", "G1", quota)
    await story.ledger.put_gateway(
        gateway_id=GatewayId("G1"), operator_id=OP, site_id=SiteId("S1"), currency=EUR, exposure_micros=micros("90"),
        batch_key=b"", grant_key=b"", time_zone="Europe/Berlin", now=NOW, least_class=least,
    )  # fmt: skip
    raw = story.seal(
        "G1",
        [
            (f"a{number}", f"c{number}", 0, 5, f"{net / 100}", f"{tax / 100}", [(number, f"{net / 100}", f"{tax / 100}")])
            for number, (net, tax, _) in enumerate(lines)
        ],
        [("P", "q1", ("t", 200_000), "10:00")] * len(lines),
    )  # fmt: skip
    batch = batch_pb2.Batch.FromString(raw)
    for line, (_, _, evidence_class) in zip(batch.lines, lines, strict=True):
        line.evidence_class = evidence_class  # type: ignore[assignment]  # a number of the enum
    raw = batch.SerializeToString(deterministic=True)
    await story.push(raw)
    await story.push(raw)

    below = sum(net + tax for net, tax, each in lines if each > least) * 10_000
    billed = sum(net + tax for net, tax, each in lines) * 10_000 - below

    async def balances() -> dict[str, Balances]:
        return {path: found for path, _, found in await story.store.balances(OP, "")}

    def credit(found: dict[str, Balances], *paths: str) -> int:
        held = [found[path] for path in paths if path in found]
        return sum(each.credits_posted - each.debits_posted for each in held)

    found = await balances()
    assert credit(found, "unearned/S1") == -credit(found, "suspense/S1") == below
    assert found["payer/P"].debits_posted - credit(found, "debt/P") - credit(found, "risk") == billed
    assert found["payer/P"].debits_pending <= max(0, micros(quota) - below)
    opened = await story.store.events(Cursor(), 100, ("case.opened",))
    assert len(opened) == sum(each > least and net + tax > 0 for net, tax, each in lines)
    posted = found["payer/P"].debits_posted
    for event in opened:
        case_id = events_pb2.CaseOpened.FromString(event.value).case_id
        await story.ledger.decide_case(case_id, release=release, now=NOW)
    await story.push(raw)
    found = await balances()
    assert credit(found, "unearned/S1") == credit(found, "suspense/S1") == 0
    paid = found["payer/P"].debits_posted - credit(found, "debt/P") - credit(found, "risk")
    if release:
        assert paid == billed + below
    else:
        assert found["payer/P"].debits_posted == posted
        assert paid == billed
    assert (await story.store.verify()).fault == ""


@settings(max_examples=30, deadline=None)
@given(
    lines=st.lists(LINE, min_size=1, max_size=5),
    least=st.integers(1, 3),
    quota=st.sampled_from(["0.50", "3.00", "9.00"]),
    release=st.booleans(),
)
def test_what_is_below_the_least_class_is_nobodys_bill_before_people_have_looked(
    lines: list[tuple[int, int, int]], least: int, quota: str, release: bool
) -> None:
    asyncio.run(told(lines, least, quota=quota, release=release))
