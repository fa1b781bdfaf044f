"""Settlement before the ledger itself: the worked example's batches in PostgreSQL, closed and planned over gRPC."""

from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest
from ledger_story import OP, ORDER, Story, grants, seal_all

from farthing.clock import Instant, real_clock
from farthing.ids import GatewayId
from farthing.v1 import ledger_pb2, ledger_pb2_grpc, settlement_pb2
from farthing_cloud.callers import Caller
from farthing_cloud.ledger.back_office import LedgerServicer
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.bundles import Bundles
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.store.postgres import PostgresStore

#: Nobody carries a batch by hand here.
NO_IMPORTS: Any = None

pytestmark = pytest.mark.real

PARTS = {"agency/A": 600_000, "agency/B": 300_000, "fee/op": 100_000}


@pytest.fixture
async def books(ledger_pool: Any) -> Any:
    """In the place of the fake: a real ledger in which all of the worked example is posted, and all but L12 proven."""
    store = PostgresStore(ledger_pool)
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    for name in ORDER:
        await story.push(sealed[name])
    (case,) = await Reports(ledger_pool).cases(OP, after=0, limit=2)
    await story.ledger.decide_case(case.case_id, release=False, now=Instant(0))
    for gateway, sequence in (("G1", 1), ("G1", 2), ("G1", 3), ("G2", 1), ("G2", 2)):
        await story.ledger.prove(GatewayId(gateway), 1, sequence, events=(), now=Instant(0))
    return LedgerServicer(
        ledger=story.ledger,
        reports=Reports(ledger_pool),
        bundles=Bundles(store, receipt_keys=()),
        plans=CorrectionPlans(story.ledger),
        imports=NO_IMPORTS,
        clock=real_clock(),
        directives_wanted=Bell(),
        events=Bell(),
        caller=lambda _context: Caller(kind="service", id="settlement"),
        silent_us=600_000_000,
    )


async def test_the_worked_example_before_the_real_ledger(office: Any) -> None:
    for agency_id in ("A", "B"):
        agency = settlement_pb2.Agency(agency_id=agency_id, operator_id=OP, name=agency_id)
        await office.stub.PutAgency(settlement_pb2.PutAgencyRequest(agency=agency))
    for site_id in ("S1", "S2"):
        rule = settlement_pb2.SplitRule(
            operator_id=OP,
            site_id=site_id,
            version=1,
            parts=[ledger_pb2.SplitPart(path=path, share_ppm=share) for path, share in PARTS.items()],
            remainder_path="agency/A",
        )
        if site_id == "S2":
            # A site with money and without a rule closes nothing.
            with pytest.raises(grpc.aio.AioRpcError, match=r"S2 \(2\.046495\)"):
                await office.stub.Close(settlement_pb2.CloseRequest(operator_id=OP))
        await office.stub.PutSplitRule(settlement_pb2.PutSplitRuleRequest(rule=rule))

    closed = await office.stub.Close(settlement_pb2.CloseRequest(operator_id=OP))
    assert (closed.closed_window, closed.next_window) == ("w1", "w2")
    assert [(site.site_id, site.split_micros, site.carried_micros) for site in closed.sites] == [
        ("S1", 7_246_495, 0),
        ("S2", 2_031_495, 15_000),
    ]
    assert await office.stub.Close(settlement_pb2.CloseRequest(operator_id=OP, window="w1")) == closed

    made = (await office.stub.Plan(settlement_pb2.PlanRequest(operator_id=OP))).plan
    assert [(each.path, each.owed_micros, each.planned_micros, each.stays_micros) for each in made.payouts] == [
        ("agency/A", 5_566_796, 5_560_000, 6_796),
        ("agency/B", 2_783_396, 2_780_000, 3_396),
        ("fee/op", 927_798, 920_000, 7_798),
    ]
    assert (made.cleared_cash_micros, made.total_micros) == (9_910_000, 9_260_000)


async def test_settlement_that_forgot_asks_the_ledger_and_hears_the_first_answer(office: Any, books: Any) -> None:
    """A restored settlement closes the named window again: the ledger divides nothing twice."""
    await test_the_worked_example_before_the_real_ledger(office)
    async with AsyncExitStack() as stack:
        server = grpc.aio.server()
        ledger_pb2_grpc.add_LedgerServicer_to_server(books, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        again = await ledger_pb2_grpc.LedgerStub(channel).CloseWindow(
            ledger_pb2.CloseWindowRequest(operator_id=OP, currency="EUR", window="w1")
        )
    assert again.next_window == "w2"
    assert sum(result.amount_micros for site in again.sites for result in site.results) == 7_246_495 + 2_031_495
