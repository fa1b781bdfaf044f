"""What a device, or whoever recorded it, cannot make a gateway bill by saying old things again."""

import json

import pytest
from edge_playbook import Gateway, M, Meter, Policy, clock, fund
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_uses import Site

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus
from farthing.refusal import Refusal
from farthing.tariff import Use, parse, price
from farthing.v1 import directive_pb2
from farthing_edge.authorization import applying
from farthing_edge.authorization.state import COUNTER_WINDOW


def later(gateway: Gateway, seconds: int = 60) -> Gateway:
    gateway.at = Instant(gateway.at + seconds * SECOND_US)
    return gateway


def metered() -> tuple[Gateway, Meter]:
    """A smart meter and the site that bills it."""
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    gateway.told(tariff=Policy.tariff("chg-3"))
    fund(gateway, "P", "card")
    gateway.told(device=Policy.device("m1", profile="standing", standing_account_id="P", rated_per_hour=12_000))
    gateway.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("20:00")))
    return gateway, Meter("m1", 5_000)


def test_a_standing_authorization_that_ended_does_not_begin_again_with_old_readings() -> None:
    site, meter = metered()
    baseline = meter.reading(site, 5_000)
    first, second = meter.reading(later(site), 5_200), meter.reading(later(site), 5_300)
    for statement in (baseline, first, second):
        assert site.say(statement).status is AnswerStatus.RECORDED
    ((name, _),) = site.state.authorizations.items()
    site.say(meter.end(later(site), 5_300, authorization=name))
    site.seal()
    # Enough of whatever else it says, so that its first words are out of the window.
    meter.counter += COUNTER_WINDOW
    site.say(meter.reading(later(site), 5_300))
    spent = site.state.quotas["q1"].spent_micros
    for statement in (baseline, first, second):
        site.say(statement)
    assert site.state.quotas["q1"].spent_micros == spent
    assert site.state.unsealed == []
    assert site.replayed().quotas["q1"].spent_micros == spent


def test_a_baseline_out_of_the_window_is_too_old() -> None:
    site, meter = metered()
    old = meter.reading(site, 5_000)
    meter.counter += COUNTER_WINDOW
    newer = Meter("m1", 6_000, counter=meter.counter, register_id="r2")
    site.say(newer.end(later(site), 6_000, authorization=bytes(16), tariff=None))
    before = site.state.position
    assert site.say(old).refusal is Refusal.COUNTER_TOO_OLD
    assert site.state.position == before


@settings(max_examples=15)
@given(st.lists(st.sampled_from((1,) * 12 + (2, 5, -1, -3)), min_size=2 * COUNTER_WINDOW, max_size=3 * COUNTER_WINDOW))
def test_the_window_of_counters_forgets_what_is_below_it(steps: list[int]) -> None:
    """Whatever gaps there are, and whatever comes late: one that came late may stay until it is first, and there are never more than the window has."""
    site, meter = metered()
    seen, late, highest = site.state.devices["m1"].seen, set[int](), 0
    heard: list[int] = []
    for step in steps:
        counter = max(1, highest + step)
        if counter in heard:
            continue
        heard.append(counter)
        late |= {counter} if counter < highest else set()
        highest = max(highest, counter)
        meter.counter = counter - 1
        site.say(meter.end(site, 5_000, authorization=counter.to_bytes(16, "big"), tariff=None))
        in_window = {each for each in heard if each > highest - COUNTER_WINDOW}
        assert in_window <= set(seen)
        assert set(seen) - in_window <= late
        assert len(seen) <= COUNTER_WINDOW


def test_a_clock_that_goes_back_bills_by_the_latest_time_that_was_signed() -> None:
    """Energy at one tax rate, time at another: with the clock back, energy grows and time stands still."""
    site = Gateway("G1", "S1", at=clock("10:00"))
    components = [
        {"type": "ENERGY", "price": 0.25, "step_size": 1, "vat": 20},
        {"type": "TIME", "price": 6.0, "step_size": 1, "vat": 7},
    ]
    ocpi = json.dumps({"id": "mix", "currency": "EUR", "elements": [{"price_components": components}]}).encode()
    site.told(tariff=directive_pb2.TariffRecord(tariff_id="mix", version=1, currency="EUR", ocpi_json=ocpi))
    fund(site, "P", "card")
    site.told(device=Policy.device("c1", tariff_id="mix"))
    site.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("20:00")))
    meter = Meter("c1", 1_000, tariff="mix")
    meter.authorization = site.say(meter.intent(site), meter.token).grant_of
    authorization = site.state.authorizations[meter.authorization]
    began = site.at
    latest = began
    for minutes, value in ((10, 1_400), (5, 2_000), (20, 2_500), (3, 2_600)):
        at = Instant(began + minutes * 60 * SECOND_US)
        latest = max(latest, at)
        closing = value == 2_600
        say = meter.end if closing else meter.reading
        site.say(say(site, value, at=at))
        use = Use(unit="Wh", start=1_000, end=value, started_at=began, ended_at=latest)
        shown = price(parse(ocpi), use, closing=closing)
        assert (authorization.net_micros, authorization.tax_micros) == (shown.net_micros, shown.tax_micros)
        record = site.state.unsealed[-1]
        # Where its own statement does not say the time, the record carries the one that does.
        assert record.at == latest
        assert (record.latest is None) == (at == latest)
    assert len(site.state.unsealed) == 4
    assert authorization.net_micros == 1_600 * 250 + 20 * 100_000


def test_who_floods_the_table_of_what_waits_for_people_pushes_out_only_his_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "MAX_PARKED_STATEMENTS", 4)
    site, meter = metered()
    site.told(device=Policy.device("m2", profile="standing", standing_account_id="P", rated_per_hour=12_000))
    honest = Meter("m2", 5_000)
    for each in (meter, honest):
        assert site.say(each.reading(later(site), 5_000)).status is AnswerStatus.RECORDED
    # Beyond rated power: for people.
    assert site.say(honest.reading(site, 90_000)).refusal is Refusal.REGISTER_TOO_FAST
    for _ in range(20):
        assert site.say(meter.reading(site, 90_000)).refusal is Refusal.REGISTER_TOO_FAST
    waiting = list(site.state.parked_statements)
    assert len(waiting) == 4
    assert waiting[0] == ("m2", 1, honest.counter)
    assert {counter for device, _, counter in waiting if device == "m1"} == set(
        range(meter.counter - 2, meter.counter + 1)
    )


@pytest.mark.parametrize("tariff", ["chg-3", "mix-1"])
def test_an_end_that_names_no_price_bills_nothing_that_nobody_could_prove(tariff: str) -> None:
    """It would stand in the leaf that it ends, and with it the whole batch would stay unproven."""
    site = Site(tariff=tariff)
    use = site.begin(1_000)
    site.wait(600)
    reply = site.end(1_400, tariff=None)
    assert (reply.status, reply.refusal, use.closed, use.gross_micros) == (
        AnswerStatus.REFUSED,
        Refusal.TARIFF_MISSING,
        False,
        0,
    )
    batch = site.seal()
    assert batch is not None
    assert (len(batch.claims), len(batch.parked)) == (0, 1)
    # What it was for: a yes that never came. And one that names the price is taken as ever.
    assert site.end(1_400).closed
    assert use.gross_micros > 0
    site.seal()
    again = site.begin(1_400)
    assert site.end(1_400, tariff=None).closed
    assert (again.closed, again.gross_micros) == (True, 0)
    site.seal()
