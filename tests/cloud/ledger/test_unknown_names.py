"""Lines that name what the ledger does not know: parked, set aside to the micro, and posted once people have put what was missing."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_story import EUR, NOW, OP, Story, micros

from farthing.ids import AccountId
from farthing.v1 import events_pb2
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.rows import AccountStatus, Balances
from farthing_cloud.ledger.store.interface import Cursor
from farthing_cloud.ledger.store.memory import MemoryStore

#: Account and quota of a line, and why it is parked.
NAMES = {
    ("P", "q1"): "",
    ("N", "floor"): "its account is unknown",
    ("N", "q1"): "its account is unknown",
    ("F", "q1"): "its quota belongs to another account",
    ("F", "q2"): "its quota belongs to another gateway",
    ("P", "lost"): "its quota is unknown",
}
#: A line of one claim: whom it names, cents of net and tax, the register's end. (Claims of one register overlap.)
LINE = st.tuples(
    st.sampled_from(sorted(NAMES)), st.integers(0, 300), st.integers(0, 60), st.sampled_from(["c1", "c2", "c3"])
)


async def put(story: Story, account: str) -> None:
    await story.ledger.put_account(
        operator_id=OP, account_id=AccountId(account), currency=EUR, credit_limit_micros=0, debt_limit_micros=micros("2"),
        status=AccountStatus.ACTIVE, preload_micros=0, now=NOW,
    )  # fmt: skip


async def balances(story: Story) -> dict[str, Balances]:
    return {path: found for path, _, found in await story.store.balances(OP, "")}


def credit(found: dict[str, Balances], *paths: str) -> int:
    held = [found[path] for path in paths if path in found]
    return sum(each.credits_posted - each.debits_posted for each in held)


async def decide(story: Story, *, release: bool) -> None:
    for event in await story.store.events(Cursor(), 100, ("case.opened",)):
        case_id = events_pb2.CaseOpened.FromString(event.value).case_id
        await story.ledger.decide_case(case_id, release=release, now=NOW)


async def told(lines: list[tuple[tuple[str, str], int, int, str]], *, release: bool) -> None:
    story = Story(MemoryStore())
    await story.open()
    await story.fund("P", "20", "pay-1")
    await story.grant("q1", "G1", "9.00")
    await story.grant("q2", "G2", "3.00")
    story.quotas["lost"] = story.quotas["q1"][:-1] + ("0" if story.quotas["q1"][-1] != "0" else "1")
    raw = story.seal(
        "G1",
        [
            (f"a{at}", register, 0, 5, f"{net / 100}", f"{tax / 100}", [(at, f"{net / 100}", f"{tax / 100}")])
            for at, (_, net, tax, register) in enumerate(lines)
        ],
        [(account, quota, ("t", 200_000), "10:00") for (account, quota), *_ in lines],
    )
    due = sum(net + tax for _, net, tax, _ in lines) * 10_000
    before = (await balances(story))["payer/P"]
    outcome = await story.push(raw)
    await story.push(raw)
    assert outcome.receipt is not None
    assert outcome.receipt.parked == tuple((at, NAMES[names]) for at, (names, *_) in enumerate(lines) if NAMES[names])

    found = await balances(story)
    billed = found["payer/P"].debits_posted - before.debits_posted
    # All of it is billed or waits: nothing of what was claimed is nobody's.
    assert billed + credit(found, "unearned/S1") == due
    assert credit(found, "unearned/S1") == -credit(found, "suspense/S1")
    # A line that names another's quota ends no hold of it.
    assert found["payer/P"].debits_pending >= micros("3.00")
    assert (await story.store.verify()).fault == ""

    if release and any(account == "N" and net + tax for (account, _), net, tax, _ in lines):
        with pytest.raises(LedgerRefusal, match="account N is still unknown: put it first, or void the case"):
            await decide(story, release=True)
        await put(story, "N")
    await decide(story, release=release)
    await decide(story, release=release)
    await story.push(raw)
    found = await balances(story)
    assert credit(found, "unearned/S1") == credit(found, "suspense/S1") == 0
    earned = sum(credit(found, path) for path in found if path.startswith(("clearing/", "tax/")))
    assert earned == (due if release else billed)
    assert (await story.store.verify()).fault == ""


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(LINE, min_size=1, max_size=5), release=st.booleans())
def test_what_names_somebody_unknown_waits_and_is_billed_once_or_not_at_all(
    lines: list[tuple[tuple[str, str], int, int, str]], *, release: bool
) -> None:
    asyncio.run(told(lines, release=release))
