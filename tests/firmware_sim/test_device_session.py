"""A device's conversation with one gateway, told as one."""

import itertools
from dataclasses import replace

import pytest

from farthing.clock import SECOND_US
from farthing.device.messages import AnswerStatus, End, Intent, Reading, RegisterValue, decode_statement, encode
from farthing.ids import GatewayId, token_commitment
from farthing.refusal import Refusal
from farthing_firmware_sim.device.due import next_due_us
from farthing_firmware_sim.device.state import is_finished, new_state, restored
from farthing_firmware_sim.device.step import step
from farthing_firmware_sim.device.stored import dump, load
from farthing_firmware_sim.device.values import (
    MAX_AGAIN,
    AnswerDistrusted,
    Answered,
    Arrive,
    Draw,
    Event,
    Finish,
    Finished,
    Granted,
    GrantLapsed,
    Input,
    Profile,
    Reconnected,
    RefusedIntent,
    Send,
    StatementRefused,
    Tick,
)


class Talk:
    """A device and what it said last."""

    def __init__(self, nameplate, at, *, gateways, register_value=0):
        self.plate = nameplate
        self.at = at
        self.gateways = {gateway.gateway: gateway for gateway in gateways}
        self.state = new_state(nameplate, register_value=register_value, now=at(0))
        self.said: list[Send] = []
        self.events: list[Event] = []

    def give(self, given: Input, seconds, **clock):
        outcome = step(self.plate, self.state, given, now=self.at(seconds, **clock))
        self.state = outcome.state
        self.said = list(outcome.sends)
        self.events = list(outcome.events)
        return self

    def tick(self, seconds, **clock):
        return self.give(Tick(), seconds, **clock)

    def hear(self, seconds, *, send=None, **clock):
        """The gateway answers what was said last (or ``send``)."""
        for each in [send] if send else list(self.said):
            answer, grant = self.gateways[each.gateway].hear(each.payload)
            self.give(Answered(gateway=each.gateway, answer=answer, grant=grant), seconds, **clock)
        return self

    def statements(self):
        return [decode_statement(each.payload) for each in self.said]

    def only(self):
        (statement,) = self.statements()
        return statement

    def happened(self, kind):
        return [each for each in self.events if isinstance(each, kind)]


@pytest.fixture
def talk(nameplate, at, gateway):
    return Talk(nameplate(), at, gateways=[gateway], register_value=812_340)


def test_a_session_from_token_to_receipt(talk, gateway, plan):
    talk.give(Arrive(plan=plan()), 0)
    intent = talk.only()
    assert isinstance(intent, Intent)
    assert (intent.counter, intent.register.value, intent.incarnation) == (1, 812_340, 1)
    assert talk.said[0].token == b"anna-card"

    talk.hear(4)
    (granted,) = talk.happened(Granted)
    assert granted.intent_counter == 1

    # 11 kW: a thousand watt-hours after 327 s, the signed limit.
    talk.tick(400)
    reading = talk.only()
    assert isinstance(reading, Reading)
    assert reading.register.value == 813_340
    assert talk.said[0].token is None
    talk.tick(500)
    assert talk.state.register_value == 813_340, "it waits at the limit"

    talk.hear(510, send=talk.said[0] if talk.said else None)
    talk.tick(600)
    assert talk.state.register_value == 813_340, "no answer, no use"


def test_it_reads_at_the_instants_that_the_grant_asks_for(talk, gateway, plan, at):
    """As the register stood then, however late the step that sees it; and no newer reading takes their place on the air."""
    gateway.readings_due = (at(104).business_us, at(200).business_us, at(10_000).business_us)
    talk.give(Arrive(plan=plan()), 0).hear(4)
    assert next_due_us(talk.plate, talk.state) == at(104).business_us
    talk.tick(250)
    asked = talk.statements()
    assert [(each.at, each.register.value) for each in asked] == [
        (at(104).business_us, 812_340 + 305),
        (at(200).business_us, 812_340 + 598),
    ]
    assert load(dump(talk.state, Profile.SESSION)).use.readings_due == (at(10_000).business_us,)

    talk.tick(400)
    at_limit = decode_statement(talk.state.outgoing[-1].payload)
    assert at_limit.register.value == 813_340
    assert [decode_statement(each.payload) for each in talk.state.outgoing] == [*asked, at_limit]
    for each in talk.state.outgoing:
        answer, grant = gateway.hear(each.payload)
        talk.give(Answered(gateway=each.gateway, answer=answer, grant=grant), 410)
    assert talk.state.outgoing == ()
    # It leaves before the third instant comes: there is nothing to read any more.
    talk.tick(4 + 3_600)
    assert isinstance(talk.only(), End)


def test_a_yes_that_has_lapsed_begins_nothing_and_is_asked_for_anew(talk, gateway, plan):
    """End first: the new intent waits for the end's answer, as before it the register is in use."""
    gateway.lapse_us = 60 * SECOND_US
    talk.give(Arrive(plan=plan(patience_real_us=None, gateways=(gateway.gateway,))), 0)
    first = talk.only()
    talk.hear(60)
    (lapsed,) = talk.happened(GrantLapsed)
    assert lapsed.intent_counter == first.counter
    assert not talk.happened(Granted)
    end = talk.only()
    assert isinstance(end, End)
    assert (end.register.value, end.tariff) == (812_340, None)
    talk.hear(61)
    anew = talk.only()
    assert isinstance(anew, Intent)
    assert (anew.counter, anew.at, talk.said[0].token) == (3, talk.at(60).business_us, b"anna-card")

    talk.hear(119)
    assert talk.happened(Granted)
    talk.tick(10_000)
    assert talk.state.register_value > 812_340


def test_who_has_begun_goes_on_beyond_the_lapse(talk, gateway, plan):
    gateway.lapse_us = 60 * SECOND_US
    talk.give(Arrive(plan=plan()), 0).hear(59).tick(400)
    talk.hear(404)
    talk.tick(1_000)
    assert talk.state.register_value > 813_340
    assert not talk.happened(GrantLapsed)


def test_a_clock_by_which_every_yes_is_late_is_believed_a_few_times(talk, gateway, plan):
    gateway.lapse_us = 0
    talk.give(Arrive(plan=plan(patience_real_us=None)), 0)
    intents = 0
    for seconds in range(100):
        intents += sum(isinstance(each, Intent) for each in talk.statements())
        talk.hear(seconds)
    assert intents == 1 + MAX_AGAIN
    assert talk.state.use is None
    assert talk.state.register_value == 812_340
    assert all(each.closed for each in gateway.open.values())


def test_a_session_that_is_closed_before_it_has_begun_does_not_begin(talk, gateway, plan):
    """People have ended it while the yes was on its way."""
    talk.give(Arrive(plan=plan()), 0)
    answer, grant = gateway.hear(talk.said[0].payload)
    talk.give(Answered(gateway=gateway.gateway, answer=replace(answer, closed=True), grant=grant), 2)
    assert not talk.happened(Granted)
    assert isinstance(talk.only(), End)


def test_it_goes_on_when_a_new_limit_comes(talk, gateway, plan):
    talk.give(Arrive(plan=plan()), 0).hear(4).tick(400)
    talk.hear(404)
    talk.tick(404 + 100)
    assert talk.state.register_value == 813_340 + 305
    talk.tick(404 + 900)
    assert talk.only().register.value == 814_340

    talk.hear(1310)
    talk.tick(4 + 3600)
    end = talk.only()
    assert isinstance(end, End)
    assert end.tariff is not None
    (finished,) = talk.happened(Finished)
    assert (finished.start, finished.end) == (812_340, end.register.value)
    talk.hear(3700)
    assert not talk.state.outgoing
    assert not talk.state.kept, "the cloud receipted all of it"
    (claim,) = gateway.open.values()
    assert claim.claimed == finished.end - finished.start


def test_what_cannot_be_stopped_goes_on_and_says_so(nameplate, at, gateway, plan):
    talk = Talk(nameplate(stoppable=False), at, gateways=[gateway])
    gateway.budget = 1_000
    talk.give(Arrive(plan=plan()), 0).hear(0).tick(900).hear(900).tick(3600)
    (finished,) = talk.happened(Finished)
    assert finished.end == 5_500
    assert finished.overrun == 4_500


def test_unanswered_it_repeats_the_same_bytes_later_and_later(talk, plan):
    talk.give(Arrive(plan=plan(patience_real_us=60_000_000)), 0)
    first = talk.said[0]
    times = []
    for ms in range(0, 20_000, 20):
        talk.tick(0, real_s=ms / 1_000)
        if talk.said:
            assert talk.said == [replace(first, witness=None)]
            times.append(ms)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] >= 400 * 0.7
    assert all(gap <= 3_000 * 1.3 for gap in gaps)
    assert max(gaps) >= 3_000 * 0.7


def test_no_answer_and_the_payer_leaves_end_without_width(talk, gateway, plan):
    talk.give(Arrive(plan=plan()), 0).tick(0, real_s=7)
    end = talk.only()
    assert isinstance(end, End)
    assert end.tariff is None
    assert end.register.value == 812_340
    (finished,) = talk.happened(Finished)
    assert finished.cancelled
    talk.hear(10, real_s=8)
    assert not talk.state.outgoing
    # The intent arrives late and is refused from then on.
    assert gateway.hear(finished_intent(talk))[0].refusal is Refusal.INTENT_ENDED


def finished_intent(talk):
    """The payload of the intent that was cancelled: rebuilt, since nothing keeps it once receipted."""
    plate = talk.plate
    return encode(
        Intent(
            recipient=GatewayId("gw-1"),
            device=plate.device,
            device_epoch=1,
            counter=1,
            at=talk.at(0).business_us,
            register=RegisterValue(register_id=plate.register_id, register_epoch=1, value=812_340),
            commitment=token_commitment(b"anna-card", bytes(16)),
            incarnation=1,
        )
    )


def test_before_it_asks_elsewhere_it_ends_here(nameplate, at, gateway, new_gateway, plan):
    other = new_gateway(gateway=GatewayId("gw-2"))
    talk = Talk(nameplate(), at, gateways=[gateway, other], register_value=100)
    talk.give(Arrive(plan=plan(gateways=(GatewayId("gw-1"), GatewayId("gw-2")))), 0).tick(0, real_s=1.1)
    end, intent = talk.statements()
    assert isinstance(end, End)
    assert isinstance(intent, Intent)
    assert (end.recipient, end.counter, intent.recipient, intent.counter) == ("gw-1", 2, "gw-2", 3)
    assert intent.register.value == end.register.value == 100
    talk.hear(10, send=talk.said[1], real_s=1.2)
    assert talk.state.use.gateway == "gw-2"
    assert [each.gateway for each in talk.state.outgoing] == ["gw-1"], "the end is repeated until it is answered"


def test_another_incarnation_is_asked_anew(talk, gateway, plan):
    gateway.incarnation = 3
    talk.give(Arrive(plan=plan()), 0).hear(1)
    intent = talk.only()
    assert (intent.counter, intent.incarnation) == (2, 3)
    talk.hear(2)
    assert talk.happened(Granted)


def test_a_no_is_a_no(talk, gateway, plan):
    gateway.refuse_next = Refusal.QUOTA_EXHAUSTED
    talk.give(Arrive(plan=plan()), 0).hear(1)
    (refused,) = talk.happened(RefusedIntent)
    assert refused.refusal is Refusal.QUOTA_EXHAUSTED
    assert talk.state.use is None
    assert not talk.state.kept
    assert talk.state.register_value == 812_340


def test_later_is_asked_again_when_the_gateway_says(talk, gateway, plan):
    talk.give(Arrive(plan=plan()), 0)
    answer, _ = gateway.hear(talk.said[0].payload)
    later = replace(
        answer, status=AnswerStatus.LATER, refusal=Refusal.OVERLOADED, retry_after_ms=2_000, grant=None, closed=False
    )
    talk.give(Answered(gateway=answer.gateway, answer=later, grant=None), 0, real_s=0.1)
    talk.tick(0, real_s=2.0)
    assert not talk.said
    talk.tick(0, real_s=2.2)
    assert talk.only().counter == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"recipient": "charge-2"}, "another device"),
        ({"gateway": "gw-2"}, "another gateway"),
        ({"authorization": bytes(16)}, "another authorization"),
        ({"intent_counter": 9}, "another intent"),
        ({"start": 0}, "starts elsewhere"),
        ({"commitment": bytes(32)}, "another token"),
        ({"register_epoch": 2}, "starts elsewhere"),
    ],
)
def test_a_grant_that_is_not_the_answer_grants_nothing(talk, gateway, plan, change, why):
    talk.give(Arrive(plan=plan()), 0)
    answer, grant = gateway.hear(talk.said[0].payload)
    talk.give(Answered(gateway=answer.gateway, answer=answer, grant=replace(grant, **change)), 1)
    (distrusted,) = talk.happened(AnswerDistrusted)
    assert why in distrusted.why
    talk.tick(100, real_s=5)
    assert talk.state.register_value == 812_340
    assert talk.only().counter == 1, "it still asks"


def test_one_shot_uses_at_yes_and_needs_no_end(nameplate, at, gateway, plan):
    talk = Talk(nameplate(Profile.ONE_SHOT), at, gateways=[gateway], register_value=41)
    talk.give(Arrive(plan=plan(target=1)), 0)
    assert talk.only().one_shot == 1
    talk.tick(0, real_s=3_000)
    assert talk.only().counter == 1, "it never leaves an intent: the yes is the use"
    assert talk.state.register_value == 41
    talk.hear(9, real_s=3_001)
    (finished,) = talk.happened(Finished)
    assert (finished.start, finished.end, finished.last_counter) == (41, 42, 1)
    assert talk.state.register_value == 42
    assert not talk.state.outgoing


def test_one_shot_keeps_its_intent_until_the_receipt(nameplate, at, gateway, plan):
    talk = Talk(nameplate(Profile.ONE_SHOT), at, gateways=[gateway], register_value=41)
    gateway.receipting = False
    talk.give(Arrive(plan=plan(target=1)), 0).hear(1)
    talk.give(Finish(), 2, real_s=0.1)
    assert not is_finished(talk.state)
    gateway.receipting = True
    talk.tick(3, real_s=3)
    assert talk.said[0].token == b"anna-card", "shown again whole"
    talk.hear(4, real_s=4)
    assert is_finished(talk.state)


def test_standing_reports_from_its_baseline_and_ends_with_a_last_reading(nameplate, at, gateway):
    talk = Talk(nameplate(Profile.STANDING), at, gateways=[gateway], register_value=500)
    talk.tick(0)
    first = talk.only()
    assert isinstance(first, Reading)
    assert first.authorization is None
    talk.give(Draw(rate_per_hour=3_600), 10)
    talk.tick(910)
    assert [each.counter for each in talk.statements()] == [1], "nothing newer before the baseline is recorded"
    talk.hear(911)
    assert talk.only().register.value == 500 + 901, "overdue, it follows at once"
    talk.hear(912).tick(1_799)
    assert not talk.said
    talk.tick(1_800)
    assert talk.only().register.value == 500 + 1_790
    talk.hear(1_801)
    talk.give(Finish(), 2_000)
    final = talk.only()
    assert final.register.value == 500 + 1_990
    assert not is_finished(talk.state)
    talk.hear(2_001)
    assert is_finished(talk.state)
    talk.tick(5_000)
    assert talk.state.register_value == final.register.value == talk.state.standing.recorded
    assert talk.state.standing.baseline == 500


def test_standing_repeats_a_refused_first_reading_with_the_same_bytes(nameplate, at, gateway):
    talk = Talk(nameplate(Profile.STANDING), at, gateways=[gateway])
    talk.tick(0)
    first = talk.said[0]
    answer, _ = gateway.hear(first.payload)
    no = replace(answer, status=AnswerStatus.REFUSED, refusal=Refusal.DEVICE_UNKNOWN)
    talk.give(Answered(gateway=answer.gateway, answer=no, grant=None), 1)
    assert talk.happened(StatementRefused)
    talk.tick(2_000, real_s=10)
    assert [each.payload for each in talk.said] == [first.payload]


def test_after_a_power_cut_it_goes_on_where_it_was(talk, gateway, plan):
    talk.give(Arrive(plan=plan()), 0).hear(4).tick(300)
    talk.state = restored(load(dump(talk.state, Profile.SESSION)), now=talk.at(2_000))
    talk.tick(2_010)
    assert talk.state.use is not None
    talk.give(Finish(), 2_020).hear(2_030)
    assert is_finished(talk.state)
    (claim,) = gateway.open.values()
    assert claim.claimed == talk.state.register_value - 812_340


def test_a_power_cut_takes_the_token_and_so_the_intent(talk, plan):
    talk.give(Arrive(plan=plan()), 0)
    stored = dump(talk.state, Profile.SESSION)
    assert b"anna-card" not in stored
    talk.state = restored(load(stored), now=talk.at(10))
    talk.tick(11)
    assert isinstance(talk.only(), End)


def test_reconnected_it_speaks_at_once(talk, plan):
    talk.give(Arrive(plan=plan()), 0)
    talk.tick(0, real_s=0.01)
    assert not talk.said
    talk.give(Reconnected(gateway=GatewayId("gw-1")), 0, real_s=0.02)
    assert talk.only().counter == 1


def test_blocked_in_the_middle_it_stops_and_ends(talk, gateway, plan):
    talk.give(Arrive(plan=plan()), 0).hear(4).tick(910)
    answer, _ = gateway.hear(talk.said[0].payload)
    blocked = replace(answer, status=AnswerStatus.REFUSED, refusal=Refusal.DEVICE_BLOCKED, grant=None)
    talk.give(Answered(gateway=answer.gateway, answer=blocked, grant=None), 911)
    assert isinstance(talk.only(), End)
    assert talk.state.use is None
