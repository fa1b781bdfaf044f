"""What payers' documents are made of: one account's movements and one use's parts, on the worked example's day in PostgreSQL."""

from typing import Any

import pytest
from ledger_story import OP, ORDER, Story, afterwards, close_and_pay, grants, micros, seal_all

from farthing.clock import Instant
from farthing.v1 import movements_pb2
from farthing_cloud.ledger.core.posting import Cause, Transfer, TransferKind
from farthing_cloud.ledger.core.uses import by_rate
from farthing_cloud.ledger.movements import Movements
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

Found = dict[str, list[Any]]


async def told(movements: Movements, account: str, **more: Any) -> Found:
    found: Found = {"head": [], "movement": [], "billing": [], "credit": []}
    request = movements_pb2.ListMovementsRequest(operator_id=OP, account_id=account, **more)
    async for item in movements.of_account(request):
        kind = item.WhichOneof("item")
        assert kind is not None
        found[kind].append(getattr(item, kind))
    return found


def figures(balances: movements_pb2.PayerBalances) -> tuple[int, int, int, int]:
    return int(balances.credits_posted), int(balances.debits_posted), int(balances.held), int(balances.debt)


async def at_the_end(store: PostgresStore) -> Story:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    for name in ORDER:
        await story.push(sealed[name])
    await close_and_pay(story)
    await afterwards(story)
    return story


async def test_an_accounts_day(ledger_pool: Any) -> None:
    store = PostgresStore(ledger_pool)
    movements = Movements(ledger_pool, store)
    story = Story(store)
    await grants(story)
    seen = [(await told(movements, "P"))["head"][0]]
    sealed = seal_all(story)
    for name in ORDER:
        await story.push(sealed[name])
        seen.append((await told(movements, "P"))["head"][0])
    await close_and_pay(story)
    await afterwards(story)
    seen.append((await told(movements, "P"))["head"][0])

    # Point in time: what an account had at a place is what it had there, whatever came after.
    assert [figures(head.closing) for head in seen[:2]] == [
        (micros("10"), 0, micros("9"), 0),
        (micros("10"), micros("3.0411"), micros("5.9589"), 0),
    ]
    for head in seen:
        again = (await told(movements, "P", to_position=head.to_position))["head"][0]
        assert (again.closing, again.to_position) == (head.closing, head.to_position)
        rest = (await told(movements, "P", after_position=head.to_position))["head"][0]
        assert (rest.opening, rest.closing) == (head.closing, seen[-1].closing)

    day = await told(movements, "P")
    # Billed: all but what risk bore and what is set aside.
    billed = {(each.tariff_id, each.tax_rate_ppm): [0, 0, 0] for each in day["billing"]}
    for each in day["billing"]:
        sums = billed[each.tariff_id, each.tax_rate_ppm]
        for index, value in enumerate((each.net_micros, each.tax_micros, each.debt_micros)):
            sums[index] += value
    assert billed == {
        ("toll-1", 70_000): [micros("1.121495"), micros("0.078505"), 0],
        ("chg-3", 200_000): [micros("6.591666"), micros("1.318334"), micros("1.00")],
    }
    assert sum(sum(sums[:2]) for sums in billed.values()) == micros("9.11")
    (payer,) = await Reports(ledger_pool).payers(OP, "P")
    assert figures(day["head"][0].closing) == (
        payer.funds_micros,
        payer.posted_micros,
        payer.held_micros,
        payer.debt_micros,
    )
    assert payer.debt_micros == micros("9.11")
    # By the instant of posting: from the first place at or after it, which is the grant made much later, on.
    later = await told(movements, "P", from_us=1)
    assert [(move.kind, move.amount_micros) for move in later["movement"]] == [
        ("hold", 500_000),
        ("post", 390_000),
        ("post", 9_610_000),
        ("void", 500_000),
        ("post", 500_000),
    ]
    assert figures(later["head"][0].opening)[2] == 0


async def test_what_a_refund_gives_back_names_what_was_billed(ledger_pool: Any) -> None:
    store = PostgresStore(ledger_pool)
    movements = Movements(ledger_pool, store)
    await at_the_end(store)
    day = await told(movements, "F")
    (billing,), (credit,) = day["billing"], day["credit"]
    assert (billing.net_micros, billing.tax_micros, billing.debt_micros) == (1_121_495, 78_505, 400_000)
    assert (credit.of, credit.net_micros, credit.tax_micros) == (billing.key, 1_121_495, 78_505)
    assert (credit.correction_id, credit.kind, credit.reason) == ("refund-t4", "refund", "as the page tells")
    assert credit.authorization_id == b"t4".ljust(16)


async def test_a_use_with_its_parts_and_who_paid(ledger_pool: Any) -> None:
    store = PostgresStore(ledger_pool)
    movements = Movements(ledger_pool, store)
    await at_the_end(store)

    async def use(name: str) -> movements_pb2.ShowUseResponse:
        request = movements_pb2.ShowUseRequest(operator_id=OP, authorization_id=name.encode().ljust(16))
        return await movements.of_use(request)

    a1 = await use("a1")
    assert (a1.device_id, a1.register_from, a1.register_to) == ("c1", 812_340, 834_820)
    assert sum(part.net_micros for part in a1.parts) == a1.claimed_net_micros == micros("6.125")
    assert sum(part.tax_micros for part in a1.parts) == a1.claimed_tax_micros == micros("1.225")
    paid = [sum(getattr(part, name) for part in a1.parts) for name in ("balance_micros", "debt_micros", "risk_micros")]
    assert paid == [micros("5.80"), micros("1.00"), micros("0.55")]
    assert {part.tariff_id for part in a1.parts} == {"chg-3"}
    assert [part.quarter for part in a1.parts] == [40, 41, 41, 42, 44, 44]
    t4 = await use("t4")
    ((part,), (back,)) = t4.parts, t4.corrections
    assert (part.balance_micros, part.debt_micros, part.risk_micros, part.account_id) == (800_000, 400_000, 0, "F")
    assert (back.net_micros + back.tax_micros, back.risk_micros) == (1_200_000, 0)
    # Set aside and voided: claimed, and billed to nobody.
    t3 = await use("t3")
    assert (len(t3.parts), t3.claimed_net_micros) == (0, 1_121_495)


async def test_reconcile_tells_payments_for_uses_from_corrections(ledger_pool: Any) -> None:
    await at_the_end(PostgresStore(ledger_pool))
    sums = await Reports(ledger_pool).reconcile(OP, now=Instant(0), silent_us=1)
    # The bank took all of P's money back: what P's uses cost is owed again.
    assert (sums.payers_micros, sums.debt_micros, sums.corrections_micros) == (
        micros("1.20"),
        micros("9.11"),
        micros("10.00"),
    )
    assert sums.claimed_micros == sums.payers_micros + sums.debt_micros + sums.risk_micros + micros("1.20")


def test_each_rate_of_a_carried_end_has_its_own_net() -> None:
    def step(debit: str, *credits_: tuple[str, int]) -> list[Transfer]:
        return [
            Transfer(TransferKind.POST, debit, credit, amount, None, Cause.LATE, None, b"a")
            for credit, amount in credits_
        ]

    transfers = [
        *step("payer/P", ("clearing/S/w1", 100), ("tax/20", 20)),
        *step("debt/P", ("clearing/S/w1", 10), ("tax/20", 2)),
        *step("debt/P", ("clearing/S/w1", 50), ("tax/7", 3)),
        *step("risk", ("clearing/S/w1", 7)),
    ]
    sums = [[t.amount_micros for t in group] for group in by_rate(transfers)]
    assert sums == [[100, 20, 10, 2], [50, 3, 7]]
