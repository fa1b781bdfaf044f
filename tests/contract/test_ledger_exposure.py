"""Open quotas + floor <= gateway_exposure (DESIGN 5.9), whoever gives: a quota, a higher floor; and what a lower exposure does."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_story import EUR, NOW, OP, Story, micros

from farthing.ids import AccountId, GatewayId, SiteId
from farthing.v1 import directive_pb2, gateway_sync_pb2
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.quotas import QuotaRequest
from farthing_cloud.ledger.core.rows import QuotaRequested, QuotaStatus, Touch
from farthing_cloud.ledger.store.interface import LedgerStore, Transaction
from farthing_cloud.ledger.store.memory import MemoryStore

G1 = GatewayId("G1")


async def funded(store: LedgerStore) -> Story:
    """G1 has an exposure of 10.00, its account far more."""
    story = Story(store)
    await story.open()
    await story.fund("P", "100.00", "pay-1")
    return story


async def floor(story: Story, amount_micros: int, key: str) -> int:
    body = directive_pb2.FloorPolicy(currency=EUR, all_tokens_micros=amount_micros)
    return await story.ledger.issue_directive(OP, G1, body, idempotency_key=key, now=NOW)


async def expose(story: Story, amount_micros: int) -> bool:
    return await story.ledger.put_gateway(
        gateway_id=G1,
        operator_id=OP,
        site_id=SiteId("S1"),
        currency=EUR,
        exposure_micros=amount_micros,
        batch_key=b"",
        grant_key=b"",
        time_zone="Europe/Berlin",
        now=NOW,
    )


async def ask(story: Story, wanted_micros: int) -> QuotaRequested:
    story.counter += 1
    request = QuotaRequest(
        operator_id=OP,
        gateway_id=G1,
        incarnation=1,
        counter=story.counter,
        account_id=AccountId("P"),
        currency=EUR,
        wanted_micros=wanted_micros,
    )
    answer = await story.ledger.request_quota(request, now=NOW)
    story.quotas[f"q{story.counter}"] = answer.quota_id
    return answer


async def open_quotas(store: LedgerStore) -> dict[str, tuple[int, QuotaStatus]]:
    """What is held of each that is not closed."""

    async def work(tx: Transaction) -> dict[str, tuple[int, QuotaStatus]]:
        view = await tx.load(Touch(operator_id=OP, currency=EUR, gateway_ids=(G1,), incarnations=True))
        return {q.quota_id: (q.held_micros, q.status) for q in view.quotas.values()}

    return await store.run(work)


async def recalls(store: LedgerStore) -> list[str]:
    bodies = [directive_pb2.Directive.FromString(row.body) for row in await store.directives(G1, 0, 999)]
    return [body.quota_recalled.quota_id for body in bodies if body.HasField("quota_recalled")]


async def test_a_quota_leaves_the_floor_its_room(store: LedgerStore) -> None:
    story = await funded(store)
    await floor(story, micros("4.00"), "f1")
    assert (await ask(story, micros("7.00"))).amount_micros == micros("6.00")
    assert (await ask(story, 1)).answer == gateway_sync_pb2.QUOTA_ANSWER_EXPOSURE_REACHED


async def test_a_floor_takes_no_room_that_quotas_have(store: LedgerStore) -> None:
    story = await funded(store)
    await story.grant("q1", "G1", "7.00")
    before = await store.directives(G1, 0, 99)
    with pytest.raises(LedgerRefusal, match=r"of its exposure of 10\.00, 7\.00 are held"):
        await floor(story, micros("3.000001"), "f1")
    assert await store.directives(G1, 0, 99) == before
    # The same wish is heard again when there is room: a refusal leaves no trace.
    await floor(story, micros("3.00"), "f2")
    await story.push(story.seal("G1", [], [], closed=("q1",)))
    await floor(story, micros("3.000001"), "f1")
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert gateway.floor_micros == micros("3.000001")


async def test_what_is_billed_beyond_holds_leaves_a_higher_floor_no_room_either(store: LedgerStore) -> None:
    story = await funded(store)
    await story.push(
        story.seal("G1", [("o1", "x1", 1, 2, "4.00", "0", [(0, "4.00", "0")])], [("P", "overrun", ("c", 0), "10:00")])
    )
    with pytest.raises(LedgerRefusal, match=r"4\.00 billed beyond them"):
        await floor(story, micros("6.000001"), "f1")
    await floor(story, micros("6.00"), "f2")


async def test_a_lower_exposure_takes_back_what_is_open_above_it(store: LedgerStore) -> None:
    story = await funded(store)
    await floor(story, micros("2.00"), "f1")
    for _ in range(3):
        await ask(story, micros("2.50"))
    assert await expose(story, micros("6.00"))
    # 2.00 + 7.50 are 3.50 too many: two of three come back, no more.
    assert len(await recalls(store)) == 2
    assert sorted(status.value for _, status in (await open_quotas(store)).values()) == ["open", "recalled", "recalled"]
    assert (await ask(story, 1)).answer == gateway_sync_pb2.QUOTA_ANSWER_EXPOSURE_REACHED
    with pytest.raises(LedgerRefusal):
        await floor(story, micros("2.000001"), "f2")
    # What comes back already is not asked for again, and a lower floor is always heard.
    assert await expose(story, micros("5.00"))
    assert len(await recalls(store)) == 2
    await floor(story, micros("1.00"), "f3")
    names = {quota_id: name for name, quota_id in story.quotas.items()}
    back = tuple(names[quota_id] for quota_id in await recalls(store))
    await story.push(story.seal("G1", [], [], closed=back))
    assert (await ask(story, micros("9.00"))).amount_micros == micros("1.50")
    assert await expose(story, micros("20.00"))
    assert len(await recalls(store)) == 2
    assert (await store.verify()).fault == ""


amount = st.integers(0, 1_500)
deeds = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), amount.filter(bool)),
        st.tuples(st.just("floor"), amount),
        st.tuples(st.just("expose"), amount),
        st.tuples(st.just("close"), st.just(0)),
    ),
    max_size=14,
)


@given(steps=deeds)
def test_nothing_that_gives_more_goes_beyond_the_exposure(steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        store = MemoryStore()
        story = await funded(store)
        await expose(story, 1_000)
        for number, (what, micros_) in enumerate(steps):
            before = await store.gateway(G1)
            assert before is not None
            gave = False
            if what == "ask":
                gave = (await ask(story, micros_)).amount_micros > 0
            elif what == "expose":
                await expose(story, micros_)
            elif what == "floor":
                try:
                    await floor(story, micros_, f"f{number}")
                    gave = micros_ > before.floor_micros
                except LedgerRefusal:
                    assert micros_ > before.floor_micros
            else:
                live = await open_quotas(store)
                name = next((name for name, quota_id in story.quotas.items() if quota_id in live), None)
                if name is not None:
                    await story.push(story.seal("G1", [], [], closed=(name,)))
            gateway = await store.gateway(G1)
            assert gateway is not None
            held = await open_quotas(store)
            total = sum(each for each, _ in held.values()) + gateway.floor_micros
            if gave:
                assert total <= gateway.exposure_micros
            # When all comes back that was asked back, it fits again, as far as quotas can make it.
            stays = sum(each for each, status in held.values() if status is QuotaStatus.OPEN)
            assert stays == 0 or stays + gateway.floor_micros <= gateway.exposure_micros

    asyncio.run(play())
