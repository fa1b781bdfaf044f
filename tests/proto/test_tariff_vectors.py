"""OCPI's own worked examples, and the golden numbers of the worked day."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from farthing.clock import SECOND_US, Instant
from farthing.money import format_micros
from farthing.tariff import Use, limit, parse, price, readings_due
from farthing.tariff.session import parse_session, price_session
from farthing.tariff.timetable import instant_of
from farthing.tariff.zones import zone


def micros(amount: str) -> int:
    value = Decimal(amount) * 1_000_000
    assert value == int(value)
    return int(value)


def test_ocpi_examples(shared_data: Callable[[str], Path]) -> None:
    """Every example, exactly; its lines sum to its total."""
    cases = json.loads(shared_data("vectors/ocpi221_tariffs.json").read_text())["cases"]
    assert len(cases) == 15
    for case in cases:
        tariff = parse(json.dumps(case["tariff"]).encode())
        priced = price_session(tariff, parse_session(json.dumps(case).encode(), tariff))
        assert format_micros(priced.priced.net_micros) == case["total_excl_vat"], case["name"]
        assert format_micros(priced.priced.gross_micros) == case["total_incl_vat"], case["name"]
        assert sum(line.amount_micros for line in priced.lines) == priced.priced.net_micros, case["name"]


#: OCPI's examples that need what no register shows: a current, and reservations before the use.
NOT_OF_ONE_REGISTER = {"complex, Monday", "reservation, 15 min", "reservation fee and time, 13 min"}


def test_ocpi_examples_metered(shared_data: Callable[[str], Path]) -> None:
    """The same sessions from a register's readings, one at the end of each period and one at each change of price."""
    cases = json.loads(shared_data("vectors/ocpi221_tariffs.json").read_text())["cases"]
    metered = [case for case in cases if case["name"] not in NOT_OF_ONE_REGISTER]
    assert len(metered) == 12
    for case in metered:
        tariff = parse(json.dumps(case["tariff"]).encode())
        local = datetime.fromisoformat(case["start_local"])
        use = Use(
            unit="Wh",
            start=1_000_000,
            end=1_000_000,
            started_at=instant_of(local, zone(case["time_zone"])),
            ended_at=instant_of(local, zone(case["time_zone"])),
            time_zone=case["time_zone"],
        )
        billed = (0, 0)
        for period in case["periods"]:
            until = Instant(use.ended_at + period["duration_s"] * SECOND_US)
            asked = readings_due(tariff, use, after=use.ended_at, until=until, most=8)
            begin, value = use.ended_at, use.end
            for at in sorted({*asked, until}):
                share = period["energy_wh"] * (at - begin) // (until - begin)
                use = replace(use, end=value + share, ended_at=at)
                priced = price(tariff, use, closing=False)
                assert billed <= (priced.net_micros, priced.tax_micros), case["name"]
                billed = (priced.net_micros, priced.tax_micros)
                last, use = use, replace(use, placed=priced.placed, placed_to=use.end)
        closing = price(tariff, last, closing=True)
        total = (closing.net_micros, closing.gross_micros)
        assert total == (micros(case["total_excl_vat"]), micros(case["total_incl_vat"])), case["name"]


CHG_3 = parse(
    b"""{"id": "chg-3", "currency": "EUR", "elements": [{"price_components": [
        {"type": "FLAT", "price": 0.50, "vat": 20, "step_size": 1},
        {"type": "ENERGY", "price": 0.25, "vat": 20, "step_size": 100}]}]}"""
)
TOLL_1 = parse(
    b"""{"id": "toll-1", "currency": "EUR", "tax_included": true, "elements": [{"price_components": [
        {"type": "UNIT", "price": 1.20, "vat": 7, "step_size": 1}]}]}"""
)

#: T1 of the worked example: session, Wh so far, closing?, net, tax, most Wh before the next reading, held, limit.
T1 = [
    ("a1 10:00", 0, False, "0", "0", 4400, "1.92", 4400),
    ("a1 10:12", 4137, False, "1.53425", "0.30685", 4400, "1.3389", 8600),
    ("a1 10:24", 8303, False, "2.57575", "0.51515", 4400, "1.3491", 12800),
    ("a1 10:36", 12551, False, "3.63775", "0.72755", 4400, "0.4347", 14000),
    ("a1 11:12 end", 22480, True, "6.125", "1.225", None, None, None),
    ("a3 10:50", 0, False, "0", "0", 925, "0.90", 1000),
    ("a3 11:05", 880, False, "0.72", "0.144", 925, "0.306", 1900),
    ("a3 11:18", 1640, False, "0.91", "0.182", 925, "0.078", 1900),
    ("a3 11:24 end", 1640, True, "0.925", "0.185", None, None, None),
]


@pytest.mark.parametrize(("row", "wh", "closing", "net", "tax", "reach", "held", "limit_wh"), T1, ids=lambda v: str(v))
def test_worked_example_t1(
    row: str, wh: int, closing: bool, net: str, tax: str, reach: int | None, held: str | None, limit_wh: int | None
) -> None:
    start = 812_340 if row.startswith("a1") else 55_000
    use = Use(unit="Wh", start=start, end=start + wh, started_at=Instant(0), ended_at=Instant(3600 * SECOND_US))
    priced = price(CHG_3, use, closing=closing)
    assert (priced.net_micros, priced.tax_micros) == (micros(net), micros(tax))
    if reach is None or held is None:
        return
    budget = priced.gross_micros + micros(held)
    assert limit(CHG_3, use, most=wh + reach, until=use.ended_at, budget_micros=budget) == limit_wh


@pytest.mark.parametrize(
    ("row", "wh", "reach", "held"),
    [
        ("a1 10:00", 0, 4400, "1.92"),
        ("a1 10:12", 4137, 4400, "1.3389"),
        ("a1 10:24", 8303, 4400, "1.3491"),
        ("a3 10:50", 0, 925, "0.90"),
        ("a3 11:05", 880, 925, "0.306"),
    ],
)
def test_worked_example_holds(row: str, wh: int, reach: int, held: str) -> None:
    """A hold is the closing price of the most the device can reach before its next reading, less what is billed."""
    so_far = Use(unit="Wh", start=0, end=wh, started_at=Instant(0), ended_at=Instant(0))
    reached = Use(unit="Wh", start=0, end=wh + reach, started_at=Instant(0), ended_at=Instant(0))
    billed = price(CHG_3, so_far, closing=False).gross_micros
    assert price(CHG_3, reached, closing=True).gross_micros - billed == micros(held)


@pytest.mark.parametrize("closing", [False, True])
def test_worked_example_toll(closing: bool) -> None:
    use = Use(unit="passage", start=41, end=42, started_at=Instant(5), ended_at=Instant(5))
    priced = price(TOLL_1, use, closing=closing)
    assert (priced.net_micros, priced.tax_micros) == (1_121_495, 78_505)
    assert [part.rate_ppm for part in priced.parts] == [70_000]
    assert limit(TOLL_1, use, most=1, until=use.ended_at, budget_micros=1_200_000) == 1
    assert limit(TOLL_1, use, most=1, until=use.ended_at, budget_micros=1_199_999) == 0
