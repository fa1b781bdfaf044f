"""From the ledger's events to a blocked device."""

import asyncio
from typing import Any

import grpc
import pytest

from farthing.v1 import directive_pb2, events_pb2, fraud_pb2

pytestmark = pytest.mark.real


@pytest.fixture
def element(house: Any, elements: Any) -> Any:
    element = elements.Element("x1")
    house.registry.know(element)
    return element


async def cases(stub: Any, operator_id: str = "op") -> list[fraud_pb2.FraudCase]:
    return list((await stub.ListCases(fraud_pb2.ListCasesRequest(operator_id=operator_id))).cases)


async def acted(stub: Any) -> bool:
    return any(case.status == "acted" for case in await cases(stub))


async def test_a_clone_is_proven_and_blocked(house, element, running, until):
    original, copy = element.sign(7, gateway="gw-1"), element.sign(7, gateway="gw-2")
    async with running(house.build()) as stub:
        await house.outbox.evidence("x1", original)
        await house.outbox.evidence("x1", element.sign(8))
        await house.outbox.evidence("x1", copy, gateway="gw-2")
        await until(lambda: acted(stub))
        (case,) = await cases(stub)
        shown = await stub.ShowCase(fraud_pb2.ShowCaseRequest(case_id=case.case_id))
        assert await cases(stub, "somebody-else") == []
    assert house.registry.blocked == ["x1"]
    assert house.registry.devices["x1"].record.status == directive_pb2.DEVICE_STATUS_BLOCKED
    assert (case.operator_id, case.kind, case.device_id, case.status) == ("op", "clone", "x1", "acted")
    assert case.opened_at_us > 0
    assert "counter 7 of epoch 1 twice" in case.summary
    assert "gw-1 and gw-2; 1 proof" in case.summary
    assert list(shown.proof.statements) == [original, copy]
    assert list(shown.proof.gateway_ids) == ["gw-1", "gw-2"]
    assert (shown.proof.device_epoch, shown.proof.counter) == (1, 7)
    assert list(shown.actions) == ["block-device: done, blocked"]


async def test_both_in_one_event_or_batch_are_found_too(house, element, running, until):
    await house.outbox.evidence("x1", element.sign(7, gateway="gw-1"), element.sign(7, gateway="gw-2"))
    async with running(house.build()) as stub:
        await until(lambda: acted(stub))


async def test_the_same_proof_again_adds_nothing(house, element, running, until):
    first, second = element.sign(7, gateway="gw-1"), element.sign(7, gateway="gw-2")
    service = house.build()
    async with running(service) as stub:
        await house.outbox.evidence("x1", first)
        await house.outbox.evidence("x1", second)
        await until(lambda: acted(stub))
        for statement in (second, first, element.sign(7, gateway="gw-2")):
            await house.outbox.evidence("x1", statement)
        await until(lambda: service.consumer.state.handled == 5)
        (case,) = await cases(stub)
    assert "1 proof" in case.summary
    assert house.registry.blocked == ["x1"]


async def test_an_honest_device_has_no_case(house, element, running, until):
    service = house.build()
    intent = element.sign(1)
    async with running(service) as stub:
        for counter in range(2, 30):
            # The first statement of an authorization comes with each of its records.
            await house.outbox.evidence("x1", intent, element.sign(counter))
        await until(lambda: service.consumer.state.handled == 28)
        assert await cases(stub) == []
    assert house.registry.asked == ["op"]


async def test_a_new_proof_after_the_block_blocks_again(house, element, running, until):
    async with running(house.build()) as stub:
        await house.outbox.evidence("x1", element.sign(7, gateway="gw-1"), element.sign(7, gateway="gw-2"))
        await until(lambda: acted(stub))
        # A person trusted it again too early.
        house.registry.devices["x1"].record.status = directive_pb2.DEVICE_STATUS_ACTIVE
        await house.outbox.evidence("x1", element.sign(8, gateway="gw-1"), element.sign(8, gateway="gw-2"))
        await until(lambda: len(house.registry.blocked) == 2)
        await until(lambda: acted(stub))
        (case,) = await cases(stub)
    assert "2 proofs" in case.summary


async def test_what_is_decommissioned_stays_so(house, element, running, until):
    house.registry.know(element, status=directive_pb2.DEVICE_STATUS_DECOMMISSIONED)
    async with running(house.build()) as stub:
        await house.outbox.evidence("x1", element.sign(7, gateway="gw-1"), element.sign(7, gateway="gw-2"))
        await until(lambda: acted(stub))
        shown = await stub.ShowCase(fraud_pb2.ShowCaseRequest(case_id=(await cases(stub))[0].case_id))
    assert house.registry.blocked == []
    assert "left as it is" in shown.actions[0]


async def test_the_registry_is_waited_for(house, element, running, until):
    service = house.build()
    await house.outbox.evidence("x1", element.sign(1))
    async with running(service) as stub:
        await until(lambda: service.consumer.state.handled == 1)
        house.registry.away = True
        await house.outbox.evidence("x1", element.sign(7, gateway="gw-1"), element.sign(7, gateway="gw-2"))

        async def tried() -> bool:
            found = await cases(stub)
            if not found:
                return False
            shown = await stub.ShowCase(fraud_pb2.ShowCaseRequest(case_id=found[0].case_id))
            return "tried" in shown.actions[0]

        await until(tried)
        (case,) = await cases(stub)
        assert case.status == "open"
        house.registry.away = False
        await until(lambda: acted(stub))
    assert house.registry.blocked == ["x1"]


async def test_a_stopped_service_acts_when_it_is_back(house, element, running, until):
    house.registry.know(element)
    service = house.build()
    async with running(service):
        await house.outbox.evidence("x1", element.sign(1))
        await until(lambda: service.consumer.state.handled == 1)
        house.registry.away = True
        await house.outbox.evidence("x1", element.sign(7, gateway="gw-1"), element.sign(7, gateway="gw-2"))
        await until(lambda: service.consumer.state.handled == 2)
    house.registry.away = False
    async with running(house.build()) as stub:
        await until(lambda: acted(stub))
    assert house.registry.blocked == ["x1"]


async def test_keys_that_come_late_are_waited_for_in_the_park(house, elements, running, until):
    late = elements.Element("x2")
    service = house.build()
    async with running(service) as stub:
        await house.outbox.evidence("x2", late.sign(7, gateway="gw-1"), late.sign(7, gateway="gw-2"))
        await until(lambda: service.consumer.state.parked == 1)
        assert await cases(stub) == []
        house.registry.know(late)
        await until(lambda: acted(stub))
    assert await service.consumer.parked() == 0


async def test_a_forged_statement_is_parked_and_accuses_nobody(house, element, elements, running, until):
    forger = elements.Element("x1")
    service = house.build()
    async with running(service) as stub:
        await house.outbox.evidence("x1", element.sign(7, gateway="gw-1"))
        await house.outbox.evidence("x1", forger.sign(7, gateway="gw-2"))
        await house.outbox.evidence("x1", element.sign(8))
        await until(lambda: service.consumer.state.handled == 2)
        assert await cases(stub) == []
    assert await service.consumer.parked() == 1
    assert house.registry.blocked == []


async def test_memory_is_bounded_and_high_counters_push_nobody_out(house, element, running, until):
    service = house.build(remembered_statements=16)
    async with running(service) as stub:
        await house.outbox.evidence("x1", element.sign(2**60))
        for counter in range(1, 31):
            await house.outbox.evidence("x1", element.sign(counter))
        await until(lambda: service.consumer.state.handled == 31)
        async with house.pool.connection() as connection:
            kept = await (
                await connection.execute("SELECT min(counter), max(counter), count(*) FROM statement")
            ).fetchone()
        assert kept == (15, 30, 16)
        await house.outbox.evidence("x1", element.sign(20, gateway="gw-2"))
        await until(lambda: acted(stub))


async def test_the_ledgers_cases_stand_in_the_summary(house, element, running, until):
    service = house.build()
    async with running(service) as stub:
        for case_id, aside_micros in ((4, 1_200_000), (9, 300_000)):
            await house.outbox.publish(
                "case.opened",
                events_pb2.CaseOpened(
                    operator_id="op",
                    case_id=case_id,
                    device_id="x1",
                    authorization_id=b"a" * 16,
                    other_authorization_id=b"b" * 16,
                    aside_micros=aside_micros,
                ),
            )
        await until(lambda: service.consumer.state.handled == 2)
        assert await cases(stub) == []
        await house.outbox.evidence("x1", element.sign(7, gateway="gw-1"), element.sign(7, gateway="gw-2"))
        await until(lambda: acted(stub))
        (case,) = await cases(stub)
    assert case.summary.endswith("; ledger cases 4, 9 set 1.50 aside")


async def test_a_case_that_is_not_there(house, running):
    async with running(house.build()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ShowCase(fraud_pb2.ShowCaseRequest(case_id=77))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_many_devices_under_load_and_the_database_cut(house, elements, running, until):
    """P8: connections are cut while events come; every clone is found, nobody else is blocked."""
    devices = [elements.Element(f"d{n}") for n in range(8)]
    for each in devices:
        house.registry.know(each)
    service = house.build()
    async with running(service) as stub:

        async def cut() -> None:
            async with house.pool.connection() as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE pid <> pg_backend_pid() AND datname = current_database()"
                )

        for counter in range(1, 21):
            for each in devices:
                await house.outbox.evidence(each.device_id, each.sign(counter))
            if counter in (7, 14):
                await asyncio.gather(cut(), return_exceptions=True)
        for each in devices[:3]:
            await house.outbox.evidence(each.device_id, each.sign(10, gateway="gw-2"))

        async def all_blocked() -> bool:
            return {each.device_id for each in devices[:3]} <= set(house.registry.blocked)

        await until(all_blocked)
        await until(lambda: service.consumer.state.place.transaction_id == len(house.outbox.rows))
        assert len(await cases(stub)) == 3
    assert set(house.registry.blocked) == {"d0", "d1", "d2"}
    assert service.consumer.state.parked == 0
