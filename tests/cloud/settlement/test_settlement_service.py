"""Rules in, a window closed, a plan made once."""

from typing import Any

import grpc
import psycopg
import pytest

from farthing.v1 import ledger_pb2, registry_pb2, settlement_pb2

pytestmark = pytest.mark.real

PARTS = {"agency/A": 600_000, "agency/B": 300_000, "fee/op": 100_000}
#: The worked example before its first closing: what stands where (credits minus debits).
EXAMPLE = {
    "clearing/S1/w1": 7_246_495,
    "clearing/S2/w1": 2_031_495,
    "bank/main": -10_800_000,
    "payer/P": 890_000,
    "payer/F": 0,
}


def agency(agency_id: str = "A", *, name: str = "Transport", dry_run: bool = False) -> settlement_pb2.PutAgencyRequest:
    return settlement_pb2.PutAgencyRequest(
        agency=settlement_pb2.Agency(agency_id=agency_id, operator_id="op", name=name), dry_run=dry_run
    )


def rule(
    site: str = "S1", version: int = 1, *, parts: dict[str, int] = PARTS, dry_run: bool = False, since: int = 0
) -> settlement_pb2.PutSplitRuleRequest:
    return settlement_pb2.PutSplitRuleRequest(
        rule=settlement_pb2.SplitRule(
            operator_id="op",
            site_id=site,
            version=version,
            parts=[ledger_pb2.SplitPart(path=path, share_ppm=share) for path, share in parts.items()],
            remainder_path="agency/A",
            effective_from_us=since,
        ),
        dry_run=dry_run,
    )


async def refused(call: Any, code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as err:
        await call
    assert err.value.code() == code, err.value.details()
    return str(err.value.details())


@pytest.fixture
async def ruled(office: Any) -> Any:
    """Two agencies, a rule for both sites, and the worked example's money."""
    for agency_id in ("A", "B"):
        await office.stub.PutAgency(agency(agency_id))
    for site in ("S1", "S2"):
        await office.stub.PutSplitRule(rule(site))
    office.books.balances.update(EXAMPLE)
    return office


def close(window: str = "") -> settlement_pb2.CloseRequest:
    return settlement_pb2.CloseRequest(operator_id="op", window=window)


def plan(window: str = "") -> settlement_pb2.PlanRequest:
    return settlement_pb2.PlanRequest(operator_id="op", window=window)


async def test_agencies_are_put_once_and_renamed(office):
    put = office.stub.PutAgency
    assert (await put(agency(dry_run=True))).change == registry_pb2.CHANGE_CREATED
    assert not (await office.stub.ListAgencies(settlement_pb2.ListAgenciesRequest(operator_id="op"))).agencies
    assert (await put(agency())).change == registry_pb2.CHANGE_CREATED
    assert (await put(agency())).change == registry_pb2.CHANGE_NONE
    renamed = await put(agency(name="Roads"))
    assert (renamed.change, list(renamed.differences)) == (registry_pb2.CHANGE_UPDATED, ["name: Transport -> Roads"])
    (stored,) = (await office.stub.ListAgencies(settlement_pb2.ListAgenciesRequest(operator_id="op"))).agencies
    assert (stored.agency_id, stored.name) == ("A", "Roads")
    await refused(put(agency("a/b")), grpc.StatusCode.INVALID_ARGUMENT)
    stranger = settlement_pb2.PutAgencyRequest(
        agency=settlement_pb2.Agency(agency_id="A", operator_id="nobody", name="X")
    )
    assert "no operator nobody" in await refused(put(stranger), grpc.StatusCode.NOT_FOUND)


async def test_rules_are_versioned(office):
    put = office.stub.PutSplitRule
    dry = await put(rule(dry_run=True))
    assert dry.change == registry_pb2.CHANGE_CREATED
    assert "agency A: must be put first" in list(dry.differences)
    assert "no agency A, B" in await refused(put(rule()), grpc.StatusCode.FAILED_PRECONDITION)
    for agency_id in ("A", "B"):
        await office.stub.PutAgency(agency(agency_id))
    assert (await put(rule())).change == registry_pb2.CHANGE_CREATED
    assert (await put(rule())).change == registry_pb2.CHANGE_NONE
    assert (await put(rule(dry_run=True))).change == registry_pb2.CHANGE_NONE
    other = {"agency/A": 1_000_000}
    assert "put version 2" in await refused(put(rule(parts=other)), grpc.StatusCode.FAILED_PRECONDITION)
    assert (await put(rule(version=2, parts=other))).change == registry_pb2.CHANGE_UPDATED
    short = {"agency/A": 600_000, "agency/B": 300_000}
    assert "make 90 %" in await refused(put(rule(version=3, parts=short)), grpc.StatusCode.INVALID_ARGUMENT)
    assert "no site S9" in await refused(put(rule("S9")), grpc.StatusCode.NOT_FOUND)
    listed = (await office.stub.ListSplitRules(settlement_pb2.ListSplitRulesRequest(operator_id="op"))).rules
    assert [(each.site_id, each.version, len(each.parts)) for each in listed] == [("S1", 1, 3), ("S1", 2, 1)]
    assert {part.path: part.share_ppm for part in listed[0].parts} == PARTS


async def test_nobody_changes_a_stored_rule_or_plan(ruled):
    await ruled.stub.Close(close())
    await ruled.stub.Plan(plan())
    async with ruled.pool.connection() as connection:
        for table in ("split_rule", "split_part", "payout_plan", "payout_promise"):
            with pytest.raises(psycopg.errors.RaiseException, match="never changed"):
                async with connection.transaction():
                    await connection.execute(f"DELETE FROM {table}")


async def test_the_worked_example_is_closed_and_planned(ruled):
    closed = await ruled.stub.Close(close())
    assert (closed.closed_window, closed.next_window) == ("w1", "w2")
    assert {site.site_id: {r.path: r.amount_micros for r in site.results} for site in closed.sites} == {
        "S1": {"agency/A": 4_347_898, "agency/B": 2_173_948, "fee/op": 724_649},
        "S2": {"agency/A": 1_218_898, "agency/B": 609_448, "fee/op": 203_149},
    }
    made = (await ruled.stub.Plan(plan())).plan
    assert [(p.path, p.owed_micros, p.planned_micros, p.stays_micros) for p in made.payouts] == [
        ("agency/A", 5_566_796, 5_560_000, 6_796),
        ("agency/B", 2_783_396, 2_780_000, 3_396),
        ("fee/op", 927_798, 920_000, 7_798),
    ]
    assert (made.window, made.currency, made.total_micros) == ("w1", "EUR", 9_260_000)
    assert made.cleared_cash_micros == 9_910_000
    assert len(made.content_hash) == 32


async def test_the_same_window_gives_the_same_plan_whatever_happened_since(ruled):
    await ruled.stub.Close(close())
    first = await ruled.stub.Plan(plan("w1"))
    ruled.books.balances["agency/A"] += 1_000_000
    assert await ruled.stub.Plan(plan("w1")) == first
    shown = await ruled.stub.ShowPlan(settlement_pb2.ShowPlanRequest(plan_id=first.plan.plan_id))
    assert shown.plan == first.plan
    await refused(ruled.stub.ShowPlan(settlement_pb2.ShowPlanRequest(plan_id="plan-0")), grpc.StatusCode.NOT_FOUND)


async def test_the_next_window_does_not_promise_again(ruled):
    await ruled.stub.Close(close())
    await ruled.stub.Plan(plan())
    ruled.books.balances["clearing/S1/w2"] = 100_000
    await ruled.stub.Close(close())
    made = (await ruled.stub.Plan(plan())).plan
    assert made.window == "w2"
    # 0.06 of this window and what rounding left of the last one.
    assert {payout.path: payout.owed_micros for payout in made.payouts} == {
        "agency/A": 66_796,
        "agency/B": 33_396,
        "fee/op": 17_798,
    }
    assert made.total_micros == 60_000 + 30_000 + 10_000
    assert made.cleared_cash_micros == 9_910_000 - 9_260_000


async def test_closing_twice_gives_the_first_answer(ruled):
    first = await ruled.stub.Close(close("w1"))
    assert await ruled.stub.Close(close("w1")) == first
    assert len(ruled.books.asked) == 1


async def test_a_lost_answer_is_asked_for_again_in_the_same_words(ruled):
    ruled.books.lose_answers = True
    await refused(ruled.stub.Close(close()), grpc.StatusCode.UNAVAILABLE)
    # A new rule in between changes nothing about a question that was asked; nor is the next window closed instead.
    await ruled.stub.PutSplitRule(rule(version=2, parts={"agency/A": 1_000_000}))
    ruled.books.lose_answers = False
    answer = await ruled.stub.Close(close())
    assert answer.closed_window == "w1"
    assert ruled.books.asked[0] == ruled.books.asked[1]
    assert ruled.books.window == "w2"


async def test_what_the_ledger_refused_is_asked_anew(ruled):
    ruled.books.refuse = "batches are under review"
    assert "under review" in await refused(ruled.stub.Close(close()), grpc.StatusCode.FAILED_PRECONDITION)
    await ruled.stub.PutSplitRule(rule(version=2, parts={"agency/A": 1_000_000}))
    ruled.books.refuse = ""
    await ruled.stub.Close(close())
    assert [split.rule_version for split in ruled.books.asked[1].splits] == [2, 1]


async def test_a_site_with_money_needs_a_rule(office):
    for agency_id in ("A", "B"):
        await office.stub.PutAgency(agency(agency_id))
    await office.stub.PutSplitRule(rule("S1"))
    office.books.balances.update(EXAMPLE)
    why = await refused(office.stub.Close(close()), grpc.StatusCode.FAILED_PRECONDITION)
    assert "S2 (2.031495)" in why
    assert "split-rules put" in why
    assert not office.books.asked
    await office.stub.PutSplitRule(rule("S2"))
    assert (await office.stub.Close(close())).closed_window == "w1"


async def test_a_rule_of_the_future_is_no_rule_yet(office):
    for agency_id in ("A", "B"):
        await office.stub.PutAgency(agency(agency_id))
    await office.stub.PutSplitRule(rule("S1", since=2**52))
    office.books.balances["clearing/S1/w1"] = 1
    await refused(office.stub.Close(close()), grpc.StatusCode.FAILED_PRECONDITION)


async def test_a_split_that_is_not_the_rules_pays_nobody(ruled):
    ruled.books.cheat_micros = 1
    await ruled.stub.Close(close())
    why = await refused(ruled.stub.Plan(plan()), grpc.StatusCode.FAILED_PRECONDITION)
    assert "site S1" in why
    assert "4.347899" in why


async def test_plans_need_a_closed_window_and_cleared_cash(ruled):
    assert "settlement close" in await refused(ruled.stub.Plan(plan()), grpc.StatusCode.FAILED_PRECONDITION)
    await ruled.stub.Close(close())
    assert "w7" in await refused(ruled.stub.Plan(plan("w7")), grpc.StatusCode.FAILED_PRECONDITION)
    ruled.books.balances["payer/P"] = 2_000_000
    why = await refused(ruled.stub.Plan(plan()), grpc.StatusCode.FAILED_PRECONDITION)
    assert "bank 10.80 - payers own 2.00" in why
    ruled.books.balances["bank/main"] = -20_000_000
    assert (await ruled.stub.Plan(plan())).plan.total_micros == 9_260_000


async def test_balances_that_move_are_read_again(ruled):
    await ruled.stub.Close(close())
    ruled.books.moves = iter([("agency/A", 5), ("agency/A", 5)])
    made = (await ruled.stub.Plan(plan())).plan
    assert made.payouts[0].owed_micros == 5_566_806
    assert ruled.books.balances["agency/A"] == 5_566_806


async def test_the_database_cut_under_load_loses_no_closing(ruled):
    """P8: what was asked goes on where it was."""
    ruled.books.lose_answers = True
    await refused(ruled.stub.Close(close()), grpc.StatusCode.UNAVAILABLE)
    async with ruled.pool.connection() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    ruled.books.lose_answers = False
    assert (await ruled.stub.Close(close())).closed_window == "w1"
    assert (await ruled.stub.Plan(plan())).plan.total_micros == 9_260_000
