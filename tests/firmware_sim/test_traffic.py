"""Where uses come from: the statistics are the data's, the draws are the seed's."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.clock import SECOND_US, Instant
from farthing_firmware_sim.config import Device, Traffic
from farthing_firmware_sim.traffic import statistics
from farthing_firmware_sim.traffic.measure import everything, quantiles
from farthing_firmware_sim.traffic.schedule import Drawn, Household, lots

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
