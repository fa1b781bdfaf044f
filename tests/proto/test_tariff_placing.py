"""Prices under restrictions, reading by reading: the laws of interim bills, and wall clocks on both days that clocks change."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.clock import SECOND_US, Instant
from farthing.tariff import (
    Priced,
    Tariff,
    TariffError,
    Use,
    ceiling,
    is_placed,
    limit,
    one_shot_use,
    parse,
    price,
    readings_due,
)
from farthing.tariff.timetable import instant_of
from farthing.tariff.zones import TIME_ZONE_DATA, zone

BERLIN = "Europe/Berlin"
HOUR_US = 3_600 * SECOND_US


def tariff_of(*elements: dict[str, Any], **more: Any) -> Tariff:
    return parse(json.dumps({"id": "t", "currency": "EUR", "elements": list(elements)} | more).encode())


def element(kind: str, amount: float, *, step: int = 1, vat: float = 0, **restrictions: Any) -> dict[str, Any]:
    component = {"type": kind, "price": amount, "step_size": step, "vat": vat}
    return {"price_components": [component], "restrictions": restrictions or None}


def at(local: str, name: str = BERLIN) -> Instant:
    return instant_of(datetime.fromisoformat(local), zone(name))


Readings = Sequence[tuple[int, int]]


def metered(
    tariff: Tariff, unit: str, started_at: Instant, readings: Readings, time_zone: str = BERLIN
) -> tuple[list[Priced], Priced]:
    """(interim prices after each reading, the closing price at the last); readings are (instant, units from the start)."""
    use = Use(unit=unit, start=500, end=500, started_at=started_at, ended_at=started_at, time_zone=time_zone)
    interim, last = [], use
    for instant, units in readings:
        last = replace(use, end=500 + units, ended_at=Instant(instant))
        priced = price(tariff, last, closing=False)
        interim.append(priced)
        use = replace(last, placed=priced.placed, placed_to=last.end)
    return interim, price(tariff, last, closing=True)


DAY_AND_NIGHT = tariff_of(
    element("ENERGY", 0.30, start_time="06:00", end_time="22:00"),
    element("ENERGY", 0.10, start_time="22:00", end_time="06:00"),
)


# Wall clocks ----------------------------------------------------------------------------------------------------------


def test_the_time_zone_data_has_a_name() -> None:
    assert len(TIME_ZONE_DATA) == 5
    assert TIME_ZONE_DATA[:4].isdigit()


@pytest.mark.parametrize(
    ("start", "hours", "net"),
    [
        # 2.00 from 01:00 to 04:00 by the clock, else free.
        ("2026-03-28T00:00", 6, 6_000_000),
        # The clock goes from 02:00 to 03:00: there are two such hours.
        ("2026-03-29T00:00", 6, 4_000_000),
        # The clock goes from 03:00 back to 02:00: there are four.
        ("2026-10-25T00:00", 6, 8_000_000),
        # One of them has passed at the first 02:00, three at the second 03:00.
        ("2026-10-25T00:00", 2, 2_000_000),
        ("2026-10-25T00:00", 4, 6_000_000),
    ],
)
def test_an_hour_is_priced_as_often_as_the_clock_shows_it(start: str, hours: int, net: int) -> None:
    tariff = tariff_of(element("TIME", 2, start_time="01:00", end_time="04:00"), element("ENERGY", 0))
    begin = at(start)
    _, closing = metered(tariff, "Wh", begin, [(begin + hours * HOUR_US, 1)])
    assert closing.net_micros == net


def test_a_time_that_the_clock_skips_begins_with_the_next_that_it_shows() -> None:
    """02:30 never comes on the day in spring: what begins then begins at 03:00."""
    tariff = tariff_of(element("TIME", 2, start_time="02:30"), element("ENERGY", 0))
    begin = at("2026-03-29T01:30")
    _, closing = metered(tariff, "Wh", begin, [(begin + HOUR_US, 1)])
    # Half an hour until the clock jumps to 03:00, half an hour after.
    assert closing.net_micros == 1_000_000
    with pytest.raises(TariffError, match="put forward"):
        at("2026-03-29T02:30")


def test_a_time_that_the_clock_shows_twice_is_two_windows() -> None:
    tariff = tariff_of(element("TIME", 2, start_time="02:30", end_time="03:00"), element("ENERGY", 0))
    begin = at("2026-10-25T02:00")
    _, closing = metered(tariff, "Wh", begin, [(begin + 2 * HOUR_US, 1)])
    assert closing.net_micros == 2_000_000
    assert readings_due(
        tariff,
        Use(unit="Wh", start=0, end=0, started_at=begin, ended_at=begin, time_zone=BERLIN),
        after=begin,
        until=Instant(begin + 3 * HOUR_US),
        most=8,
    ) == tuple(begin + minutes * 60 * SECOND_US for minutes in (30, 60, 90, 120))


def test_past_midnight_each_side_has_its_own_weekday() -> None:
    """Friday 22:00 to 06:00 "on Fridays" is two hours on Friday's evening, and six on Friday's morning."""
    tariff = tariff_of(
        element("TIME", 1, start_time="22:00", end_time="06:00", day_of_week=["FRIDAY"]), element("ENERGY", 0)
    )
    friday = at("2026-01-02T00:00")
    _, closing = metered(tariff, "Wh", friday, [(friday + 48 * HOUR_US, 1)])
    assert closing.net_micros == 8_000_000


def test_dates_are_the_sites() -> None:
    tariff = tariff_of(
        element("TIME", 1, start_date="2026-01-02", end_date="2026-01-03"), element("TIME", 10), element("ENERGY", 0)
    )
    begin = at("2026-01-01T23:00", "America/Los_Angeles")
    _, closing = metered(tariff, "Wh", begin, [(begin + 26 * HOUR_US, 1)], "America/Los_Angeles")
    assert closing.net_micros == 10_000_000 + 24_000_000 + 10_000_000


def test_without_a_time_zone_there_is_no_price() -> None:
    use = Use(unit="Wh", start=0, end=1, started_at=Instant(0), ended_at=Instant(1))
    with pytest.raises(TariffError, match="time zone"):
        price(DAY_AND_NIGHT, use, closing=True)
    for name in ("Mars/Olympus", "../etc/passwd", "Europe", "Europe/", ""):
        with pytest.raises(TariffError, match=r"time zone"):
            price(DAY_AND_NIGHT, replace(use, time_zone=name or "/"), closing=True)


# What readings place --------------------------------------------------------------------------------------------------


def test_a_reading_at_the_change_places_what_is_used() -> None:
    begin, change, end = (at(f"2026-05-04T{time}") for time in ("21:00", "22:00", "23:00"))
    interim, closing = metered(DAY_AND_NIGHT, "Wh", begin, [(change, 2_000), (end, 5_000)])
    assert [priced.net_micros for priced in interim] == [600_000, 900_000]
    assert closing.net_micros == 900_000
    # Without it nobody can say how much came before ten: all of it costs what the night does.
    _, closing = metered(DAY_AND_NIGHT, "Wh", begin, [(end, 5_000)])
    assert closing.net_micros == 500_000


def test_standing_still_is_parking() -> None:
    tariff = tariff_of(element("TIME", 3, step=60), element("PARKING_TIME", 5, step=300), element("ENERGY", 0))
    begin = Instant(10**15)
    minutes = 60 * SECOND_US
    readings = [(begin + 10 * minutes, 100), (begin + 20 * minutes, 100), (begin + 31 * minutes, 100)]
    interim, closing = metered(tariff, "Wh", begin, readings)
    assert [priced.net_micros for priced in interim] == [500_000, 500_000 + 833_333, 500_000 + 1_750_000]
    # Charging to the second, parking in steps of five minutes: 21 are 25.
    assert closing.net_micros == 500_000 + 2_083_333
    # A tariff without PARKING_TIME asks nothing for it (OCPI: TIME is time charging).
    only_time = tariff_of(element("TIME", 3, step=60), element("ENERGY", 0))
    _, closing = metered(only_time, "Wh", begin, readings)
    assert closing.net_micros == 500_000


def test_thresholds_of_energy_split_a_reading_exactly() -> None:
    tariff = tariff_of(element("ENERGY", 0.20, max_kwh=10), element("ENERGY", 0.50, min_kwh=10))
    interim, closing = metered(tariff, "Wh", Instant(0), [(HOUR_US, 9_999), (2 * HOUR_US, 12_000)])
    assert [priced.net_micros for priced in interim] == [1_999_800, 2_000_000 + 1_000_000]
    assert closing.net_micros == 3_000_000


def test_durations_count_from_the_start() -> None:
    """The first half hour is free, then 4.00 an hour; what is used in the meantime needs a reading at the half hour."""
    tariff = tariff_of(
        element("TIME", 0, max_duration=1_800), element("TIME", 4), element("ENERGY", 0.1, min_duration=1_800)
    )
    begin = Instant(10**15)
    _, closing = metered(tariff, "Wh", begin, [(begin + HOUR_US, 1_000)])
    assert closing.net_micros == 2_000_000
    _, closing = metered(tariff, "Wh", begin, [(begin + HOUR_US // 2, 400), (begin + HOUR_US, 1_000)])
    assert closing.net_micros == 2_000_000 + 60_000
    use = Use(unit="Wh", start=0, end=0, started_at=begin, ended_at=begin)
    assert readings_due(tariff, use, after=begin, until=Instant(begin + HOUR_US), most=8) == (begin + HOUR_US // 2,)


def test_power_is_the_average_between_two_readings() -> None:
    tariff = tariff_of(element("ENERGY", 0.20, max_power=16), element("ENERGY", 0.50))
    _, closing = metered(tariff, "Wh", Instant(0), [(HOUR_US, 15_999), (2 * HOUR_US, 31_999)])
    assert closing.net_micros == 15_999 * 200 + 16_000 * 500


def test_any_unit_has_thresholds() -> None:
    tariff = tariff_of(element("UNIT", 1.5, max_units=3), element("UNIT", 1, min_units=3))
    _, closing = metered(tariff, "litre", Instant(0), [(1, 2), (2, 5)])
    assert closing.net_micros == 3 * 1_500_000 + 2 * 1_000_000
    assert not tariff.fits("Wh")
    assert not tariff.fits("s")


def test_seconds_that_are_bought_lie_where_the_clock_puts_them() -> None:
    """Two hours from 17:00 where parking costs until 18:00: one is paid."""
    tariff = tariff_of(element("TIME", 1.25, start_time="08:00", end_time="18:00"))
    use = one_shot_use("s", 40, 7_200, at("2026-05-04T17:00", "America/Los_Angeles"), "America/Los_Angeles")
    assert price(tariff, use, closing=True).net_micros == 1_250_000
    # A meter that is read: every second of the stretch was counted, so each is placed, to the tolerance of one.
    begin = at("2026-05-04T17:00")
    _, closing = metered(tariff, "s", begin, [(begin + 2 * HOUR_US, 7_199)])
    assert closing.net_micros == 1_249_652
    # One that stood still for a while may have done so in the dear hour.
    _, closing = metered(tariff, "s", begin, [(begin + 2 * HOUR_US, 7_000)])
    assert closing.net_micros == 0


def test_flat_is_due_once_when_its_element_holds() -> None:
    tariff = tariff_of(
        element("FLAT", 2, day_of_week=["SATURDAY", "SUNDAY"]), element("FLAT", 1), element("ENERGY", 0.1)
    )
    for day, flat in (("2026-05-08", 1_000_000), ("2026-05-09", 2_000_000)):
        begin = at(f"{day}T23:00")
        _, closing = metered(tariff, "Wh", begin, [(begin + 2 * HOUR_US, 1_000), (begin + 4 * HOUR_US, 2_000)])
        assert closing.net_micros == flat + 200_000


def test_a_use_without_width_costs_nothing() -> None:
    tariff = tariff_of(element("PARKING_TIME", 5), element("ENERGY", 0.1))
    _, closing = metered(tariff, "Wh", Instant(0), [(HOUR_US, 0), (2 * HOUR_US, 0)])
    assert closing.gross_micros == 0
    # With the first width the hours before it are due: the car was there.
    interim, _ = metered(tariff, "Wh", Instant(0), [(HOUR_US, 0), (2 * HOUR_US, 1_000)])
    assert [priced.net_micros for priced in interim] == [0, 5_100_000]


@pytest.mark.parametrize(
    ("one", "named"),
    [
        (element("ENERGY", 1, max_current=32), "current"),
        (element("UNIT", 1, max_power=32), "power"),
        (element("ENERGY", 1, max_units=32), "min_kwh"),
        (element("ENERGY", 1, reservation="RESERVATION"), "reservations"),
    ],
)
def test_what_no_register_shows_does_not_fit_it(one: dict[str, Any], named: str) -> None:
    tariff = tariff_of(one)
    unit = "Wh" if one["price_components"][0]["type"] == "ENERGY" else "passage"
    assert not tariff.fits(unit)
    assert named in tariff.why_not(unit)
    with pytest.raises(TariffError, match=named):
        price(tariff, Use(unit=unit, start=0, end=1, started_at=Instant(0), ended_at=Instant(1)), closing=True)


def test_in_force_from_and_until() -> None:
    tariff = tariff_of(
        element("ENERGY", 1), start_date_time="2026-01-01T00:00:00Z", end_date_time="2026-02-01T00:00:00"
    )
    first = 1_767_225_600 * SECOND_US
    assert [
        tariff.is_in_force(Instant(first + offset)) for offset in (-1, 0, 31 * 24 * HOUR_US - 1, 31 * 24 * HOUR_US)
    ] == [
        False,
        True,
        True,
        False,
    ]


def test_what_needs_no_placing_is_not_placed() -> None:
    assert not is_placed(tariff_of(element("FLAT", 1), element("ENERGY", 1)), "Wh")
    assert not is_placed(tariff_of(element("TIME", 1)), "s")
    # An element behind one without restrictions never counts; one for reservations never holds.
    shadowed = tariff_of(
        element("ENERGY", 9, reservation="RESERVATION"), element("ENERGY", 1), element("ENERGY", 2, min_kwh=3)
    )
    assert not is_placed(shadowed, "Wh")
    assert is_placed(DAY_AND_NIGHT, "Wh")


# Laws -----------------------------------------------------------------------------------------------------------------

_windows = st.sampled_from(
    [
        {},
        {"start_time": "08:00", "end_time": "18:00"},
        {"start_time": "18:00", "end_time": "08:00"},
        {"end_time": "02:30"},
        {"start_time": "02:30", "day_of_week": ["SUNDAY", "MONDAY"]},
        {"start_date": "2026-10-25", "end_date": "2026-10-26"},
        {"max_kwh": 2},
        {"min_kwh": 2, "max_kwh": 5},
        {"max_duration": 3_600},
        {"min_duration": 1_800},
        {"max_power": 5},
        {"min_power": 2, "end_time": "12:00"},
    ]
)
_components = st.sampled_from(["ENERGY", "TIME", "PARKING_TIME", "FLAT"])
_prices = st.sampled_from([0, 0.05, 0.25, 0.333333, 1.2, 3])


@st.composite
def restricted_tariffs(draw: st.DrawFn) -> Tariff:
    vats = draw(st.sampled_from([(20,), (7, 20)]))
    elements = [
        element(
            draw(_components),
            draw(_prices),
            step=draw(st.sampled_from([1, 60, 900])),
            vat=draw(st.sampled_from(vats)),
            **draw(_windows),
        )
        for _ in range(draw(st.integers(1, 5)))
    ]
    more: dict[str, Any] = {"tax_included": draw(st.booleans())}
    if draw(st.booleans()):
        more["max_price"] = draw(st.sampled_from([{"excl_vat": 3}, {"incl_vat": 4}, {"excl_vat": 3, "incl_vat": 3.2}]))
    if draw(st.booleans()):
        more["min_price"] = draw(st.sampled_from([{"excl_vat": 0.4}, {"incl_vat": 0.5}]))
    return tariff_of(*elements, **more)


@st.composite
def energy_tariffs(draw: st.DrawFn) -> Tariff:
    """Energy by the calendar, by amount and by duration; not by power, which is an average over what was heard."""
    windows = _windows.filter(lambda window: not window.keys() & {"min_power", "max_power"})
    prices = draw(st.lists(_prices, min_size=1, max_size=4))
    return tariff_of(*(element("ENERGY", amount, vat=20, **draw(windows)) for amount in prices))


@st.composite
def sessions(draw: st.DrawFn) -> tuple[Instant, list[tuple[int, int]]]:
    """A start around a day on which the clock changes, and readings a device may make."""
    start = draw(st.sampled_from([at("2026-10-24T20:00"), at("2026-03-28T23:30"), at("2026-10-25T00:10")]))
    instant, units, readings = int(start), 0, []
    for _ in range(draw(st.integers(1, 8))):
        instant += draw(st.sampled_from([0, 1, 61, 900, 3_600, 7_211, 20_000])) * SECOND_US
        units += draw(st.sampled_from([0, 0, 1, 116, 1_000, 2_500]))
        readings.append((instant, units))
    return start, readings


def sums(priced: Priced) -> list[tuple[int, int, int]]:
    return [(part.rate_ppm, part.net_micros, part.tax_micros) for part in priced.parts]


def never_fall(steps: Sequence[Priced]) -> None:
    for earlier, later in itertools.pairwise(steps):
        for (rate, net, tax), (same, more_net, more_tax) in zip(sums(earlier), sums(later), strict=True):
            assert rate == same
            assert net <= more_net
            assert tax <= more_tax


@settings(max_examples=60, deadline=None)
@given(restricted_tariffs(), sessions(), st.data())
def test_interim_bills_never_fall_whatever_is_lost(
    tariff: Tariff, session: tuple[Instant, list[tuple[int, int]]], data: st.DataObject
) -> None:
    """With any readings lost, bills rise from reading to reading and up to the closing one."""
    start, readings = session
    heard = [*(reading for reading in readings[:-1] if data.draw(st.booleans())), readings[-1]]
    interim, closing = metered(tariff, "Wh", start, heard)
    never_fall([*interim, closing])


@settings(max_examples=60, deadline=None)
@given(energy_tariffs(), sessions(), st.data())
def test_a_reading_that_is_lost_never_makes_what_is_counted_dearer(
    tariff: Tariff, session: tuple[Instant, list[tuple[int, int]]], data: st.DataObject
) -> None:
    """What is not placed costs the cheapest that it can have cost."""
    start, readings = session
    heard = [*(reading for reading in readings[:-1] if data.draw(st.booleans())), readings[-1]]
    with_all, _ = metered(tariff, "Wh", start, readings)
    with_some, _ = metered(tariff, "Wh", start, heard)
    assert with_some[-1].gross_micros <= with_all[-1].gross_micros


@settings(max_examples=60, deadline=None)
@given(restricted_tariffs(), sessions(), st.integers(0, 8), st.integers(0, 10**7))
def test_the_ceiling_holds_whatever_comes(
    tariff: Tariff, session: tuple[Instant, list[tuple[int, int]]], heard: int, budget_micros: int
) -> None:
    """No way on from here, up to so many units and until then, closes above the ceiling; the limit keeps within the budget."""
    start, readings = session
    heard = min(heard, len(readings) - 1)
    use = Use(unit="Wh", start=500, end=500, started_at=start, ended_at=start, time_zone=BERLIN)
    until, most = Instant(readings[-1][0]), readings[-1][1]
    placed, last = None, (int(start), 0)
    for reading in readings[:heard]:
        step = replace(use, end=500 + reading[1], ended_at=Instant(reading[0]), placed=placed, placed_to=500 + last[1])
        placed, last = price(tariff, step, closing=False).placed, reading
    here = replace(use, end=500 + last[1], ended_at=Instant(last[0]), placed=placed, placed_to=500 + last[1])
    _, closing = metered(tariff, "Wh", start, readings)
    if placed is not None or not heard:
        assert closing.gross_micros <= ceiling(tariff, here, most=most, until=until)
    covered = limit(tariff, here, most=most, until=until, budget_micros=budget_micros)
    if is_placed(tariff, "Wh") and covered > last[1]:
        assert ceiling(tariff, here, most=covered, until=until) <= budget_micros


@settings(max_examples=30, deadline=None)
@given(restricted_tariffs(), sessions())
def test_a_placed_state_survives_the_journal(tariff: Tariff, session: tuple[Instant, list[tuple[int, int]]]) -> None:
    """What is journaled of a use is all that its price needs: whole numbers, and the same price again."""
    start, readings = session
    interim, _ = metered(tariff, "Wh", start, readings)
    for priced in interim:
        if priced.placed is not None:
            assert all(
                slot.__class__ is int and quantity.__class__ is int for slot, quantity in priced.placed.quantities
            )


def test_a_clock_that_is_set_back_adds_no_time() -> None:
    tariff = tariff_of(element("TIME", 3.6), element("ENERGY", 0.1))
    begin = Instant(10**15)
    readings = [(begin + 100 * SECOND_US, 10), (begin + 40 * SECOND_US, 20), (begin + 110 * SECOND_US, 30)]
    interim, closing = metered(tariff, "Wh", begin, readings)
    assert [priced.net_micros for priced in interim] == [101_000, 102_000, 113_000]
    assert closing.net_micros == 113_000


def test_all_day_has_as_many_hours_as_the_clock_says() -> None:
    tariff = tariff_of(element("TIME", 1, day_of_week=["SUNDAY"]), element("ENERGY", 0))
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-05-03", 24)):
        begin = at((datetime.fromisoformat(day) - timedelta(hours=5)).isoformat())
        _, closing = metered(tariff, "Wh", begin, [(begin + 40 * HOUR_US, 1)])
        assert closing.net_micros == hours * 1_000_000
