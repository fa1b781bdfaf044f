"""The worked example to its end: what the ledger's own core closed is what the rules say, and is planned as the page says."""

from ledger_story import EUR, NOW, OP, ORDER, SPLIT, Story, grants, seal_all

from farthing.ids import GatewayId, SiteId
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.settlement import closing
from farthing_cloud.settlement.plan import Payee, PayoutPlan, plan
from farthing_cloud.settlement.rules import FROM_THE_BEGINNING, Part, SplitRule, choose


def rule(site_id: str) -> SplitRule:
    return SplitRule(
        operator_id=OP,
        site_id=SiteId(site_id),
        version=SPLIT.rule_version,
        parts=tuple(Part(path=path, share_ppm=share) for path, share in SPLIT.parts),
        remainder_path=SPLIT.remainder_path,
        effective_from_us=FROM_THE_BEGINNING,
    )


async def test_from_batches_to_a_plan() -> None:
    store = MemoryStore()
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    for name in ORDER:
        await story.push(sealed[name])
    (case,) = await store.cases(OP)
    await story.ledger.decide_case(case.case_id, release=False, now=NOW)
    for gateway, sequence in (("G1", 1), ("G1", 2), ("G1", 3), ("G2", 1), ("G2", 2)):
        await story.ledger.prove(GatewayId(gateway), 1, sequence, events=(), now=NOW)

    rules = choose([rule("S1"), rule("S2")], {SiteId("S1"): 7_246_495, SiteId("S2"): 2_046_495}, at=NOW)
    assert isinstance(rules, tuple)
    asked = closing.request(operator_id=OP, currency=EUR, window="w1", rules=rules)
    answered = await story.ledger.close_window(
        OP, EUR, asked.window, {SiteId(split.site_id): SPLIT for split in asked.splits}, now=NOW
    )
    assert closing.disagreement(asked, answered) == ""

    balances = {path: each.credits_posted - each.debits_posted for path, _, each in await store.balances(OP, "")}
    made = plan(
        operator_id=OP,
        window="w1",
        currency=EUR,
        payees=[
            Payee(path=path, balance_micros=micros)
            for path, micros in balances.items()
            if path.startswith(("agency/", "fee/"))
        ],
        bank_micros=-balances["bank/main"],
        payers_own_micros=balances["payer/P"] + balances["payer/F"],
    )
    assert isinstance(made, PayoutPlan)
    assert [(each.path, each.owed_micros, each.planned_micros, each.stays_micros) for each in made.payouts] == [
        ("agency/A", 5_566_796, 5_560_000, 6_796),
        ("agency/B", 2_783_396, 2_780_000, 3_396),
        ("fee/op", 927_798, 920_000, 7_798),
    ]
    assert (made.cleared_cash_micros, made.total_micros) == (9_910_000, 9_260_000)


def test_a_cheating_answer_is_seen() -> None:
    asked = closing.request(operator_id=OP, currency=EUR, window="w1", rules=[rule("S1")])
    answered = ledger_pb2.CloseWindowResponse(next_window="w2")
    site = answered.sites.add(site_id="S1", split_micros=100)
    for path, micros in (("agency/A", 61), ("agency/B", 29), ("fee/op", 10)):
        site.results.add(path=path, amount_micros=micros)
    assert "agency/A 0.00006 + agency/B 0.00003 + fee/op 0.00001" in closing.disagreement(asked, answered)
    answered.sites[0].site_id = "S9"
    assert closing.disagreement(asked, answered) == "site S9 was split without a rule"
