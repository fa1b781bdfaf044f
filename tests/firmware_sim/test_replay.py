"""Real files played: every line is a row or has its reason, and time that is jumped over counts like time that passed."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.clock import SECOND_US, Instant
from farthing_firmware_sim.config import Device, Kind, ReplayFormat, Traffic
from farthing_firmware_sim.pace import FileClock
from farthing_firmware_sim.traffic.files import (
    AMOUNT_IMPOSSIBLE,
    ANOTHER_LINE,
    ENDS_BEFORE_START,
    ENERGY_IMPOSSIBLE,
    FIELD_MISSING,
    FORMATS,
    NO_ENERGY,
    NOT_PROCESSED,
    PAID_IN_CASH,
    POWER_IMPOSSIBLE,
    TIME_TWICE,
    ReplayError,
    Row,
    read,
)
from farthing_firmware_sim.traffic.replay import ABOVE_RATING, DEVICE_BUSY, OUTSIDE_SLICE, cut
from farthing_firmware_sim.traffic.schedule import MISSED, Replayed, ReplayedHousehold, lots

HOUR = 3_600
#: What reads as a decimal number, and is none that anything can count.
BEYOND_NUMBERS = ("NaN", "Infinity", "1e999999")
NOON = 1_772_420_400 * SECOND_US
CHARGER = Device.model_validate(
    {
        "id": "d-1",
        "kind": "charger",
        "party": "p",
        "gateways": ["gw-1"],
        "transport": "coap",
        "dh_key_file": "k",
        "register": {"id": "1", "epoch": 1, "unit": "Wh", "modulus": 10**9, "rated_per_hour": 11_000},
        "report_interval_s": 900,
        "tariffs": [{"id": "t", "version": 1}],
        "tokens": ["a", "b"],
    }
)


# Files ----------------------------------------------------------------------------------------------------------------


def item(name: str, begun: str, gone: str, *, done: str | None = None, kwh: object = 5.5, station: str = "s-1") -> dict:
    return {
        "sessionID": name,
        "stationID": station,
        "connectionTime": f"Thu, 02 Jan 2020 {begun} GMT",
        "doneChargingTime": None if done is None else f"Thu, 02 Jan 2020 {done} GMT",
        "disconnectTime": f"Thu, 02 Jan 2020 {gone} GMT",
        "kWhDelivered": kwh,
    }


def write(file: Path, items: list[object], *, packed: bool = False) -> Path:
    data = json.dumps({"_items": items}).encode()
    file.write_bytes(gzip.compress(data) if packed else data)
    return file


@pytest.mark.parametrize("packed", [False, True])
def test_every_row_of_acn_data_is_played_or_has_its_reason(tmp_path, packed):
    file = write(
        tmp_path / "acn.json",
        [
            item("a", "08:00:00", "10:00:00", done="09:00:00"),
            item("overlaps a", "09:00:00", "11:00:00"),
            item("b", "10:00:00", "12:00:00", kwh=5.814),
            item("c", "08:30:00", "09:30:00", station="s-2"),
            item("empty", "08:00:00", "09:00:00", kwh=0),
            item("backwards", "09:00:00", "08:00:00"),
            {"sessionID": "torn"},
            item("late", "23:00:00", "23:30:00"),
        ],
        packed=packed,
    )
    form, items = read(file, None)
    assert form is ReplayFormat.ACN_JSON
    part = cut(items, devices=["c-1", "c-2"], window_s=6 * HOUR, seed=1)
    assert part.rows_read == 8
    assert {name: [row.name for row in rows] for name, rows in part.by_device.items()} == {
        "c-1": ["a", "b"],
        "c-2": ["c"],
    }
    assert part.by_device["c-1"][1].quantity == 5_814
    assert part.skipped == {NO_ENERGY: 1, ENDS_BEFORE_START: 1, FIELD_MISSING: 1, DEVICE_BUSY: 1, OUTSIDE_SLICE: 1}
    assert sum(map(len, part.by_device.values())) + sum(part.skipped.values()) == part.rows_read


def csv_file(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return file


def test_perth_and_kinross_by_connector(tmp_path):
    file = csv_file(
        tmp_path / "perth.csv",
        "CP ID,Connector,Start Date,Start Time,End Date,End Time,Total kWh,Site,Model",
        '51516,2,31/08/2019,23:26,31/08/2019,23:54,12.78,"Kinross, Kinross",Triple',
        "51516,1,01/09/2019,00:05,01/09/2019,00:05,0.4,x,y",
        "51516,1,,,,,,x,y",
        "51516,1,01/09/2019,01:00,01/09/2019,02:00,-0.001,x,y",
        "51516,1,11/04/2019,14:32,11/04/2019,14:38,287.71,x,y",
        "51516,1,05/07/2019,07:47,05/07/2019,07:48,12.35,x,y",
        "51516,1,05/07/2019,09:47,05/07/2019,08:48,1.0,x,y",
        *(f"51516,1,06/07/2019,09:47,06/07/2019,10:48,{odd},x,y" for odd in BEYOND_NUMBERS),
    )
    form, items = read(file, None)
    assert form is ReplayFormat.PERTH_CSV
    assert items[0] == Row(
        name="2", station="51516-2", begun_s=1_567_293_960, done_s=1_567_295_640, gone_s=1_567_295_640, quantity=12_780
    )
    # Begun and over in one minute: it lasted a part of it.
    assert isinstance(items[1], Row)
    assert (items[1].gone_s - items[1].begun_s, items[1].quantity) == (60, 400)
    assert items[2:7] == (FIELD_MISSING, NO_ENERGY, ENERGY_IMPOSSIBLE, POWER_IMPOSSIBLE, ENDS_BEFORE_START)
    assert set(items[7:]) == {FIELD_MISSING}


def test_london_carries_what_is_less_than_a_watt_hour(tmp_path):
    file = csv_file(
        tmp_path / "lcl.csv",
        ",mac,datetime,kwhh",
        "0,M1,2012-04-12 08:00:00,0.0596",
        "1,M1,2012-04-12 08:30:00,0.0004",
        "2,M2,2012-04-12 08:30:00,0.0004",
        "3,M1,2012-04-12 08:30:00,0.5",
        "4,M1,2012-04-12 09:00:00,Null",
        *(f"5,M1,2012-04-12 09:30:00,{odd}" for odd in BEYOND_NUMBERS),
    )
    form, items = read(file, None)
    assert form is ReplayFormat.LONDON_CSV
    assert [each if isinstance(each, str) else (each.station, each.quantity) for each in items] == [
        ("M1", 59),
        ("M1", 1),
        ("M2", 0),
        TIME_TWICE,
        FIELD_MISSING,
        *(FIELD_MISSING for _ in BEYOND_NUMBERS),
    ]


def test_vending_machines_sell_each_card_transaction_once(tmp_path):
    head = "Status,Device ID,Transaction,TransDate,Type,LineTotal,TransTotal"
    day = '"Saturday, January 1, 2022"'
    file = csv_file(
        tmp_path / "vending.csv",
        head,
        f"Processed,V1,101,{day},Credit,3.5,5",
        f"Processed,V1,101,{day},Credit,1.5,5",
        f"Processed,V1,99,{day},Credit,2,2",
        f"Processed,V1,102,{day},Cash,2,2",
        f"Unlinked,V1,103,{day},Credit,2,2",
        "Processed,V1,104,sometime,Credit,2,2",
        f"Processed,V1,105,{day},Credit,2,1000.01",
        *(f"Processed,V1,106,{day},Credit,2,{odd}" for odd in BEYOND_NUMBERS),
    )
    form, items = read(file, None)
    assert form is ReplayFormat.VENDING_CSV
    first, again, other, *rest = items
    assert isinstance(first, Row)
    assert isinstance(other, Row)
    assert (first.quantity, again, other.quantity) == (500, ANOTHER_LINE, 200)
    # Spread over the day in the order of their numbers.
    assert other.begun_s < first.begun_s == first.gone_s
    assert rest[:4] == [PAID_IN_CASH, NOT_PROCESSED, FIELD_MISSING, AMOUNT_IMPOSSIBLE]
    assert set(rest[4:]) == {FIELD_MISSING}


@pytest.mark.parametrize(
    ("name", "form", "rows", "stations"),
    [
        ("ev_acn_caltech_2020.json.gz", ReplayFormat.ACN_JSON, 2_477, 50),
        ("ev_perth_kinross.csv.gz", ReplayFormat.PERTH_CSV, 32_711, 76),
        ("meter_lcl_MAC000584.csv.gz", ReplayFormat.LONDON_CSV, 32_904, 1),
        ("vending_machine_sales.csv.gz", ReplayFormat.VENDING_CSV, 6_445, 5),
    ],
)
def test_the_real_files_are_told_and_read_whole(shared_data, name, form, rows, stations):
    found, items = read(shared_data(f"data/{name}"), None)
    assert (found, len(items)) == (form, rows)
    assert len({each.station for each in items if isinstance(each, Row)}) == stations


def test_the_real_defects_are_named(shared_data):
    _, items = read(shared_data("data/ev_perth_kinross.csv.gz"), None)
    reasons = Counter(each for each in items if isinstance(each, str))
    # 105 rows without times, -0.001 kWh and empty uses, 287.71 kWh, and twelve kilowatt-hours in a minute; ends before starts.
    assert reasons[FIELD_MISSING] == 105
    assert reasons[ENERGY_IMPOSSIBLE] == 1
    assert reasons[POWER_IMPOSSIBLE] == 5
    assert reasons[NO_ENERGY] == 736
    assert reasons[ENDS_BEFORE_START] == 5


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"[]",
        b'{"_items": 3}',
        b'{"_items":' + b"[" * 100_000,
        b"\x1f\x8bnot gzip",
        # Its head is whole, and what follows is not.
        gzip.compress(b"mac,datetime,kwhh", mtime=0)[:10] + b"\xff" * 20,
        b"mac,datetime,kwhh\n" + b"1" * 200_000,
        b"\xff\xfe",
        b"a,b\n1,2\n",
        b"",
    ],
)
def test_a_file_of_another_kind_stops_the_start(tmp_path, content):
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ReplayError, match="file"):
        read(file, None)


def test_a_missing_file_stops_the_start(tmp_path):
    with pytest.raises(ReplayError, match="cannot read"):
        read(tmp_path / "none", None)


# Slices ---------------------------------------------------------------------------------------------------------------


def row(name: str, begun_s: int, gone_s: int, *, station: str = "s-1", quantity: int = 5_500) -> Row:
    return Row(name=name, station=station, begun_s=begun_s, done_s=gone_s, gone_s=gone_s, quantity=quantity)


def test_a_device_named_like_a_station_plays_it():
    rows = [row("a", 0, 10, station="other"), row("b", 5, 15, station="c-2")]
    part = cut(rows, devices=["c-1", "c-2"], window_s=None, seed=1)
    assert {name: [each.name for each in got] for name, got in part.by_device.items()} == {"c-1": ["a"], "c-2": ["b"]}


def test_in_turn_nothing_is_skipped():
    rows = [row("a", 0, 10), row("b", 5, 15, station="s-2"), row("c", 20, 30)]
    assert cut(rows, devices=["d"], window_s=None, seed=1).skipped == {DEVICE_BUSY: 1}
    part = cut(rows, devices=["d"], window_s=None, seed=1, in_turn=True)
    assert [each.name for each in part.by_device["d"]] == ["a", "b", "c"]
    assert not part.skipped


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 500), st.integers(1, 60), st.sampled_from("abc")).map(
            lambda each: row("r", each[0], each[0] + each[1], station=each[2])
        ),
        min_size=1,
        max_size=30,
    ),
    window_s=st.one_of(st.none(), st.integers(60, 300)),
    seed=st.integers(0, 5),
    in_turn=st.booleans(),
    bounds=st.tuples(st.integers(0, 100), st.integers(200, 600)),
)
def test_every_row_is_given_out_or_has_its_reason(rows, window_s, seed, in_turn, bounds):
    if not any(bounds[0] <= each.begun_s < bounds[1] for each in rows):
        return
    part = cut(
        rows, devices=["d", "e"], window_s=window_s, seed=seed, in_turn=in_turn, from_s=bounds[0], to_s=bounds[1]
    )
    assert sum(map(len, part.by_device.values())) + sum(part.skipped.values()) == part.rows_read == len(rows)
    for got in part.by_device.values():
        assert [each.begun_s for each in got] == sorted(each.begun_s for each in got)


def test_a_slice_is_the_seeds(shared_data):
    _, items = read(shared_data("data/ev_acn_caltech_2020.json.gz"), None)
    devices = ["c-1", "c-2", "c-3", "c-4"]
    parts = [cut(items, devices=devices, window_s=15 * HOUR, seed=seed) for seed in (1, 1, 2)]
    assert parts[0] == parts[1]
    assert parts[0].begins_s != parts[2].begins_s
    assert sum(map(len, parts[0].by_device.values())) >= 8, "a slice worth playing"


def test_what_its_device_cannot_deliver_is_named_and_not_played_in_part():
    rows = [row("a", 0, 3_600), row("b", 4_000, 7_599, quantity=11_000), row("c", 8_000, 11_600, quantity=11_000)]
    part = cut(rows, devices=["s-1", "d"], window_s=None, seed=1, rated_per_hour={"s-1": 11_000, "d": 50_000})
    assert [each.name for each in part.by_device["s-1"]] == ["a", "c"]
    assert part.skipped == {ABOVE_RATING: 1}
    with pytest.raises(ReplayError, match="rated"):
        cut(rows, devices=["d"], window_s=None, seed=1, rated_per_hour={"d": 5_000})


def test_a_window_is_chosen_among_what_can_be_played():
    fast = [row(f"f{at}", at * HOUR, at * HOUR + 60, station="s-1") for at in range(10)]
    slow = [row(f"s{at}", (20 + at) * HOUR, (21 + at) * HOUR, station="s-1") for at in range(3)]
    part = cut([*fast, *slow], devices=["d"], window_s=4 * HOUR, seed=1, rated_per_hour={"d": 11_000})
    assert [each.name for each in part.by_device["d"]][-1] == "s2"
    assert part.skipped[ABOVE_RATING] == 10


def test_nothing_to_play_is_said():
    with pytest.raises(ReplayError):
        cut([row("a", 0, 10)], devices=[], window_s=None, seed=1)
    with pytest.raises(ReplayError):
        cut([NO_ENERGY], devices=["d"], window_s=None, seed=1)


def test_every_format_has_its_reader_and_kind():
    assert set(FORMATS) == set(ReplayFormat)
    assert {form.kind for form in FORMATS.values()} == {Kind.CHARGER, Kind.SMART_METER, Kind.VENDING}


# Playing --------------------------------------------------------------------------------------------------------------


def replayed(rows: list[Row], *, in_turn: bool = False) -> Replayed:
    payers, salts, _ = lots(1, "d-1")
    return Replayed(
        device=CHARGER,
        traffic=Traffic(),
        lot=payers,
        token_lot=salts,
        rows=rows,
        begins_us=NOON,
        begins_s=rows[0].begun_s,
        in_turn=in_turn,
    )


def test_replayed_cars_come_and_leave_when_they_did():
    payers = replayed([row("a", 0, 2 * HOUR), row("b", 9_000, 3 * HOUR)])
    assert payers.next_due_us() == NOON
    assert payers.due(Instant(NOON))
    # Ten minutes late at the charger: it still leaves at ten.
    plan = payers.take(Instant(NOON + 600 * SECOND_US))
    assert plan.target == 5_500
    assert plan.stay_us == (2 * HOUR - 600) * SECOND_US
    assert plan.rate_per_hour == 2_750
    assert not payers.due(Instant(NOON + 2 * HOUR * SECOND_US))
    # The charger was not free before the second car left.
    assert not payers.due(Instant(NOON + 3 * HOUR * SECOND_US))
    assert payers.report() == {"played": 1, MISSED: 1, "not yet come": 0}
    assert payers.next_due_us() is None


def test_in_turn_a_late_car_still_stays_as_long_as_it_did():
    payers = replayed([row("a", 0, 2 * HOUR)], in_turn=True)
    assert payers.due(Instant(NOON + 9 * HOUR * SECOND_US))
    assert payers.take(Instant(NOON + 9 * HOUR * SECOND_US)).stay_us == 2 * HOUR * SECOND_US


@given(
    quantities=st.lists(st.integers(0, 7_000), min_size=1, max_size=10),
    gaps=st.lists(st.integers(0, 3), min_size=10, max_size=10),
)
def test_a_household_draws_what_its_rows_say(quantities, gaps):
    rows, at_s = [], 0
    for quantity, gap in zip(quantities, gaps, strict=False):
        rows.append(row("r", at_s, at_s + 1_800, quantity=quantity))
        at_s += 1_800 * (1 + gap)
    house = ReplayedHousehold(rows=rows, rated_per_hour=14_000, begins_us=0, begins_s=0)
    clock, rate, drawn = FileClock(Instant(0)), 0, 0
    while (due := house.next_due_us()) is not None:
        drawn += rate * (due - clock.now())
        clock.set_forward(due)
        assert house.due(clock.now())
        rate = house.take(clock.now())
    assert drawn == sum(quantities) * 3_600 * SECOND_US
    assert rate == 0
    assert house.report() == {"played": len(rows), "not yet come": 0}


def test_a_clock_of_a_file_never_goes_back():
    clock = FileClock(Instant(10))
    clock.set_forward(Instant(5))
    assert clock.now() == 10
