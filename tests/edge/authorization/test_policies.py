"""Limits, places, risk and the online check, in conversation: what they count, what they forget, and what a restart does not."""

from dataclasses import replace

import cbor2
import pytest
from edge_playbook import Gateway, M, Meter, Policy, clock, fund
from hypothesis import given
from hypothesis import strategies as st

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus, Disclaimer, Position, Reading
from farthing.ids import standing_authorization_id
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2, gateway_sync_pb2
from farthing_edge.authorization.commands import ClockRead, Connected, QuotaAnswered, Started, UplinkChanged
from farthing_edge.authorization.events import Event, Granted, Metered, decode, encode
from farthing_edge.authorization.packing import unpack
from farthing_edge.authorization.place import distance_m
from farthing_edge.authorization.usage import day_of, hour_of

#: What twelve minutes at 22 kW cost at most: 0.50 + 4.4 kWh at 0.25, and 20 % tax.
FULL = 1_920_000


@pytest.fixture
def site() -> Gateway:
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    gateway.told(tariff=Policy.tariff("chg-3"))
    fund(gateway, "P", "card")
    gateway.told(token=Policy.token("other", "P"))
    for number in range(1, 9):
        gateway.told(device=Policy.device(f"c{number}"))
    gateway.told(quota_granted=Policy.quota("q1", "P", 500 * M, clock("23:59") + 3 * 86_400 * SECOND_US))
    return gateway


def later(gateway: Gateway, seconds: int) -> Gateway:
    gateway.at = Instant(gateway.at + seconds * SECOND_US)
    return gateway


def start(gateway: Gateway, device: str, token: str = "card", **changes: object) -> tuple[Meter, Refusal | None]:
    meter = Meter(device, 0, token=token)
    if device in gateway.state.devices:
        meter.counter = max(0, gateway.state.devices[device].highest)
        meter.value = max(0, gateway.state.devices[device].registers["r1"].last_value)
    reply = gateway.say(meter.intent(gateway, **changes), token)
    assert reply is not None
    meter.authorization = reply.grant_of
    return meter, reply.refusal


def heard(gateway: Gateway, statement: Reading) -> tuple[Event, ...]:
    gateway.say(statement)
    return gateway.last.events


def limits(gateway: Gateway, **fields: int) -> None:
    gateway.told(usage_limits=directive_pb2.UsageLimits(**fields))


# Usage limits ---------------------------------------------------------------------------------------------------------


def test_a_limit_per_authorization_shrinks_every_hold_and_never_the_bill(site: Gateway) -> None:
    limits(site, per_authorization_micros=1 * M)
    meter, refusal = start(site, "c1")
    assert refusal is None
    authorization = site.state.authorizations[meter.authorization]
    assert sum(authorization.holds.values()) == 1 * M
    # 1.00 covers 0.60 and 1,300 Wh at 0.30, in steps of 100 Wh.
    assert authorization.told.limit == 1_300
    assert site.say(meter.reading(later(site, 300), 1_000)).status is AnswerStatus.RECORDED
    assert authorization.gross_micros + sum(authorization.holds.values()) <= 1 * M
    assert authorization.told.limit == 1_300
    # It went on beyond the limit: billed all the same.
    site.say(meter.end(later(site, 600), 3_000))
    assert authorization.gross_micros == 600_000 + 3_000 * 300
    # The limit of then binds the session of then, also after a restart.
    meter, _ = start(site, "c1")
    limits(site, per_authorization_micros=0)
    assert site.replayed().authorizations[meter.authorization].cap_micros == 1 * M


def test_what_cannot_be_cut_is_refused_by_a_limit_below_its_need(site: Gateway) -> None:
    site.told(device=Policy.device("c9", stoppable=False))
    limits(site, per_authorization_micros=FULL - 1)
    assert start(site, "c9")[1] is Refusal.LIMIT_PER_AUTHORIZATION
    limits(site, per_authorization_micros=FULL)
    assert start(site, "c9")[1] is None


def test_a_limit_that_buys_nothing_names_itself(site: Gateway) -> None:
    limits(site, per_authorization_micros=100_000)
    assert start(site, "c1")[1] is Refusal.LIMIT_PER_AUTHORIZATION


def test_a_token_s_day_counts_uses_of_all_devices_and_ends_at_the_site_s_midnight(site: Gateway) -> None:
    limits(site, token_day_count=2)
    assert [start(site, device)[1] for device in ("c1", "c2", "c3")] == [None, None, Refusal.LIMIT_PER_DAY]
    assert start(site, "c3", "other")[1] is None
    # 22:00 UTC is midnight in Berlin's summer.
    site.at = Instant(clock("22:00") - 1)
    assert start(site, "c4")[1] is Refusal.LIMIT_PER_DAY
    site.at = clock("22:00")
    assert start(site, "c4")[1] is None
    # A clock that goes back begins no day anew, and ends none.
    site.at = Instant(clock("22:00") - 1)
    assert start(site, "c5")[1] is None
    assert start(site, "c6")[1] is Refusal.LIMIT_PER_DAY


def test_a_day_that_another_payer_has_seen_begin_goes_on_when_the_clock_goes_back(site: Gateway) -> None:
    limits(site, token_day_count=1)
    meter, refusal = start(site, "c1")
    assert refusal is None
    site.say(meter.end(site, 0))
    site.at = clock("22:00")
    assert start(site, "c2", "other")[1] is None
    site.at = Instant(clock("22:00") - 1)
    # The day before is over, with what it counted: this is the new one, once.
    assert [start(site, device)[1] for device in ("c3", "c4")] == [None, Refusal.LIMIT_PER_DAY]
    site.at = clock("22:01")
    assert start(site, "c5")[1] is Refusal.LIMIT_PER_DAY


DAY_S = 86_400
DECADE_S = 3_650 * DAY_S


def put(gateway: Gateway, seconds: int, *, synchronised: bool = True) -> None:
    """The clock is put on, or back."""
    later(gateway, seconds)
    gateway.do(
        ClockRead(
            boot_id="",
            real_us=gateway.at,
            monotonic_us=0,
            stepped_us=seconds * SECOND_US,
            synchronised=synchronised,
        )
    )


def put_far_ahead(gateway: Gateway) -> None:
    """By ten years, and nobody vouches for it: all is granted on the floor."""
    gateway.told(
        floor=directive_pb2.FloorPolicy(
            currency="EUR", per_token_micros=90 * M, per_account_micros=90 * M, all_tokens_micros=90 * M
        )
    )
    put(gateway, DECADE_S, synchronised=False)


def test_a_day_that_a_clock_far_ahead_has_begun_is_today_once_the_clock_is_right(site: Gateway) -> None:
    limits(site, token_day_count=2)
    put_far_ahead(site)
    assert start(site, "c1")[1] is None
    put(site, -DECADE_S, synchronised=False)
    # Nobody says yet that it is right now.
    assert site.state.usage.day == day_of("Europe/Berlin", Instant(site.at + DECADE_S * SECOND_US))
    put(site, 1)
    assert site.replayed().usage.day == site.state.usage.day == day_of("Europe/Berlin", site.at)
    # What was used is used, and tomorrow is another day.
    assert [start(site, device)[1] for device in ("c2", "c3")] == [None, Refusal.LIMIT_PER_DAY]
    later(site, DAY_S)
    assert [start(site, device)[1] for device in ("c4", "c5", "c6")] == [None, None, Refusal.LIMIT_PER_DAY]


def test_a_trusted_clock_that_is_put_back_over_midnight_begins_no_day_anew(site: Gateway) -> None:
    limits(site, token_day_count=1)
    site.at = clock("22:00")
    assert start(site, "c1")[1] is None
    put(site, -5)
    assert start(site, "c2")[1] is Refusal.LIMIT_PER_DAY
    later(site, 10)
    assert start(site, "c3")[1] is Refusal.LIMIT_PER_DAY


def test_a_token_that_a_clock_far_ahead_has_seen_may_travel_once_the_clock_is_right(site: Gateway) -> None:
    for device, longitude in (("c1", 13.405), ("c2", 14.0)):
        site.told(device=Policy.device(device, position=on_wire(at(52.52, longitude))))
    site.told(place=directive_pb2.PlacePolicy(travel_distance_m=500, travel_speed_m_per_h=40_000))
    put_far_ahead(site)
    assert start(site, "c1")[1] is None
    put(site, -DECADE_S)
    assert start(site, "c2")[1] is Refusal.IMPOSSIBLE_TRAVEL
    later(site, 2 * 3_600)
    assert site.state.usage.uses["id-card"].recent_count(site.at) == 0
    assert start(site, "c2")[1] is None


def begin_anew(gateway: Gateway, incarnation: int, *, passed_over: bool = False) -> None:
    """The cloud's first directive of an incarnation, dated now; ``passed_over``: another journal has begun it."""
    welcome = directive_pb2.Welcome(
        operator_id="op", site_id="S1", incarnation=incarnation, receipt_keys=[b"key"], time_zone="Europe/Berlin"
    )
    if passed_over:
        gateway.do(Connected(hello=gateway_sync_pb2.HelloResponse(incarnation=incarnation + 1)))
    gateway.told(welcome=welcome)
    assert (gateway.state.incarnation == incarnation) is not passed_over


def lost(gateway: Gateway, incarnations: int) -> Gateway:
    """The same gateway with an empty journal that has read its chain: it begins with the last of the ``incarnations``."""
    new = Gateway("G1", "S1", at=gateway.at)
    new.told(tariff=Policy.tariff("chg-3"))
    fund(new, "P", "card")
    for number in range(1, 9):
        new.told(device=Policy.device(f"c{number}"))
    for incarnation in range(2, incarnations + 1):
        begin_anew(new, incarnation, passed_over=incarnation < incarnations)
    limits(new, token_day_count=1, token_day_micros=5 * M)
    new.told(quota_granted=Policy.quota(f"q{incarnations}", "P", 500 * M, clock("23:59"), incarnation=incarnations))
    return new


def test_the_day_of_a_lost_journal_begins_anew_once(site: Gateway) -> None:
    second = lost(site, 2)
    assert start(second, "c1", incarnation=2)[1] is None, "nobody is turned away for what became of a disk"
    third = lost(site, 3)
    assert third.state.usage.begun_count == 2, "one of them has another journal begun"
    meter, refusal = start(third, "c1", incarnation=3)
    assert refusal is Refusal.LIMIT_PER_DAY
    assert third.replayed().usage.is_in_doubt(third.replayed().usage.begun_day)
    # The same said again is no other one, and the next day is like any.
    begin_anew(third, 3)
    assert third.state.usage.begun_count == 2
    third.at = clock("22:00")
    assert start(third, "c2", incarnation=3)[1] is None
    assert meter.authorization is None


def test_in_a_day_of_doubt_what_is_under_way_gets_no_more(site: Gateway) -> None:
    """Its counts say what is left of the day, and are not all that were."""
    limits(site, token_day_micros=50 * M)
    meter, _ = start(site, "c1")
    site.say(meter.reading(later(site, 60), 100))
    held = sum(site.state.authorizations[meter.authorization].holds.values())
    assert held > 0
    begin_anew(site, 2)
    begin_anew(site, 3)
    site.say(meter.reading(later(site, 60), 200))
    use = site.state.authorizations[meter.authorization]
    assert (use.holds, use.told.limit, use.closed) == ({}, 200, False)
    # What it used meanwhile is billed, as always.
    site.say(meter.end(later(site, 60), 300))
    assert use.gross_micros == 600_000 + 300 * 300


def test_a_day_s_amount_counts_what_is_held_and_what_was_billed(site: Gateway) -> None:
    limits(site, token_day_micros=5 * M)
    sessions = [start(site, device)[0] for device in ("c1", "c2", "c3")]
    held = [sum(site.state.authorizations[meter.authorization].holds.values()) for meter in sessions]
    assert held == [FULL, FULL, 5 * M - 2 * FULL]
    assert start(site, "c4")[1] is Refusal.LIMIT_PER_DAY
    # One ends cheaply: its room is the day's again.
    site.say(sessions[0].end(later(site, 60), 100))
    assert start(site, "c4")[1] is None
    tally = site.state.usage.tokens["id-card"]
    assert tally.micros_on(tally.day) <= 5 * M


def test_what_a_device_disclaims_is_the_day_s_again(site: Gateway) -> None:
    limits(site, token_day_micros=2 * M)
    meter, _ = start(site, "c1")
    assert site.state.usage.tokens["id-card"].held_micros == FULL
    word = Disclaimer(**meter.head(site), authorization=meter.authorization)
    assert site.say(word).status is AnswerStatus.RECORDED
    tally = site.state.usage.tokens["id-card"]
    assert (tally.held_micros, tally.micros_on(tally.day)) == (0, 0)


def test_a_device_s_day_is_its_own(site: Gateway) -> None:
    limits(site, device_day_count=1)
    meter, _ = start(site, "c1")
    site.say(meter.end(site, 0))
    assert start(site, "c1", "other")[1] is Refusal.LIMIT_PER_DAY
    assert start(site, "c2")[1] is None


def test_a_device_s_day_has_its_amount_too(site: Gateway) -> None:
    limits(site, device_day_micros=1_500_000)
    meter, _ = start(site, "c1")
    assert sum(site.state.authorizations[meter.authorization].holds.values()) == 1_500_000
    site.say(meter.end(later(site, 600), 3_000))
    assert site.state.authorizations[meter.authorization].gross_micros == 600_000 + 3_000 * 300
    assert start(site, "c1", "other")[1] is Refusal.LIMIT_PER_DAY
    assert start(site, "c2")[1] is None


def test_a_number_of_uses_since_contact_is_a_limit_by_itself(site: Gateway) -> None:
    limits(site, offline_count=2)
    assert [start(site, device)[1] for device in ("c1", "c2", "c3")] == [None, None, Refusal.LIMIT_SINCE_CONTACT]


def test_limits_since_contact_hold_only_while_the_cloud_is_away(site: Gateway) -> None:
    limits(site, offline_count=2, offline_micros=3 * M)
    assert start(site, "c1")[1] is None
    meter, refusal = start(site, "c2")
    assert refusal is None
    assert sum(site.state.authorizations[meter.authorization].holds.values()) == 3 * M - FULL
    assert start(site, "c3")[1] is Refusal.LIMIT_SINCE_CONTACT
    site.do(UplinkChanged(online=True))
    assert start(site, "c3")[1] is None
    site.do(UplinkChanged(online=False))
    # It was heard of while c3 was granted: counted from there.
    assert [start(site, device)[1] for device in ("c4", "c5", "c6")] == [None, None, Refusal.LIMIT_SINCE_CONTACT]


def test_a_restart_forgets_no_limit(site: Gateway) -> None:
    limits(site, token_day_count=3, token_day_micros=50 * M, offline_count=9, offline_micros=40 * M)
    meter, _ = start(site, "c1")
    start(site, "c2")
    assert site.say(meter.reading(later(site, 600), 500)).status is AnswerStatus.RECORDED
    again, now = site.replayed().usage, site.state.usage
    for one, other in ((again.tokens["id-card"], now.tokens["id-card"]), (again.devices["c1"], now.devices["c1"])):
        assert (one.day, one.count, one.spent_micros, one.held_micros) == (
            other.day,
            other.count,
            other.spent_micros,
            other.held_micros,
        )
    assert now.tokens["id-card"].count == 2
    committed = sum(
        authorization.gross_micros + sum(authorization.holds.values())
        for authorization in site.state.authorizations.values()
    )
    assert (again.offline_count, again.offline_micros) == (now.offline_count, now.offline_micros) == (2, committed)
    assert committed > 2 * FULL - 1_000_000


def test_yesterday_s_tallies_are_dropped_but_what_is_held_stays(site: Gateway) -> None:
    limits(site, token_day_micros=50 * M)
    meter, _ = start(site, "c1")
    start(site, "c2", "other")
    site.say(meter.end(site, 0))
    later(site, 86_400)
    start(site, "c3")
    assert set(site.state.usage.devices) == {"c2", "c3"}
    assert site.state.usage.tokens["id-other"].micros_on(2**31) == FULL


def test_a_limit_begins_to_count_with_its_directive(site: Gateway) -> None:
    meter, _ = start(site, "c1")
    limits(site, token_day_micros=3 * M)
    assert not site.state.usage.tokens
    site.say(meter.reading(site, 0))
    assert site.state.usage.tokens["id-card"].held_micros == FULL
    limits(site)
    assert site.state.policies.limits is None
    assert not site.state.usage.tokens
    limits(site, token_day_micros=3 * M)
    site.say(meter.end(site, 0))
    assert site.state.usage.tokens["id-card"].held_micros == 0


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["start", "read", "end", "night"]), st.integers(1, 4), st.integers(0, 4_000)),
        max_size=25,
    )
)
def test_what_is_tallied_is_what_is_billed_and_held(steps: list[tuple[str, int, int]]) -> None:
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    gateway.told(tariff=Policy.tariff("chg-3"))
    fund(gateway, "P", "card")
    for number in range(1, 5):
        gateway.told(device=Policy.device(f"c{number}"))
    gateway.told(quota_granted=Policy.quota("q1", "P", 500 * M, clock("23:59") + 60 * 86_400 * SECOND_US))
    limits(gateway, token_day_micros=6 * M, device_day_micros=4 * M, per_authorization_micros=3 * M)
    open_now: dict[str, Meter] = {}
    for what, number, units in steps:
        device = f"c{number}"
        later(gateway, 86_400 if what == "night" else 720)
        if what == "start" and device not in open_now:
            meter, refusal = start(gateway, device)
            if refusal is None:
                open_now[device] = meter
        elif what in ("read", "end") and device in open_now:
            meter = open_now[device]
            # An honest device: never beyond the limit that it was told.
            value = min(meter.value + units, gateway.state.authorizations[meter.authorization].told.limit)
            gateway.say(meter.reading(gateway, value) if what == "read" else meter.end(gateway, value))
            if what == "end":
                del open_now[device]
        sessions = [gateway.state.authorizations[meter.authorization] for meter in open_now.values()]
        held = sum(sum(session.holds.values()) for session in sessions)
        usage = gateway.state.usage
        assert sum(tally.held_micros for tally in usage.tokens.values()) == held
        assert sum(tally.held_micros for tally in usage.devices.values()) == held
        day = day_of(gateway.state.time_zone, gateway.at)
        for tally, most in [(t, 6 * M) for t in usage.tokens.values()] + [(t, 4 * M) for t in usage.devices.values()]:
            assert tally.micros_on(day) <= most
        for session in sessions:
            assert session.gross_micros + sum(session.holds.values()) <= 3 * M


# Places ---------------------------------------------------------------------------------------------------------------


def at(latitude: float, longitude: float) -> Position:
    return Position(latitude_microdegrees=round(latitude * 1e6), longitude_microdegrees=round(longitude * 1e6))


def on_wire(position: Position) -> directive_pb2.Position:
    return directive_pb2.Position(
        latitude_microdegrees=position.latitude_microdegrees, longitude_microdegrees=position.longitude_microdegrees
    )


@pytest.mark.parametrize(
    ("one", "other", "metres"),
    [
        (at(52.5, 13.4), at(52.5, 13.4), 0),
        (at(0, 0), at(0, 1), 111_195),
        (at(0, 0), at(1, 0), 111_195),
        (at(60, 10), at(60, 11), 55_597),
        (at(0, 179.5), at(0, -179.5), 111_195),
        (at(-33.8568, 151.2153), at(-33.8523, 151.2108), 651),
    ],
)
def test_metres_between_places(one: Position, other: Position, metres: int) -> None:
    assert abs(distance_m(one, other) - metres) <= max(2, metres // 300)
    assert distance_m(one, other) == distance_m(other, one)


def test_a_fixed_device_that_moved_and_a_mobile_one_that_left(site: Gateway) -> None:
    home = at(52.52, 13.405)
    site.told(device=Policy.device("c1", position=on_wire(home)))
    site.told(place=directive_pb2.PlacePolicy(centre=on_wire(home), fence_radius_m=5_000, moved_m=100))
    near, moved, away = at(52.5205, 13.405), at(52.5220, 13.405), at(52.60, 13.405)
    assert start(site, "c1", position=moved)[1] is Refusal.OUTSIDE_FENCE
    # c2's record names no place: it says itself where it is, or is nowhere.
    assert start(site, "c2", position=moved)[1] is None
    assert start(site, "c3", position=away)[1] is Refusal.OUTSIDE_FENCE
    assert start(site, "c4")[1] is Refusal.OUTSIDE_FENCE
    assert start(site, "c1", position=near)[1] is None


def test_a_token_cannot_be_in_two_places(site: Gateway) -> None:
    here, there = at(52.52, 13.405), at(52.52, 14.0)  # 40 km apart
    site.told(device=Policy.device("c1", position=on_wire(here)))
    site.told(device=Policy.device("c2", position=on_wire(there)))
    site.told(device=Policy.device("c3", position=on_wire(at(52.5203, 13.405))))
    site.told(place=directive_pb2.PlacePolicy(travel_distance_m=500, travel_speed_m_per_h=120_000))
    assert start(site, "c1")[1] is None
    assert site.replayed().usage.uses["id-card"].position == here
    later(site, 600)
    assert start(site, "c2")[1] is Refusal.IMPOSSIBLE_TRAVEL
    assert start(site, "c2", "other")[1] is None
    # Next door is no journey, whatever the clock says.
    assert start(site, "c3")[1] is None
    later(site, 1_300)
    site.told(device=Policy.device("c4", position=on_wire(there)))
    assert start(site, "c4")[1] is None


# Risk -----------------------------------------------------------------------------------------------------------------


def card(*tiers: tuple[int, int, int], **fields: object) -> directive_pb2.Scorecard:
    return directive_pb2.Scorecard(
        version=1,
        tiers=[
            directive_pb2.ScoreTier(**{"from": points, "action": act, "hold_micros": hold})
            for points, act, hold in tiers
        ],
        **fields,
    )


def step(value: int, points: int) -> directive_pb2.ScoreStep:
    return directive_pb2.ScoreStep(**{"from": value, "points": points})


REFUSE, SHRINK = directive_pb2.RISK_ACTION_REFUSE, directive_pb2.RISK_ACTION_SHRINK
ONLINE_ONLY, ALLOW = directive_pb2.RISK_ACTION_ONLINE_ONLY, directive_pb2.RISK_ACTION_ALLOW


def test_points_add_up_to_a_tier(site: Gateway) -> None:
    hours = [0] * 24
    hours[12] = 5  # 10:00 UTC is noon in Berlin's summer.
    site.told(
        scorecard=card(
            (0, ALLOW, 0),
            (10, SHRINK, 1 * M),
            (20, REFUSE, 0),
            hour_points=hours,
            amount_steps=[step(1 * M, 2), step(FULL, 5)],
            recent_steps=[step(2, 12)],
            new_token_points=1,
        )
    )
    # noon 5 + amount 5 + new 1: shrunk; the next: 10, the same; the third is the third within the hour: 22.
    meter, refusal = start(site, "c1")
    assert refusal is None
    assert sum(site.state.authorizations[meter.authorization].holds.values()) == 1 * M
    assert start(site, "c2")[1] is None
    assert start(site, "c3")[1] is Refusal.RISK_TOO_HIGH
    later(site, 3_601)
    # An hour later: one o'clock, none in the hour before, 5 points.
    meter, refusal = start(site, "c3")
    assert refusal is None
    assert sum(site.state.authorizations[meter.authorization].holds.values()) == FULL


def test_points_for_the_way_from_where_it_was(site: Gateway) -> None:
    site.told(device=Policy.device("c1", position=on_wire(at(52.52, 13.405))))
    site.told(device=Policy.device("c2", position=on_wire(at(52.53, 13.405))))
    site.told(scorecard=card((10, REFUSE, 0), distance_steps=[step(1_000, 10)]))
    assert start(site, "c1")[1] is None
    assert start(site, "c2")[1] is Refusal.RISK_TOO_HIGH


def test_online_only_waits_for_the_cloud_s_word(site: Gateway) -> None:
    site.told(scorecard=card((5, ONLINE_ONLY, 0), new_token_points=5))
    assert start(site, "c1")[1] is Refusal.RISK_TOO_HIGH
    site.do(UplinkChanged(online=True))
    meter = Meter("c2", 0)
    intent = meter.intent(site)
    assert site.say(intent, "card") is None
    assert site.last.wait.once
    (request,) = site.last.events
    # No answer in time.
    assert site.say(intent, "card", may_wait=False).refusal is Refusal.RISK_TOO_HIGH
    # An answer: whatever there is to give, the cloud knows the account.
    site.do(QuotaAnswered(counter=request.counter, answer=gateway_sync_pb2.QUOTA_ANSWER_NOTHING_AVAILABLE))
    assert site.say(meter.intent(site), "card", may_wait=False).status is AnswerStatus.GRANTED


def test_a_random_share_waits_and_a_no_of_the_cloud_s_is_a_no(site: Gateway) -> None:
    site.do(
        Started(
            start_id=bytes(16), boot_id="b", clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1, check_salt=b"s" * 16
        )
    )
    site.told(online_check=directive_pb2.OnlineCheck(share_ppm=500_000))
    assert start(site, "c1")[1] is None, "offline nobody is asked"
    site.do(UplinkChanged(online=True))
    asked = []
    for counter in range(2, 120, 2):
        meter = Meter("c2", 0, counter=counter)
        intent = meter.intent(site)
        asked.append(site.say(intent, "card") is None)
        # Whoever is checked is checked again when he asks again.
        if asked[-1]:
            (request,) = [event for event in site.last.events if type(event).__name__ == "QuotaRequested"] or [None]
            answer = gateway_sync_pb2.QUOTA_ANSWER_ACCOUNT_SUSPENDED
            if request is not None:
                site.do(QuotaAnswered(counter=request.counter, answer=answer))
            assert site.say(intent, "card", may_wait=False).refusal is Refusal.ACCOUNT_SUSPENDED
            site.state.accounts["P"].ask_after = Instant(0)
        else:
            meter.authorization = site.last.reply.grant_of
            site.say(meter.end(site, 0, authorization=meter.authorization))
    assert 10 < sum(asked) < 48
    # A silent cloud stops nobody who was only to be checked.
    site.told(online_check=directive_pb2.OnlineCheck(share_ppm=1_000_000))
    site.state.accounts["P"].refused_by_cloud = False
    assert site.say(Meter("c3", 0).intent(site), "card") is None
    assert site.say(Meter("c3", 0, counter=5).intent(site), "card", may_wait=False).status is AnswerStatus.GRANTED


points = st.integers(-5, 20)
steps = st.lists(st.tuples(st.integers(0, 3 * M), points), max_size=3, unique_by=lambda pair: pair[0]).map(
    lambda pairs: [step(*pair) for pair in sorted(pairs)]
)


@given(
    tiers=st.lists(
        st.tuples(st.integers(-9, 40), st.sampled_from([ALLOW, SHRINK, ONLINE_ONLY, REFUSE]), st.integers(0, 3 * M)),
        min_size=1,
        max_size=4,
        unique_by=lambda tier: tier[0],
    ),
    amount=steps,
    recent=steps,
    hours=st.lists(points, min_size=24, max_size=24),
    new=points,
    offline=points,
    stoppable=st.booleans(),
)
def test_whatever_a_scorecard_says_it_only_reduces(tiers, amount, recent, hours, new, offline, stoppable) -> None:
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    gateway.told(tariff=Policy.tariff("chg-3"))
    fund(gateway, "P", "card")
    gateway.told(device=Policy.device("c1", stoppable=stoppable))
    gateway.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("20:00")))
    gateway.told(
        scorecard=card(
            *sorted(tiers),
            amount_steps=amount,
            recent_steps=recent,
            hour_points=hours,
            new_token_points=new,
            offline_points=offline,
        )
    )
    assert not gateway.state.directive_faults
    meter, refusal = start(gateway, "c1")
    if refusal is not None:
        assert refusal is Refusal.RISK_TOO_HIGH
        return
    authorization = gateway.state.authorizations[meter.authorization]
    held = sum(authorization.holds.values())
    assert 0 < held <= FULL
    assert stoppable or held == FULL
    assert authorization.cap_micros is None or held <= authorization.cap_micros


# Reservations and standing yeses --------------------------------------------------------------------------------------


def test_what_is_held_and_not_used_keeps_its_place_and_costs_nothing(site: Gateway) -> None:
    meter, _ = start(site, "c1")
    for _ in range(3):
        assert site.say(meter.reading(later(site, 600), 0)).status is AnswerStatus.RECORDED
        authorization = site.state.authorizations[meter.authorization]
        assert (sum(authorization.holds.values()), authorization.gross_micros) == (FULL, 0)
    assert start(site, "c1", "other")[1] is Refusal.REGISTER_BUSY
    meter.counter = site.state.devices["c1"].highest
    assert site.say(meter.end(later(site, 600), 0)).closed
    assert site.state.quotas["q1"].held_micros == 0
    assert start(site, "c1", "other")[1] is None


def test_a_standing_reading_holds_and_posts_in_one_step_under_an_id_that_anybody_can_work_out(site: Gateway) -> None:
    site.told(device=Policy.device("m1", profile="standing", standing_account_id="P", rated_per_hour=1_000))
    meter = Meter("m1", 5_000)
    site.say(meter.reading(site, 5_000))
    before = site.state.quotas["q1"].spent_micros
    (event,) = [each for each in heard(site, meter.reading(later(site, 3_600), 6_000)) if isinstance(each, Metered)]
    assert event.authorization == standing_authorization_id("m1", 1, "r1", 1, "G1")
    assert event.holds == ()
    assert sum(charge.net_micros + charge.tax_micros for charge in event.charges) > 0
    assert site.state.quotas["q1"].spent_micros - before == sum(c.net_micros + c.tax_micros for c in event.charges)
    assert site.state.quotas["q1"].held_micros == 0


# Directives -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"place": directive_pb2.PlacePolicy(fence_radius_m=5)},
        {
            "place": directive_pb2.PlacePolicy(
                centre=directive_pb2.Position(latitude_microdegrees=90_000_001), moved_m=1
            )
        },
        {"usage_limits": directive_pb2.UsageLimits(token_day_micros=-1)},
        {"scorecard": card((5, ALLOW, 0), (5, REFUSE, 0))},
        {"scorecard": card((5, 0, 0))},
        {"scorecard": card((5, REFUSE, 0), hour_points=[1, 2])},
        {"scorecard": card((5, REFUSE, 0), amount_steps=[step(9, 1), step(2, 1)])},
        {"scorecard": card((5, REFUSE, 0), recent_steps=[step(number, 1) for number in range(65)])},
        {"online_check": directive_pb2.OnlineCheck(share_ppm=1_000_001)},
    ],
)
def test_a_policy_that_makes_no_sense_is_noted_and_changes_nothing(site: Gateway, body: dict) -> None:
    limits(site, token_day_count=7)
    before = site.state.policies
    site.told(**body)
    assert site.state.policies == before
    assert site.state.directive_faults


def test_rules_without_a_policy_are_not_asked(site: Gateway) -> None:
    assert site.state.policies.active == (False, False, False)
    start(site, "c1")
    usage = site.state.usage
    assert (usage.tokens, usage.devices, usage.uses) == ({}, {}, {})


def test_a_standing_authorization_is_not_limited(site: Gateway) -> None:
    site.told(device=Policy.device("m1", profile="standing", standing_account_id="P", rated_per_hour=1_000))
    limits(site, per_authorization_micros=1, token_day_count=1, device_day_micros=1, offline_count=1)
    meter = Meter("m1", 5_000)
    site.say(meter.reading(site, 5_000))
    for value in (6_000, 7_000):
        assert site.say(meter.reading(later(site, 3_600), value)).status is AnswerStatus.RECORDED
    (standing,) = site.state.authorizations.values()
    assert standing.gross_micros > FULL // 8
    assert not standing.holds


def test_hours_and_days_are_the_site_s() -> None:
    spring = Instant(1_774_742_400 * SECOND_US)  # 2026-03-29T00:00:00Z: Berlin's clocks go forward at 01:00Z.
    assert [hour_of("Europe/Berlin", Instant(spring + hour * 3600 * SECOND_US)) for hour in range(3)] == [1, 3, 4]
    assert day_of("Europe/Berlin", Instant(spring + 22 * 3600 * SECOND_US)) == day_of("UTC", spring) + 1
    assert day_of("Nowhere/Atall", spring) == day_of("UTC", spring)


def test_an_older_journal_has_no_caps_and_no_places(site: Gateway) -> None:
    meter, _ = start(site, "c1")
    granted = next(event for event in site.journal if isinstance(event, Granted))
    kind, body = encode(granted)
    old = cbor2.dumps(cbor2.loads(unpack(body))[: Granted._fields.index("cap")])
    assert decode(kind, old) == granted._replace(cap=None, position=None, readings_due=(), lapses_at=None)
    assert meter.authorization == granted.authorization


def test_ask_again_finds_the_first_answer_whatever_the_limits_are_now(site: Gateway) -> None:
    meter = Meter("c1", 0)
    intent = meter.intent(site)
    assert site.say(intent, "card").status is AnswerStatus.GRANTED
    limits(site, per_authorization_micros=1)
    assert site.say(intent, "card").status is AnswerStatus.GRANTED
    assert site.say(replace(intent, at=Instant(intent.at + 1)), "card").refusal is Refusal.COUNTER_REUSED
