"""Where uses come from: the statistics are the data's, the draws are the seed's, and every row of a file is accounted for."""

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.clock import SECOND_US, Instant
from farthing_firmware_sim.config import Device, ReplayFormat, Traffic
from farthing_firmware_sim.traffic import statistics
from farthing_firmware_sim.traffic.measure import everything, quantiles
from farthing_firmware_sim.traffic.replay import (
    CHARGER_BUSY,
    ENDS_BEFORE_START,
    FIELD_MISSING,
    NO_ENERGY,
    OUTSIDE_SLICE,
    READERS,
    ReplayError,
    cut,
)
from farthing_firmware_sim.traffic.schedule import MISSED, Drawn, Household, Replayed, lots

HOUR = 3_600
NOON = 1_772_420_400 * SECOND_US


def device(kind: str, rated: int, **more: object) -> Device:
    return Device.model_validate(
        {
            "id": "d-1",
            "kind": kind,
            "party": "p",
            "gateways": ["gw-1", "gw-2"],
            "transport": "coap",
            "dh_key_file": "k",
            "register": {"id": "1", "epoch": 1, "unit": "u", "modulus": 10**9, "rated_per_hour": rated},
            "report_interval_s": 900,
            "tariffs": [{"id": "t", "version": 1}],
            "tokens": ["a", "b"],
            **more,
        }
    )


def drawn(what: Device, seed: int = 1) -> Drawn:
    payers, salts, _ = lots(seed, what.id)
    return Drawn(device=what, traffic=Traffic(), lot=payers, token_lot=salts, next_us=NOON, uses_left=what.uses)


def test_the_figures_are_those_of_the_files(shared_data):
    found = everything(shared_data("data"))
    assert found["acn_caltech_2020"] == {
        "energy_wh": statistics.ACN_ENERGY_WH,
        "power_w": statistics.ACN_POWER_W,
        "idle_s": statistics.ACN_IDLE_S,
    }
    assert found["perth_kinross"] == {
        "energy_wh": statistics.PERTH_KINROSS_ENERGY_WH,
        "power_w": statistics.PERTH_KINROSS_POWER_W,
    }
    assert found["low_carbon_london"] == {"half_hour_wh": statistics.LOW_CARBON_LONDON_HALF_HOUR_WH}
    assert found["vending"] == {"payment_cents": statistics.VENDING_PAYMENT_CENTS}
    assert found["san_diego"] == {
        "longest_stay_min": statistics.SAN_DIEGO_LONGEST_STAY_MIN,
        "price_cents_per_hour": statistics.SAN_DIEGO_PRICE_CENTS_PER_HOUR,
    }


@given(values=st.lists(st.integers(0, 10**6), min_size=1, max_size=200), rank=st.integers(0, 10**6))
def test_a_draw_lies_between_its_quantiles(values, rank):
    table = quantiles(values)
    assert (table[0], table[-1]) == (min(values), max(values))
    assert list(table) == sorted(table)
    assert table[0] <= statistics.at_rank(table, rank) <= table[-1]


@pytest.mark.parametrize(
    ("kind", "rated"), [("charger", 11_000), ("charger", 50_000), ("parking", 3_600), ("toll", 3_600)]
)
def test_one_seed_one_day(kind, rated):
    what = device(kind, rated)
    first, second, other = drawn(what), drawn(what), drawn(what, seed=2)
    plans = [first.take(Instant(NOON)) for _ in range(50)]
    assert plans == [second.take(Instant(NOON)) for _ in range(50)]
    assert plans != [other.take(Instant(NOON)) for _ in range(50)]
    for plan in plans:
        assert plan.target > 0
        assert plan.rate_per_hour <= rated
        assert plan.token in (b"a", b"b")
        assert len(plan.gateways) == (1 if kind == "toll" else 2)
        if kind == "parking":
            assert plan.wanted == plan.target == plan.stay_us // SECOND_US
    assert len({plan.salt for plan in plans}) == 50


def test_a_charger_has_a_handful_of_uses_in_a_day():
    uses = []
    for seed in range(40):
        payers, now, count = drawn(device("charger", 11_000), seed), NOON, 0
        while now < NOON + 15 * HOUR * SECOND_US:
            if payers.due(Instant(now)):
                now += payers.take(Instant(now)).stay_us
                payers.left(Instant(now))
                count += 1
            now += 60 * SECOND_US
        uses.append(count)
    assert 2 <= sum(uses) / len(uses) <= 10


def test_uses_may_be_numbered():
    payers = drawn(device("toll", 3_600, uses=2))
    later = Instant(NOON + 10**12)
    assert payers.due(later)
    payers.take(later)
    payers.take(later)
    assert not payers.due(Instant(later + 10**12))


def test_weights_choose_the_gateway():
    payers = drawn(device("toll", 3_600, gateway_weights=[0, 1]))
    assert {payers.take(Instant(NOON)).gateways for _ in range(20)} == {("gw-2",)}


def test_a_household_draws_what_its_connection_carries():
    house = Household(lot=random.Random(3), rated_per_hour=14_000, next_us=NOON)
    rates = []
    for half_hour in range(200):
        now = Instant(NOON + half_hour * 1_800 * SECOND_US)
        assert house.due(now)
        rates.append(house.take(now))
        assert not house.due(now)
    assert min(rates) > 0
    assert max(rates) <= 14_000


# Replay ---------------------------------------------------------------------------------------------------------------


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
def test_every_row_is_played_or_has_its_reason(tmp_path, packed):
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
    part = cut(READERS[ReplayFormat.ACN_JSON](file), chargers=["c-1", "c-2"], window_s=6 * HOUR, seed=1)
    assert part.rows_read == 8
    assert {name: [row.name for row in rows] for name, rows in part.by_charger.items()} == {
        "c-1": ["a", "b"],
        "c-2": ["c"],
    }
    assert part.by_charger["c-1"][1].energy_wh == 5_814
    assert part.skipped == {
        NO_ENERGY: 1,
        ENDS_BEFORE_START: 1,
        FIELD_MISSING: 1,
        CHARGER_BUSY: 1,
        OUTSIDE_SLICE: 1,
    }
    assert sum(map(len, part.by_charger.values())) + sum(part.skipped.values()) == part.rows_read


def test_replayed_cars_come_and_leave_when_they_did(tmp_path):
    file = write(tmp_path / "acn.json", [item("a", "08:00:00", "10:00:00"), item("b", "10:30:00", "11:00:00")])
    part = cut(READERS[ReplayFormat.ACN_JSON](file), chargers=["d-1"], window_s=6 * HOUR, seed=1)
    lot, salts, _ = lots(1, "d-1")
    payers = Replayed(
        device=replaced_gateways(device("charger", 11_000)),
        traffic=Traffic(),
        lot=lot,
        token_lot=salts,
        rows=part.by_charger["d-1"],
        begins_us=NOON,
        begins_s=part.begins_s,
    )
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


def replaced_gateways(what: Device) -> Device:
    return what.model_copy(update={"gateways": ("gw-1",)})


def test_the_real_file_plays(shared_data):
    file = shared_data("data/ev_acn_caltech_2020.json.gz")
    chargers = ["c-1", "c-2", "c-3", "c-4"]
    parts = [
        cut(READERS[ReplayFormat.ACN_JSON](file), chargers=chargers, window_s=15 * HOUR, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert parts[0] == parts[1]
    assert parts[0].begins_s != parts[2].begins_s
    played = sum(map(len, parts[0].by_charger.values()))
    assert parts[0].rows_read == 2_477
    assert played + sum(parts[0].skipped.values()) == 2_477
    assert played >= 8, "a slice worth playing"


@pytest.mark.parametrize("content", [b"not json", b"[]", b'{"_items": 3}', b"\x1f\x8bnot gzip"])
def test_a_file_of_another_kind_stops_the_start(tmp_path, content):
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ReplayError):
        cut(READERS[ReplayFormat.ACN_JSON](file), chargers=["c-1"], window_s=HOUR, seed=1)
