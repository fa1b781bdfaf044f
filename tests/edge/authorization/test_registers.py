"""Registers that come round, go back, run too fast, are replaced or fall silent; and what people decide about them."""

import itertools

import pytest
from edge_playbook import Meter
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_uses import Site

from farthing.clock import SECOND_US
from farthing.device.messages import AnswerStatus
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_edge.authorization import commands, events
from farthing_edge.authorization.state import NEW_REGISTER_EPOCH, RATED_SLACK_US
from farthing_edge.engine.view import GatewayView

WH = 250  # micros, net


def close(site: Site, decision: str = "case 7", authorization: bytes = b"") -> None:
    site.gateway.told(
        use_closed=directive_pb2.UseClosed(device_id="d1", authorization_id=authorization, decision=decision)
    )


# Rollover -------------------------------------------------------------------------------------------------------------


def test_a_smaller_value_is_a_rollover_where_rated_power_allows_it() -> None:
    site = Site(modulus=1_000, rated_per_hour=600)
    use = site.begin(900)
    site.wait(3600)
    assert site.read(100).status is AnswerStatus.RECORDED
    assert (use.value, use.net_micros) == (1_100, 500_000 + 200 * WH)
    site.wait(600)
    assert site.end(200).closed
    site.seal()
    # The next one begins where this one ended: the gateway counts the turn that the device does not.
    site.wait(60)
    site.begin(200)
    site.wait(600)
    site.end(250)
    site.seal()
    assert [(claim.register_from, claim.register_to) for claim in site.claims().values()] == [
        (900, 1_200),
        (1_200, 1_250),
    ]


def test_a_smaller_value_too_soon_is_a_register_that_went_back() -> None:
    site = Site(modulus=1_000, rated_per_hour=600)
    use = site.begin(100)
    site.wait(1200)
    assert site.read(300).status is AnswerStatus.RECORDED
    site.wait(600)
    # 900 units in ten minutes at 600 an hour.
    assert site.read(200).refusal is Refusal.REGISTER_WENT_BACK
    assert use.value == 300
    assert site.gateway.state.parked == 1
    site.wait(600)
    assert site.end(400).closed
    site.seal()
    assert site.claims()[use.id].register_to == 400


def test_a_device_that_counts_its_turns_may_come_round_often() -> None:
    site = Site(modulus=100, rated_per_hour=6_000)
    use = site.begin(90, register=site.register(90, 3))
    assert use.start == 390
    grant = use.grant("G1")
    assert (grant.start, grant.limit) == (90, 90 + 1_000)
    for turn in (5, 7, 12):
        site.wait(600)
        assert site.read(10, register=site.register(10, turn)).status is AnswerStatus.RECORDED
    assert use.value == 1_210
    site.wait(60)
    site.end(20, register=site.register(20, 12))
    site.seal()
    claim = site.claims()[use.id]
    assert (claim.register_from, claim.register_to) == (390, 1_220)


def test_an_intent_below_the_last_value_begins_a_turn_later_or_not_at_all() -> None:
    site = Site(modulus=1_000, rated_per_hour=600)
    site.begin(0)
    site.wait(3600)
    site.end(500)
    site.wait(600)
    refused = site.say(site.device.intent(site.gateway, register=site.register(400, 0)), "card")
    assert refused.refusal is Refusal.REGISTER_WENT_BACK
    site.wait(6000)
    assert site.begin(400).start == 1_400


@st.composite
def journeys(draw: st.DrawFn) -> tuple[int, bool, list[list[tuple[int, int]]]]:
    """A modulus, whether the device counts its turns, and uses: each a list of (units, seconds) between two statements."""
    modulus = draw(st.integers(50, 2_000))
    counts = draw(st.booleans())
    uses = draw(
        st.lists(
            st.lists(st.tuples(st.integers(0, modulus // 3), st.integers(1, 900)), min_size=1, max_size=6),
            min_size=1,
            max_size=6,
        )
    )
    return modulus, counts, uses


@settings(max_examples=20, deadline=None)
@given(journeys(), st.randoms(use_true_random=False))
def test_whatever_is_lost_or_late_a_register_that_comes_round_is_billed_as_it_counted(journey, rng) -> None:
    modulus, counts, uses = journey
    site = Site(modulus=modulus, rated_per_hour=3_600)
    total = 0
    expected: list[tuple[int, int]] = []
    for legs in uses:
        # Who does not count turns uses less than one in a session: more, and nobody could say how much it was.
        kept = list(legs)
        while not counts and sum(units for units, _ in kept) >= modulus:
            kept.pop()

        def shown(value: int) -> dict[str, object]:
            return {"register": site.register(value % modulus, value // modulus if counts else 0)}

        start = total
        site.begin(total % modulus, **shown(total))
        readings = []
        for units, seconds in kept:
            total += units
            # At rated power, a unit a second.
            site.wait(max(seconds, units))
            reading = site.device.reading(site.gateway, total % modulus, **shown(total))
            if rng.random() < 0.6:
                readings.append(reading)
            if len(readings) > 1 and rng.random() < 0.3:
                readings.reverse()
            while readings and rng.random() < 0.7:
                site.say(readings[0])
                if rng.random() < 0.5:
                    readings.pop(0)
                else:
                    rng.shuffle(readings)
        assert site.end(total % modulus, **shown(total)).closed
        for late in readings:
            assert site.say(late).status is AnswerStatus.RECORDED
        expected.append((start, total))
        if rng.random() < 0.5:
            site.seal()
        site.wait(1)
    site.seal()
    assert site.gateway.state.parked == 0
    # In one batch, claims of uses that cost something stand before those that cost nothing.
    assert sorted((claim.register_from, claim.register_to) for claim in site.claims().values()) == sorted(expected)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(expected))
    assert site.gateway.replayed().devices["d1"].registers["r1"].last_value == total


# Too fast -------------------------------------------------------------------------------------------------------------


def test_a_reading_beyond_rated_power_is_parked_and_so_is_all_that_follows_from_it() -> None:
    site = Site()
    use = site.begin(1_000)
    site.wait(600)
    # An hour's use in ten minutes beyond what the grant had covered in advance.
    assert site.read(8_000).refusal is Refusal.REGISTER_TOO_FAST
    for hours in range(1, 4):
        site.wait(3600)
        # Slowly it becomes possible; nobody believes it all the same.
        assert site.read(8_000 + hours).refusal is Refusal.REGISTER_TOO_FAST
    assert (use.value, use.net_micros) == (1_000, 0)
    # What is below is honest, as far as anybody knows.
    site.wait(60)
    assert site.read(2_000).status is AnswerStatus.RECORDED
    assert use.net_micros == 500_000 + 1_000 * WH
    assert site.gateway.state.parked == 4


def test_what_a_grant_covers_in_advance_is_believed_once_and_not_with_each_reading() -> None:
    """Many readings in a short time count no faster than one: what is believed beyond rated power is an interval and a minute, in all."""
    site = Site()
    use = site.begin(1_000)
    register = site.gateway.state.devices["d1"].registers["r1"]
    counted, refused = 0, 0
    for _ in range(60):
        site.wait(1)
        reply = site.read(1_000 + counted + 300)
        if reply.refusal is None:
            counted += 300
        else:
            refused += 1
            assert reply.refusal is Refusal.REGISTER_TOO_FAST
    most_s = 60 + use.report_interval_s + RATED_SLACK_US // SECOND_US
    assert refused > 0
    assert use.value - 1_000 == counted <= register.reach(most_s) * 11 // 10 + 1
    assert site.gateway.replayed().devices["d1"].registers["r1"].ahead_us == register.ahead_us > 0
    # Time makes up for it; who ends at once and begins again is no nearer.
    close(site)
    site.seal()
    ahead_us = register.ahead_us
    site.device.value = use.value
    again = site.begin(use.value)
    assert register.ahead_us == ahead_us
    site.wait(10)
    assert site.read(use.value + 3_000).refusal is Refusal.REGISTER_TOO_FAST
    assert not again.closed


@pytest.mark.parametrize("accept", [True, False])
def test_people_decide_about_what_was_parked(accept: bool) -> None:
    site = Site()
    use = site.begin(1_000)
    site.wait(600)
    site.read(2_000)
    site.wait(600)
    odd = site.device.reading(site.gateway, 9_000)
    assert site.say(odd).refusal is Refusal.REGISTER_TOO_FAST
    site.gateway.told(
        parked_decided=directive_pb2.ParkedDecided(
            device_id="d1", device_epoch=1, counter=odd.counter, accept=accept, decision="case 9"
        )
    )
    site.seal()
    assert not site.gateway.state.parked_statements
    assert use.value == (9_000 if accept else 2_000)
    assert use.net_micros == 500_000 + (use.value - 1_000) * WH
    site.wait(3600)
    assert site.end(9_600 if accept else 2_600).closed
    site.seal()
    claim = site.claims()[use.id]
    assert (claim.register_to, claim.final, claim.closed_by) == (use.value, True, "")


def test_a_parked_end_is_believed_by_decision_and_is_an_end() -> None:
    site = Site()
    use = site.begin(0)
    site.wait(60)
    end = site.device.end(site.gateway, 50_000)
    assert site.say(end).refusal is Refusal.REGISTER_TOO_FAST
    site.gateway.told(
        parked_decided=directive_pb2.ParkedDecided(
            device_id="d1", device_epoch=1, counter=end.counter, accept=True, decision="case 3"
        )
    )
    site.seal()
    claim = site.claims()[use.id]
    assert (claim.register_to, claim.final, claim.closed_by) == (50_000, True, "")
    assert site.gateway.state.quotas["q1"].held_micros == 0


def test_what_cannot_be_believed_is_a_fault_that_people_see() -> None:
    site = Site()
    site.begin(5_000)
    site.wait(600)
    back = site.device.reading(site.gateway, 4_000)
    assert site.say(back).refusal is Refusal.REGISTER_WENT_BACK
    decided = directive_pb2.ParkedDecided(
        device_id="d1", device_epoch=1, counter=back.counter, accept=True, decision="case 1"
    )
    site.gateway.told(parked_decided=decided)
    assert "went back" in site.gateway.state.directive_faults[-1][1]
    assert len(site.gateway.state.parked_statements) == 1
    decided.counter = 99  # another gateway's
    site.gateway.told(parked_decided=decided)
    assert len(site.gateway.state.directive_faults) == 1


def believe(site: Site, counter: int, decision: str = "case 3") -> None:
    site.gateway.told(
        parked_decided=directive_pb2.ParkedDecided(
            device_id="d1", device_epoch=1, counter=counter, accept=True, decision=decision
        )
    )


@pytest.mark.parametrize("order", list(itertools.permutations(("low", "high", "close"))), ids="-".join)
def test_decisions_that_come_together_are_all_carried_out(order: tuple[str, ...]) -> None:
    site = Site()
    use = site.begin(1_000)
    site.wait(600)
    odd = {"low": site.device.reading(site.gateway, 9_000), "high": site.device.reading(site.gateway, 9_500)}
    for reading in odd.values():
        assert site.say(reading).refusal is Refusal.REGISTER_TOO_FAST
    # As after an outage: all of them before anything is done.
    for name in order:
        if name == "close":
            close(site)
        else:
            believe(site, odd[name].counter)
    site.seal()
    claim = site.claims()[use.id]
    # Closed: the step of 100 Wh is whole.
    assert (claim.register_to, claim.final, claim.closed_by) == (9_500, True, "case 7")
    assert claim.net_micros == 500_000 + 8_500 * WH
    assert not site.gateway.state.due
    assert not site.gateway.replayed().due


def test_a_believed_end_below_what_was_believed_of_its_readings_ends_where_they_stand() -> None:
    site = Site()
    use = site.begin(1_000)
    site.wait(600)
    end, reading = site.device.end(site.gateway, 9_000), site.device.reading(site.gateway, 9_500)
    for statement in (end, reading):
        assert site.say(statement).refusal is Refusal.REGISTER_TOO_FAST
        believe(site, statement.counter)
    site.seal()
    claim = site.claims()[use.id]
    assert (claim.register_to, claim.final, claim.closed_by) == (9_500, True, "case 3")


# Ends that no device signs -----------------------------------------------------------------------------------------


def test_a_use_is_closed_by_decision_at_the_last_value_that_was_signed() -> None:
    site = Site()
    use = site.begin(1_000)
    site.wait(600)
    site.read(1_950)
    held = site.gateway.state.quotas["q1"].held_micros
    assert held > 0
    close(site)
    site.seal()
    assert site.gateway.state.quotas["q1"].held_micros == 0
    claim = site.claims()[use.id]
    # Closed: the step of 100 Wh is rounded up, as at any end.
    assert (claim.register_to, claim.final, claim.closed_by) == (1_950, True, "case 7")
    assert claim.net_micros == 500_000 + 1_000 * WH
    # What its device says after it is evidence, and for people.
    site.wait(600)
    assert site.read(2_400).refusal is Refusal.INTENT_ENDED
    assert site.end(2_500).refusal is Refusal.INTENT_ENDED
    assert site.end(1_950).status is AnswerStatus.RECORDED
    assert site.gateway.state.parked == 2
    # When the cloud has the claim, and what was parked since, its device need not keep any of it any more.
    (device,) = site.gateway.state.devices.values()
    assert device.receipted_counter(use.closed_position) == site.device.counter - 3
    batch = site.seal()
    assert batch is not None
    assert len(batch.parked) == 2
    last = max(parked.position for parked in site.gateway.state.parked_statements.values())
    assert device.receipted_counter(last - 1) < device.highest
    assert device.receipted_counter(batch.last_position) == device.highest == site.device.counter
    assert {parked.value for parked in site.gateway.state.parked_statements.values()} == {2_400, 2_500}
    assert site.gateway.replayed().quotas["q1"].spent_micros == site.gateway.state.quotas["q1"].spent_micros


def test_a_device_that_is_gone_takes_all_its_open_uses_with_it() -> None:
    site = Site()
    use = site.begin(1_000)
    close(site, authorization=bytes(16))
    assert not site.gateway.state.due
    assert not use.closed
    close(site)
    site.seal()
    # Never used: nothing to bill, and its claim says that it is over.
    claim = site.claims()[use.id]
    assert (claim.net_micros, claim.register_to, claim.final, claim.closed_by) == (0, 1_000, True, "case 7")


def test_time_ends_no_use() -> None:
    site = Site()
    use = site.begin(1_000)
    site.wait(9 * 3600)
    site.seal()
    assert not use.closed
    assert site.gateway.state.quotas["q1"].held_micros > 0


def test_a_new_register_epoch_closes_the_use_of_the_old_and_begins_anew() -> None:
    site = Site()
    use = site.begin(1_000)
    site.wait(600)
    site.read(1_500)
    site.describe(register_epoch=2)
    site.seal()
    claim = site.claims()[use.id]
    assert (claim.register_epoch, claim.register_to, claim.final, claim.closed_by) == (
        1,
        1_500,
        True,
        NEW_REGISTER_EPOCH,
    )
    # The new register begins wherever it stands, and the old one is heard no more.
    old = site.device
    site.wait(60)
    assert site.end(1_600).refusal is Refusal.INTENT_ENDED
    site.device = Meter("d1", 3, counter=old.counter, register_epoch=2)
    after = site.begin(3)
    site.wait(600)
    site.end(503)
    site.seal()
    assert (site.claims()[after.id].register_from, site.claims()[after.id].register_to) == (3, 503)


def test_what_is_said_late_of_a_replaced_register_that_had_come_round_is_not_taken_for_old() -> None:
    site = Site(modulus=1_000, rated_per_hour=600)
    use = site.begin(900)
    site.wait(3600)
    site.read(100, register=site.register(100, 1))
    assert use.value == 1_100
    site.describe(register_epoch=2)
    site.seal()
    # 1,150 with its turn: more than was proven, so it is for people, and not "recorded".
    assert site.end(150, register=site.register(150, 1)).refusal is Refusal.INTENT_ENDED
    assert site.end(100, register=site.register(100, 1)).status is AnswerStatus.RECORDED


def test_a_standing_meter_that_is_replaced_begins_a_new_account_of_its_use() -> None:
    site = Site()
    described = {"profile": "standing", "standing_account_id": "P"}
    site.describe(**described)
    site.read(7_000)
    site.wait(600)
    site.read(7_900)
    site.describe(register_epoch=2, **described)
    site.seal()
    site.device = Meter("d1", 0, counter=site.device.counter, register_epoch=2)
    site.wait(60)
    assert site.read(12).status is AnswerStatus.RECORDED
    site.wait(600)
    site.read(100)
    site.seal()
    old, new = site.claims().values()
    assert (old.register_epoch, old.register_from, old.register_to, old.final) == (1, 7_000, 7_900, True)
    assert (new.register_epoch, new.register_from, new.register_to, new.final) == (2, 12, 100, False)


def test_a_standing_meter_whose_new_register_is_not_known_yet_is_asked_for_later_and_loses_nothing() -> None:
    """The operator's word of the new register is still on its way: a no would have the meter begin at a later reading."""
    site = Site()
    described = {"profile": "standing", "standing_account_id": "P"}
    site.describe(**described)
    site.read(7_000)
    site.device = Meter("d1", 0, counter=site.device.counter, register_epoch=2)
    site.wait(60)
    counter = site.device.counter
    assert (site.read(12).status, site.read(12).refusal) == (AnswerStatus.LATER, Refusal.NOT_AUTHORIZING)
    site.describe(register_epoch=2, **described)
    site.device.counter = counter
    assert site.read(12).status is AnswerStatus.RECORDED
    site.wait(600)
    site.read(100)
    site.seal()
    (new,) = [claim for claim in site.claims().values() if claim.register_epoch == 2]
    assert (new.register_from, new.register_to) == (12, 100)


def test_a_registry_that_was_restored_takes_no_register_and_no_device_epoch_back() -> None:
    site = Site()
    site.describe(device_epoch=2, register_epoch=2)
    site.device = Meter("d1", 3, counter=site.device.counter, register_epoch=2)
    site.describe(device_epoch=2, register_epoch=1)
    device = site.gateway.state.devices["d1"]
    assert [register.epoch for register in device.registers.values()] == [2]
    site.describe(device_epoch=1, register_epoch=2)
    assert device.epoch == 2
    assert "goes back from 2 to 1" in site.gateway.state.directive_faults[-1][1]
    # Whom it suspends is suspended nevertheless.
    site.describe(device_epoch=1, register_epoch=2, status=directive_pb2.DEVICE_STATUS_SUSPENDED)
    assert (device.epoch, device.status) == (2, directive_pb2.DEVICE_STATUS_SUSPENDED)


# Gaps -----------------------------------------------------------------------------------------------------------------


def test_readings_that_did_not_come_are_counted_in_the_claim() -> None:
    site = Site(report_interval_s=600)
    use = site.begin(0)
    for minutes, value in ((10, 100), (14, 200), (31, 300)):
        site.wait(60 * minutes)
        site.read(value)
    assert use.missed == 2
    site.wait(600)
    site.end(400)
    site.seal()
    assert site.claims()[use.id].missed_readings == 2


def test_a_use_that_is_silent_is_seen_until_it_is_heard_again() -> None:
    site = Site(report_interval_s=600)
    use = site.begin(0)
    view = GatewayView(lambda: site.gateway.state, lambda: site.gateway.state.position)
    site.wait(800)
    assert view.overdue(site.gateway.at) == []
    site.wait(1_200)
    (silent,) = view.overdue(site.gateway.at)
    assert (silent.device, silent.authorization, silent.missed) == ("d1", use.id.hex(), 2)
    site.read(100)
    assert view.overdue(site.gateway.at) == []
    site.wait(9_000)
    site.end(200)
    assert view.overdue(site.gateway.at) == []


# Records that no batch can hold -----------------------------------------------------------------------------------


def test_a_use_that_no_batch_can_bill_is_set_aside_and_stops_nothing() -> None:
    site = Site()
    poison = site.begin(0)
    site.wait(600)
    site.end(500)
    good = site.begin(500)
    site.wait(600)
    site.end(900)
    # As a state that no rule foresaw would have it: a name that is none.
    poison.register_id = "not an id"
    assert [type(event) for event in site.gateway.do(commands.SealDue()).events] == [events.UseSetAside]
    assert poison.id in site.gateway.state.set_aside
    # Its detail is that of the others, and proves itself.
    batch = site.seal()
    assert batch is not None
    assert [claim.authorization_id for claim in batch.claims] == [good.id]
    assert site.gateway.seal() is None
