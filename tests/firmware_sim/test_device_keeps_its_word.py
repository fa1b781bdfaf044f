"""What a device owes gateways that forget, that fall silent, and that ask."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from farthing.device.messages import (
    Answer,
    AnswerStatus,
    Disclaimer,
    End,
    Intent,
    Reading,
    Statement,
    Witness,
    decode_statement,
)
from farthing.ids import AuthorizationId, GatewayId, StartId, authorization_id
from farthing.refusal import Refusal
from farthing_firmware_sim.device.state import can_serve, is_finished, new_state, restored, served_at
from farthing_firmware_sim.device.step import step
from farthing_firmware_sim.device.stored import dump, load
from farthing_firmware_sim.device.values import (
    MAX_SAID_AGAIN,
    Answered,
    Arrive,
    Disclaimed,
    Draw,
    EndHandedOver,
    Event,
    Finish,
    Finished,
    Input,
    Profile,
    Replaced,
    Send,
    Tick,
)

G1, G2 = GatewayId("gw-1"), GatewayId("gw-2")


class Life:
    """A device, the gateways that it can reach, and what it said last."""

    def __init__(self, nameplate: Any, at: Any, *gateways: Any) -> None:
        self.plate, self.at = nameplate, at
        self.gateways = {gateway.gateway: gateway for gateway in gateways}
        self.state = new_state(nameplate, register_value=5_000, now=at(0))
        self.said: list[Send] = []
        self.events: list[Event] = []
        self.seconds = 0.0
        self.real_s: float | None = None

    def give(self, given: Input, seconds: float | None = None, *, real_s: float | None = None) -> "Life":
        self.seconds = self.seconds if seconds is None else seconds
        self.real_s = real_s if real_s is not None else self.real_s
        outcome = step(self.plate, self.state, given, now=self.at(self.seconds, real_s=self.real_s))
        self.state = outcome.state
        # All of it can be written down and read again, save the token.
        assert load(dump(self.state, self.plate.profile)).kept == self.state.kept
        self.said, self.events = list(outcome.sends), list(outcome.events)
        return self

    def tick(self, seconds: float | None = None, **clock: float) -> "Life":
        return self.give(Tick(), seconds, **clock)

    def hear(self, gateway: GatewayId = G1, *, grant_cose: bytes = b"grant") -> "Life":
        """``gateway`` answers what was said to it; the grant's bytes are ``grant_cose``."""
        for each in [send for send in self.said if send.gateway == gateway]:
            answer, grant = self.gateways[gateway].hear(each.payload)
            if grant is not None:
                answer = replace(answer, grant=grant_cose)
            self.give(Answered(gateway=gateway, answer=answer, grant=grant))
        return self

    def answer(self, gateway: GatewayId, send: Send, status: AnswerStatus, **fields: Any) -> "Life":
        incarnation = fields.pop("incarnation", 1)
        # As far as the device has seen its journal, if nothing else is said.
        seen = max((each.witness.position for each in self.state.seen if each.gateway == gateway), default=0)
        position = fields.pop("position", seen)
        start_id = StartId(fields.pop("start_id", bytes(16)))
        witness = Witness(incarnation=incarnation, start_id=start_id, position=position)
        answer = Answer(
            gateway=gateway,
            witness=witness,
            answers=(1, send.counter),
            status=status,
            receipted_counter=fields.pop("receipted", 0),
            **fields,
        )
        return self.give(Answered(gateway=gateway, answer=answer, grant=None))

    def forget(self, send: Send) -> "Life":
        return self.answer(send.gateway, send, AnswerStatus.AGAIN, refusal=Refusal.AUTHORIZATION_UNKNOWN)

    def only(self, kind: type[Statement]) -> Send:
        (found,) = [send for send in self.said if isinstance(decode_statement(send.payload), kind)]
        return found

    def happened(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def life(nameplate: Callable[..., Any], at: Any, new_gateway: Callable[..., Any]) -> Life:
    return Life(nameplate(), at, new_gateway(gateway=G1, receipting=False), new_gateway(gateway=G2, receipting=False))


def in_use(life: Life, plan: Callable[..., Any]) -> AuthorizationId:
    life.give(Arrive(plan=plan(gateways=(G1, G2))), 0, real_s=0)
    life.hear(grant_cose=b"first grant")
    assert life.state.use is not None
    return authorization_id(life.plate.device, 1, life.state.use.intent_counter, G1)


# A gateway that forgot ------------------------------------------------------------------------------------------------


def test_a_forgotten_reading_is_said_again_with_the_newest_grant_and_the_intent(life: Life, plan: Any) -> None:
    in_use(life, plan)
    life.tick(400, real_s=1).hear(grant_cose=b"second grant")
    life.tick(1_300, real_s=2)
    reading = life.only(Reading)
    assert reading.showing is None
    life.forget(reading)
    again = life.only(Reading)
    assert (again.counter, again.payload, again.recipient) == (reading.counter, reading.payload, G1)
    assert again.showing is not None
    assert (again.showing.grant, again.showing.kind, again.showing.counter) == (b"second grant", "intent", 1)
    assert isinstance(decode_statement(again.showing.payload), Intent)
    # Shown in vain: nothing covers it, so it ends, and shows the same for the end.
    life.forget(again)
    end = life.only(End)
    assert end.showing is None
    life.forget(end)
    assert life.only(End).showing == again.showing


def test_what_a_session_began_with_is_kept_until_its_end_is_receipted(life: Life, plan: Any) -> None:
    in_use(life, plan)
    life.gateways[G1].receipting = True
    life.tick(400, real_s=1).hear().tick(1_300, real_s=2).hear()
    assert {each.kind for each in life.state.kept} == {"intent", "reading"}
    life.gateways[G1].receipting = False
    life.tick(3_700, real_s=4).hear()
    assert [each.kind for each in life.state.kept if each.kind != "reading"] == ["intent", "end"]
    (intent,) = [each for each in life.state.kept if each.kind == "intent"]
    assert intent.grant == b"grant"
    life.gateways[G1].receipting = True
    life.tick(3_800, real_s=30).hear()
    assert not life.state.kept


def test_an_end_that_answers_no_grant_has_nothing_to_show(life: Life, plan: Any) -> None:
    life.give(Arrive(plan=plan(gateways=(G1,), patience_real_us=1_000_000)), 0, real_s=0)
    life.tick(1, real_s=2)
    end = life.only(End)
    life.forget(end)
    life.tick(2, real_s=60)
    assert life.only(End).showing is None


def test_a_standing_meter_shows_its_first_reading(
    nameplate: Callable[..., Any], at: Any, new_gateway: Callable[..., Any]
) -> None:
    life = Life(nameplate(Profile.STANDING), at, new_gateway(gateway=G1))
    life.tick(0, real_s=0).hear()
    first = life.state.standing.baseline
    for interval in range(1, 4):
        life.tick(900 * interval, real_s=interval).hear()
    assert [each.counter for each in life.state.kept] == [1], "receipted, and still to be shown"
    life.tick(900 * 5, real_s=10)
    life.forget(life.only(Reading))
    showing = life.only(Reading).showing
    assert (showing.grant, decode_statement(showing.payload).register.value) == (None, first)
    life.hear().give(Finish()).hear()
    life.tick(real_s=20).hear()
    assert is_finished(life.state)


def test_what_another_journal_receipts_counts_only_for_what_it_has_answered_itself(life: Life, plan: Any) -> None:
    in_use(life, plan)
    life.tick(400, real_s=1).hear(grant_cose=b"second grant")
    life.tick(3_700, real_s=2)
    end = life.only(End)
    life.answer(G1, end, AnswerStatus.RECORDED, closed=True)
    assert not life.state.outgoing
    # A new incarnation: its journal has nothing of this, and its receipt says "all that I have heard".
    other = replace(end, counter=77)
    life.answer(G1, other, AnswerStatus.RECORDED, closed=True, incarnation=2, receipted=99)
    assert [each.kind for each in life.state.kept if each.kind != "reading"] == ["intent", "end"]
    again = life.only(End)
    assert (again.payload, again.showing.grant, again.showing.counter) == (end.payload, b"second grant", 1)
    # What the lost journal has said was long on its way.
    life.answer(G1, end, AnswerStatus.RECORDED, closed=True, incarnation=1, receipted=99)
    assert [each.counter for each in life.state.outgoing] == [end.counter]
    life.answer(G1, end, AnswerStatus.RECORDED, closed=True, incarnation=2, receipted=99)
    assert not life.state.outgoing
    assert not life.state.kept


def test_an_end_that_waits_for_people_is_kept_until_the_cloud_has_it_and_said_to_another_journal(
    life: Life, plan: Any
) -> None:
    in_use(life, plan)
    life.give(Finish(), 300, real_s=1)
    end = life.only(End)
    life.answer(G1, end, AnswerStatus.REFUSED, refusal=Refusal.REGISTER_TOO_FAST, position=7, receipted=end.counter - 1)
    assert is_finished(life.state)
    assert [each.kind for each in life.state.kept] == ["intent", "end"]
    # Its gateway begins a new journal before the batch with it is receipted: that one hears it as the first did.
    other = replace(end, counter=end.counter + 1)
    life.answer(G1, other, AnswerStatus.LATER, refusal=Refusal.NOT_AUTHORIZING, incarnation=2, position=3)
    again = life.only(End)
    assert (again.counter, again.payload) == (end.counter, end.payload)
    assert again.showing is not None
    assert again.showing.grant == b"first grant"
    assert not is_finished(life.state)
    life.answer(G1, again, AnswerStatus.REFUSED, refusal=Refusal.INTENT_ENDED, incarnation=2, position=4)
    assert is_finished(life.state)
    life.answer(
        G1, again, AnswerStatus.REFUSED, refusal=Refusal.INTENT_ENDED, incarnation=2, position=9, receipted=end.counter
    )
    assert life.state.kept == ()


def test_a_carrier_that_lost_its_journal_is_asked_again(life: Life, plan: Any) -> None:
    end = left_behind(life, plan)
    life.tick(3_800, real_s=60)
    handed = next(send for send in life.said if send.gateway == G2)
    life.answer(G2, handed, AnswerStatus.RECORDED)
    assert [each.carried_by for each in life.state.outgoing] == [G2]
    life.answer(G2, replace(handed, counter=77), AnswerStatus.RECORDED, incarnation=2, receipted=99)
    assert [each.carried_by for each in life.state.outgoing] == [None]
    assert end.counter in {each.counter for each in life.state.kept}
    # What the cloud has already is not handed over anew.
    life.answer(G2, handed, AnswerStatus.RECORDED, incarnation=2, receipted=99)
    assert not life.state.kept
    life.answer(G2, replace(handed, counter=78), AnswerStatus.RECORDED, incarnation=3, receipted=99)
    assert [each.carried_by for each in life.state.outgoing] == [G2]


def test_a_reading_that_replaces_one_that_is_shown_is_shown_too(
    nameplate: Callable[..., Any], at: Any, new_gateway: Callable[..., Any]
) -> None:
    life = Life(nameplate(Profile.STANDING), at, new_gateway(gateway=G1, receipting=False))
    life.tick(0, real_s=0).hear()
    life.tick(900, real_s=1)
    life.forget(life.only(Reading))
    assert life.only(Reading).showing is not None
    life.tick(1_800, real_s=2)
    newer = life.only(Reading)
    assert newer.counter == 3
    assert newer.showing is not None
    assert newer.showing.counter == 1


@pytest.mark.parametrize("status", [AnswerStatus.AGAIN, AnswerStatus.LATER], ids=["unknown", "later"])
def test_a_reading_that_waits_shows_how_it_began_to_a_journal_that_answers_something_older_first(
    nameplate: Callable[..., Any], at: Any, new_gateway: Callable[..., Any], status: AnswerStatus
) -> None:
    life = Life(nameplate(Profile.STANDING), at, new_gateway(gateway=G1, receipting=False))
    life.tick(0, real_s=0).hear()
    life.tick(900, real_s=1)
    older = life.only(Reading)
    life.tick(1_800, real_s=2)
    newer = life.only(Reading)
    assert (newer.counter, newer.showing) == (older.counter + 1, None)
    assert newer.witness is not None
    assert newer.witness.incarnation == 1
    # The older one, long on its way, has reached a new journal: nothing waits for that answer any more, but its witness is kept.
    refusal = Refusal.AUTHORIZATION_UNKNOWN if status is AnswerStatus.AGAIN else Refusal.NOT_AUTHORIZING
    life.answer(G1, older, status, incarnation=2, position=37, refusal=refusal)
    life.tick(1_900, real_s=60)
    again = life.only(Reading)
    assert (again.counter, again.payload) == (newer.counter, newer.payload)
    assert again.witness is not None
    assert again.witness.incarnation == 2
    # Without it that journal would begin the meter anew here, and what it counted before would be nobody's.
    assert again.showing is not None
    assert (again.showing.counter, again.showing.grant) == (1, None)


def test_the_last_reading_of_a_replaced_register_shows_it_too(
    nameplate: Callable[..., Any], at: Any, new_gateway: Callable[..., Any]
) -> None:
    life = Life(nameplate(Profile.STANDING), at, new_gateway(gateway=G1, receipting=False))
    life.tick(0, real_s=0).hear()
    life.tick(900, real_s=1)
    asked = life.only(Reading)
    life.give(Replaced(value=12), 1_000, real_s=2)
    life.plate = replace(life.plate, register_epoch=2)
    life.answer(G1, asked, AnswerStatus.AGAIN, incarnation=2, position=23, refusal=Refusal.AUTHORIZATION_UNKNOWN)
    life.tick(1_001, real_s=60)
    showings = {decode_statement(each.payload).register.register_epoch: each.showing for each in life.said}
    assert showings[1] is not None
    assert showings[1].counter == 1
    # The new register's first has nothing before it.
    assert showings[2] is None


def test_a_first_reading_stays_until_the_last_one_is_receipted(
    nameplate: Callable[..., Any], at: Any, new_gateway: Callable[..., Any]
) -> None:
    life = Life(nameplate(Profile.STANDING), at, new_gateway(gateway=G1))
    life.tick(0, real_s=0).hear()
    life.give(Finish(), 900, real_s=1)
    last = life.only(Reading)
    life.answer(G1, last, AnswerStatus.LATER, refusal=Refusal.NOT_AUTHORIZING, receipted=1)
    assert [each.counter for each in life.state.kept] == [1, last.counter]
    life.answer(G1, last, AnswerStatus.RECORDED, receipted=last.counter)
    assert not life.state.kept


def test_a_last_reading_that_is_refused_for_good_holds_no_other_back(
    nameplate: Callable[..., Any], at: Any, new_gateway: Callable[..., Any]
) -> None:
    life = Life(nameplate(Profile.STANDING), at, new_gateway(gateway=G1))
    life.tick(0, real_s=0).hear()
    life.give(Finish(), 900, real_s=1)
    last = life.only(Reading)
    life.answer(G1, last, AnswerStatus.REFUSED, refusal=Refusal.DEVICE_SUSPENDED, receipted=1)
    assert [(each.counter, each.refused) for each in life.state.kept] == [(last.counter, Refusal.DEVICE_SUSPENDED)]
    assert is_finished(life.state)


# A gateway that is silent -----------------------------------------------------------------------------------------


def left_behind(life: Life, plan: Any) -> Send:
    """A use that is over, and whose gateway says nothing any more."""
    in_use(life, plan)
    life.tick(3_700, real_s=5)
    return life.only(End)


def test_an_end_whose_gateway_is_out_of_reach_is_handed_to_another_with_what_proves_it(life: Life, plan: Any) -> None:
    end = left_behind(life, plan)
    assert {send.gateway for send in life.said} == {G1}
    life.tick(real_s=14)
    assert {send.gateway for send in life.said} == {G1}, "not yet"
    life.tick(real_s=18)
    own, handed = sorted(life.said, key=lambda send: send.gateway)
    assert (own.gateway, own.showing) == (G1, None)
    assert (handed.gateway, handed.recipient, handed.counter, handed.payload) == (G2, G1, end.counter, end.payload)
    assert (handed.showing.grant, handed.showing.counter) == (b"first grant", 1)

    life.answer(G2, handed, AnswerStatus.RECORDED)
    (event,) = life.happened(EndHandedOver)
    assert (event.gateway, event.carried_by) == (G1, G2)
    # Until the cloud has it, the carrier is asked; then its own gateway alone.
    life.tick(real_s=25)
    assert {send.gateway for send in life.said} == {G1, G2}
    life.answer(G2, handed, AnswerStatus.RECORDED, receipted=end.counter)
    assert not life.state.kept
    life.tick(real_s=40)
    assert {send.gateway for send in life.said} == {G1}
    life.give(Finish())
    assert is_finished(life.state)
    # It came back: its own answer ends the matter.
    life.tick(real_s=60).hear()
    assert not life.state.outgoing


def test_an_end_that_was_carried_and_that_its_own_gateway_has_lost_nobody_need_hear(life: Life, plan: Any) -> None:
    end = left_behind(life, plan)
    life.tick(real_s=18)
    handed = next(send for send in life.said if send.gateway == G2)
    life.answer(G2, handed, AnswerStatus.RECORDED)
    life.answer(G2, handed, AnswerStatus.RECORDED, receipted=end.counter)
    life.answer(G1, end, AnswerStatus.AGAIN, refusal=Refusal.AUTHORIZATION_UNKNOWN, incarnation=2)
    assert not life.state.outgoing


def test_a_standing_meter_whose_gateway_is_gone_tells_another_how_far_it_came(
    nameplate: Callable[..., Any], at: Any, new_gateway: Callable[..., Any]
) -> None:
    life = Life(replace(nameplate(Profile.STANDING), standing_others=(G2,)), at, new_gateway(gateway=G1))
    life.tick(0, real_s=0).hear()
    life.give(Draw(rate_per_hour=3_600), 1, real_s=1)
    life.tick(901, real_s=2)
    life.tick(901, real_s=14)
    own, handed = sorted(life.said, key=lambda send: send.gateway)
    assert (own.gateway, handed.gateway, handed.recipient) == (G1, G2, G1)
    assert (handed.showing.grant, handed.showing.counter) == (None, 1)
    # A newer one takes its place at once: its gateway is no nearer.
    life.tick(1_801, real_s=15)
    newer = next(send for send in life.said if send.gateway == G2)
    assert newer.counter > handed.counter
    life.answer(G2, newer, AnswerStatus.RECORDED)
    assert life.state.standing.recorded_counter == newer.counter
    life.answer(G2, newer, AnswerStatus.RECORDED, receipted=newer.counter)
    assert [each.counter for each in life.state.kept] == [1], "what it began with stays, for as long as it goes on"
    life.give(Finish(), 2_000, real_s=16)
    last = next(send for send in life.said if send.counter > newer.counter)
    life.tick(2_000, real_s=30)
    life.answer(G2, last, AnswerStatus.RECORDED, receipted=last.counter)
    assert not life.state.kept
    assert is_finished(life.state)


def test_a_passage_whose_gateway_is_gone_with_its_yes_is_told_to_another(
    nameplate: Callable[..., Any], at: Any, plan: Any, new_gateway: Callable[..., Any]
) -> None:
    life = Life(nameplate(Profile.ONE_SHOT), at, new_gateway(gateway=G1, receipting=False))
    life.give(Arrive(plan=plan(target=1, stay_s=0, gateways=(G1, G2))), 0, real_s=0)
    life.hear()
    assert life.state.use is None
    (passage,) = life.state.kept
    for real_s in (3, 20, 30):
        life.tick(10, real_s=real_s)
    handed = next(send for send in life.said if send.gateway == G2)
    assert (handed.counter, handed.recipient, handed.token) == (passage.counter, G1, None)
    assert handed.showing.grant is not None
    life.answer(G2, handed, AnswerStatus.RECORDED)
    life.answer(G2, handed, AnswerStatus.RECORDED, receipted=passage.counter)
    assert not life.state.kept
    life.give(Finish())
    assert is_finished(life.state)


def test_what_a_carrier_had_receipted_before_it_took_an_older_end_says_nothing_of_it(life: Life, plan: Any) -> None:
    end = left_behind(life, plan)
    life.tick(real_s=18)
    handed = next(send for send in life.said if send.gateway == G2)
    # Newer words of the device, to this gateway, were receipted: "everything up to there", before it heard of the end.
    newer = replace(handed, counter=end.counter + 1)
    life.answer(G2, newer, AnswerStatus.RECORDED, position=4, receipted=end.counter + 1)
    life.answer(G2, handed, AnswerStatus.RECORDED, position=6, receipted=end.counter - 1)
    assert end.counter in {each.counter for each in life.state.kept}, "taken, and not with the cloud"
    life.answer(G2, newer, AnswerStatus.RECORDED, position=5, receipted=end.counter + 1)
    assert end.counter in {each.counter for each in life.state.kept}, "an answer that was long on its way"
    life.answer(G2, handed, AnswerStatus.RECORDED, position=9, receipted=end.counter + 1)
    assert not life.state.kept


@pytest.mark.parametrize(
    ("position", "start_id"), [(0, bytes(16)), (3, b"2" * 16)], ids=["vouches for nothing", "in another start"]
)
@pytest.mark.parametrize("gateway", [G1, G2], ids=["its own", "a carrier"])
def test_what_a_journal_that_went_back_takes_no_receipt_of_before_speaks_of(
    life: Life, plan: Any, gateway: GatewayId, position: int, start_id: bytes
) -> None:
    end = left_behind(life, plan)
    life.tick(real_s=18)
    said = next(send for send in life.said if send.gateway == gateway)
    newer = replace(said, counter=end.counter + 1)
    life.answer(gateway, newer, AnswerStatus.RECORDED, position=4, receipted=end.counter + 1)

    def is_kept() -> bool:
        return end.counter in {each.counter for each in life.state.kept}

    life.answer(gateway, said, AnswerStatus.RECORDED, position=position, start_id=start_id, closed=True)
    assert is_kept()
    # What it had said before comes again, before and after a power cut.
    for _ in range(2):
        life.answer(gateway, newer, AnswerStatus.RECORDED, position=4, receipted=end.counter + 1)
        assert is_kept()
        life.state = restored(load(dump(life.state, Profile.SESSION)), now=life.at(life.seconds, real_s=life.real_s))
    life.answer(gateway, said, AnswerStatus.RECORDED, position=5, receipted=end.counter + 1, closed=True)
    assert not is_kept()


def test_an_answer_that_was_not_decided_takes_nothing_and_leaves_what_was_seen_and_receipted(
    life: Life, plan: Any
) -> None:
    end = left_behind(life, plan)
    life.tick(real_s=18)
    own = next(send for send in life.said if send.gateway == G1)
    newer = replace(own, counter=end.counter + 1)
    life.answer(G1, newer, AnswerStatus.RECORDED, position=4, receipted=end.counter + 1)
    (before,) = [each for each in life.state.seen if each.gateway == G1]
    for _ in range(2):
        # Too busy, and a gateway that may have forgotten something: either says nothing of how far its journal is.
        life.answer(G1, own, AnswerStatus.LATER, refusal=Refusal.OVERLOADED, position=0)
        assert [each for each in life.state.seen if each.gateway == G1] == [before]
    # It is taken at the very place that was seen last: an idle gateway has written nothing since.
    life.answer(G1, own, AnswerStatus.RECORDED, position=4, receipted=end.counter + 1, closed=True)
    assert end.counter not in {each.counter for each in life.state.kept}


def test_a_carriers_receipt_counts_for_what_it_has_taken_only(life: Life, plan: Any) -> None:
    end = left_behind(life, plan)
    life.tick(real_s=18)
    handed = next(send for send in life.said if send.gateway == G2)
    life.answer(G2, replace(handed, counter=0), AnswerStatus.RECORDED, receipted=end.counter)
    assert life.state.kept
    assert life.state.outgoing[0].carried_by is None


@pytest.mark.parametrize(
    ("status", "refusal", "asked_again"),
    [
        (AnswerStatus.LATER, Refusal.OVERLOADED, True),
        (AnswerStatus.REFUSED, Refusal.MALFORMED, False),
    ],
)
def test_a_carrier_that_does_not_take_it_decides_nothing(
    life: Life, plan: Any, status: AnswerStatus, refusal: Refusal, asked_again: bool
) -> None:
    left_behind(life, plan)
    life.tick(real_s=18)
    handed = next(send for send in life.said if send.gateway == G2)
    life.answer(G2, handed, status, refusal=refusal)
    assert life.state.outgoing
    assert not life.happened(EndHandedOver)
    life.tick(real_s=40)
    assert {send.gateway for send in life.said} == ({G1, G2} if asked_again else {G1})


def test_a_power_cut_forgets_neither_the_carrier_nor_the_grant(life: Life, plan: Any) -> None:
    end = left_behind(life, plan)
    life.tick(real_s=18)
    life.answer(G2, next(send for send in life.said if send.gateway == G2), AnswerStatus.RECORDED)
    life.state = restored(load(dump(life.state, Profile.SESSION)), now=life.at(life.seconds, real_s=1_000))
    life.tick(real_s=1_000)
    assert {send.gateway for send in life.said} == {G1}, "what went away may have come back"
    life.tick(real_s=1_020)
    handed = next(send for send in life.said if send.gateway == G2)
    assert (handed.counter, handed.showing.grant) == (end.counter, b"first grant")


def test_payers_are_served_elsewhere_while_a_gateway_is_out_of_reach(life: Life, plan: Any) -> None:
    end = left_behind(life, plan)
    assert served_at(life.state, (G1, G2), life.at(life.seconds, real_s=6)) == (G1, G2)
    assert can_serve(life.plate, life.state, G1, life.at(life.seconds, real_s=life.real_s)) is not None
    life.tick(real_s=18)
    life.give(Arrive(plan=plan(gateways=(G1, G2))), 3_800, real_s=19)
    intent = life.only(Intent)
    assert intent.gateway == G2
    said = decode_statement(intent.payload)
    # A new counter for another recipient, and from where the last one ended.
    assert said.counter > end.counter
    assert said.register.value == decode_statement(end.payload).register.value


def answered(life: Life, plan: Any) -> Send:
    """A use that is over, and whose end its gateway has written down; nobody has receipted it."""
    end = left_behind(life, plan)
    life.answer(G1, end, AnswerStatus.RECORDED, closed=True)
    assert not life.state.outgoing
    return end


def test_an_answered_end_goes_to_another_when_its_gateway_is_gone_before_the_cloud_has_it(
    life: Life, plan: Any
) -> None:
    end = answered(life, plan)
    life.tick(real_s=8)
    assert [(send.gateway, send.counter, send.showing) for send in life.said] == [(G1, end.counter, None)]
    life.tick(real_s=15)
    assert {send.gateway for send in life.said} == {G1}, "one question may be lost"
    assert served_at(life.state, (G1, G2), life.at(life.seconds, real_s=15)) == (G1, G2)
    life.tick(real_s=21)
    own, handed = sorted(life.said, key=lambda send: send.gateway)
    assert (own.gateway, own.counter, own.payload) == (G1, end.counter, end.payload)
    assert (handed.gateway, handed.recipient, handed.payload) == (G2, G1, end.payload)
    assert (handed.showing.grant, handed.showing.counter) == (b"first grant", 1)
    assert served_at(life.state, (G1, G2), life.at(life.seconds, real_s=21)) == (G2,)
    life.give(Finish())
    life.answer(G2, handed, AnswerStatus.RECORDED)
    assert not is_finished(life.state)
    life.answer(G2, handed, AnswerStatus.RECORDED, receipted=end.counter)
    # Its own gateway had it: nobody is waited for any more.
    assert not life.state.kept
    assert not life.state.outgoing
    assert is_finished(life.state)


@pytest.mark.parametrize("refusal", [Refusal.INTENT_ENDED, Refusal.REGISTER_EPOCH_DIFFERS])
def test_an_end_that_was_parked_is_asked_after_and_goes_to_another_when_its_gateway_is_gone_before_the_cloud_has_it(
    life: Life, plan: Any, refusal: Refusal
) -> None:
    end = left_behind(life, plan)
    life.answer(G1, end, AnswerStatus.REFUSED, refusal=refusal)
    assert not life.state.outgoing
    # Who said no may have forgotten it since, or take it to the cloud: only by asking is either heard.
    life.tick(real_s=8)
    assert [(send.gateway, send.counter, send.showing) for send in life.said] == [(G1, end.counter, None)]
    life.tick(real_s=15)
    assert {send.gateway for send in life.said} == {G1}, "one question may be lost"
    life.tick(real_s=21)
    handed = next(send for send in life.said if send.gateway == G2)
    assert (handed.recipient, handed.payload) == (G1, end.payload)
    assert handed.showing is not None
    assert (handed.showing.grant, handed.showing.counter) == (b"first grant", 1)
    life.answer(G2, handed, AnswerStatus.RECORDED)
    assert life.state.kept
    life.answer(G2, handed, AnswerStatus.RECORDED, receipted=end.counter)
    assert not life.state.kept


def test_a_parked_end_is_asked_after_until_it_is_receipted(life: Life, plan: Any) -> None:
    end = left_behind(life, plan)
    life.answer(G1, end, AnswerStatus.REFUSED, refusal=Refusal.INTENT_ENDED)
    life.tick(real_s=8)
    asked = life.only(End)
    life.answer(G1, asked, AnswerStatus.REFUSED, refusal=Refusal.INTENT_ENDED)
    life.tick(real_s=40)
    # Its gateway is there: nobody else is to carry what it has parked.
    assert {send.gateway for send in life.said} == {G1}
    life.answer(G1, life.only(End), AnswerStatus.REFUSED, refusal=Refusal.INTENT_ENDED, receipted=end.counter)
    assert not life.state.kept
    life.tick(real_s=80)
    assert not life.said


@pytest.mark.parametrize(
    ("refusal", "asked"),
    [(Refusal.REGISTER_TOO_FAST, {G1}), (Refusal.CLOCK_AHEAD, {G1}), (Refusal.COUNTER_REUSED, set())],
)
def test_nobody_else_is_given_what_its_gateway_does_not_believe(
    life: Life, plan: Any, refusal: Refusal, asked: set[GatewayId]
) -> None:
    end = left_behind(life, plan)
    life.answer(G1, end, AnswerStatus.REFUSED, refusal=refusal)
    for real_s in (8, 15, 21, 40):
        life.tick(real_s=real_s)
        assert {send.gateway for send in life.said} == asked


def test_whoever_is_heard_again_in_time_is_not_away(life: Life, plan: Any) -> None:
    end = answered(life, plan)
    life.tick(real_s=8)
    life.answer(G1, end, AnswerStatus.RECORDED, closed=True)
    life.tick(real_s=21)
    assert {send.gateway for send in life.said} == {G1}
    assert not life.state.outgoing


def test_a_gateway_that_comes_back_takes_its_own_end_off_the_air(life: Life, plan: Any) -> None:
    end = answered(life, plan)
    life.tick(real_s=8).tick(real_s=21)
    assert [each.counter for each in life.state.outgoing] == [end.counter]
    life.answer(G1, end, AnswerStatus.RECORDED, closed=True)
    assert not life.state.outgoing
    assert end.counter in {each.counter for each in life.state.kept}
    life.answer(G1, end, AnswerStatus.RECORDED, closed=True, receipted=end.counter)
    assert not life.state.kept


def test_receipts_are_asked_for_while_another_gateway_serves(life: Life, plan: Any) -> None:
    end = answered(life, plan)
    life.give(Arrive(plan=plan(gateways=(G2,))), 3_800, real_s=6).hear(G2)
    life.tick(3_810, real_s=8)
    assert (G1, end.counter) in {(send.gateway, send.counter) for send in life.said}
    life.tick(3_820, real_s=21)
    assert (G2, G1, end.counter) in {(send.gateway, send.recipient, send.counter) for send in life.said}


def test_a_power_cut_asks_anew(life: Life, plan: Any) -> None:
    answered(life, plan)
    life.tick(real_s=8)
    life.state = restored(load(dump(life.state, Profile.SESSION)), now=life.at(life.seconds, real_s=1_000))
    life.tick(real_s=1_001)
    assert not life.state.outgoing
    assert life.tick(real_s=1_003).said, "a question"
    life.tick(real_s=1_020)
    assert {send.gateway for send in life.said} == {G1, G2}


def test_a_few_answered_ends_at_a_time_go_to_another(nameplate: Any, at: Any, new_gateway: Any, plan: Any) -> None:
    life = Life(nameplate(), at, new_gateway(gateway=G1, receipting=False), new_gateway(gateway=G2, receipting=False))
    for number in range(MAX_SAID_AGAIN + 3):
        life.give(Arrive(plan=plan(gateways=(G1, G2))), 4_000 * number, real_s=0).hear(grant_cose=b"grant")
        life.tick(4_000 * number + 3_700).hear()
    ends = [each.counter for each in life.state.kept if each.kind == "end"]
    assert len(ends) == MAX_SAID_AGAIN + 3
    life.tick(real_s=5).tick(real_s=30)
    assert [each.counter for each in life.state.outgoing] == ends[:MAX_SAID_AGAIN]
    # Its own gateway is back and answers one: that one is not put on the air again because others wait.
    before, own = life.state, next(send for send in life.said if send.gateway == G1)
    life.answer(G1, own, AnswerStatus.RECORDED, closed=True)
    assert {each.counter for each in life.state.outgoing} == set(ends[:MAX_SAID_AGAIN]) - {own.counter}
    life.state = before
    life.tick(real_s=40)
    for each in tuple(life.said):
        if each.gateway == G2:
            life.answer(G2, each, AnswerStatus.RECORDED, receipted=each.counter)
    assert {each.counter for each in life.state.outgoing} == set(ends[MAX_SAID_AGAIN:])


# A passage whose gateway forgot -----------------------------------------------------------------------------------


@pytest.fixture
def passage(nameplate: Callable[..., Any], at: Any, new_gateway: Callable[..., Any], plan: Any) -> Life:
    """A transponder that has been told yes, and not yet receipted."""
    life = Life(nameplate(Profile.ONE_SHOT), at, new_gateway(gateway=G1, receipting=False))
    life.give(Arrive(plan=plan(target=1, gateways=(G1,))), 0, real_s=0).hear(grant_cose=b"the yes")
    assert life.state.use is None
    return life


@pytest.mark.parametrize("how", ["asked for the receipt", "refused since", "heard by chance"])
def test_a_journal_that_forgot_a_passage_is_shown_its_yes(passage: Life, how: str) -> None:
    if how == "asked for the receipt":
        asked = passage.tick(10, real_s=3).only(Intent)
        assert (asked.showing, asked.token) == (None, b"anna-card")
        passage.answer(G1, asked, AnswerStatus.AGAIN, refusal=Refusal.INCARNATION_DIFFERS)
    elif how == "refused since":
        asked = passage.tick(10, real_s=3).only(Intent)
        passage.answer(G1, asked, AnswerStatus.REFUSED, refusal=Refusal.DEVICE_SUSPENDED)
    else:
        # A refusal of the intent alone, and a receipt for all that the new journal has heard.
        asked = passage.tick(10, real_s=3).only(Intent)
        passage.answer(G1, asked, AnswerStatus.REFUSED, refusal=Refusal.DEVICE_SUSPENDED, incarnation=2, receipted=99)
        assert passage.state.kept, "receipts of the new journal say nothing of what the old one took"
    shown = passage.only(Intent)
    assert (shown.token, shown.salt) == (None, None)
    assert (shown.showing.grant, shown.showing.kind) == (b"the yes", "intent")
    assert shown.showing.payload == shown.payload
    # It has not heard of the device yet; then it has.
    passage.answer(G1, shown, AnswerStatus.AGAIN, refusal=Refusal.NOT_AUTHORIZING, incarnation=2)
    again = passage.tick(20, real_s=20).only(Intent)
    assert again.showing == shown.showing
    passage.answer(G1, again, AnswerStatus.GRANTED, closed=True, grant=b"again", incarnation=2)
    assert not passage.state.outgoing
    assert not passage.events, "nothing is used by it once more"
    assert passage.state.register_value == 5_001
    passage.answer(G1, again, AnswerStatus.GRANTED, closed=True, grant=b"again", incarnation=2, receipted=1)
    assert not passage.state.kept


def test_a_passage_that_is_refused_when_it_is_shown_is_for_people(passage: Life) -> None:
    asked = passage.tick(10, real_s=3).only(Intent)
    passage.answer(G1, asked, AnswerStatus.AGAIN, refusal=Refusal.INCARNATION_DIFFERS)
    passage.answer(G1, asked, AnswerStatus.REFUSED, refusal=Refusal.TARIFF_MISSING)
    assert not passage.state.outgoing
    assert [each.refused for each in passage.state.kept] == [Refusal.TARIFF_MISSING]
    assert not passage.tick(20, real_s=30).said


def test_what_somebody_else_has_said_under_a_counter_receipts_nothing(passage: Life) -> None:
    asked = passage.tick(10, real_s=3).only(Intent)
    passage.answer(G1, asked, AnswerStatus.REFUSED, refusal=Refusal.COUNTER_REUSED, receipted=9)
    passage.answer(G1, passage.only(Intent), AnswerStatus.REFUSED, refusal=Refusal.COUNTER_REUSED, receipted=9)
    assert [each.counter for each in passage.state.kept] == [asked.counter]
    assert is_finished(passage.give(Finish()).state), "people have it, and nobody is waited for"


# A passage that nobody answers ------------------------------------------------------------------------------------


def test_an_unanswered_passage_is_left_when_somebody_else_comes(
    nameplate: Callable[..., Any], at: Any, plan: Any, new_gateway: Callable[..., Any]
) -> None:
    life = Life(nameplate(Profile.ONE_SHOT), at, new_gateway(gateway=G2, receipting=False))
    arrival = Arrive(plan=plan(target=1, stay_s=0, gateways=(G1, G2)))
    asked = life.give(arrival, 0, real_s=0).only(Intent)
    leave_s = life.plate.retry.leave_us // 1_000_000
    # Out of reach, and not for long enough: who comes waits, as there may be a yes on its way.
    life.give(arrival, 20, real_s=leave_s - 1)
    assert life.state.use.intent_counter == asked.counter
    assert not life.happened(Finished)
    life.give(arrival, 30, real_s=leave_s)
    (left,) = life.happened(Finished)
    assert (left.cancelled, left.start, left.end, left.intent_counter) == (True, 5_000, 5_001, asked.counter)
    end, intent = life.only(End), life.only(Intent)
    said, new = decode_statement(end.payload), decode_statement(intent.payload)
    # It ends where the next one begins: whatever its gateway has said to the first, no unit is claimed twice.
    assert (said.recipient, said.tariff, said.register.value) == (G1, None, 5_001)
    assert (new.recipient, new.register.value, new.counter) == (G2, 5_001, said.counter + 1)
    life.hear(G2)
    assert life.state.use is None
    assert life.state.register_value == 5_002
    # A yes that was long on its way changes nothing: whether there was a passage is its gateway's to say.
    life.answer(G1, asked, AnswerStatus.GRANTED, closed=True, grant=b"late")
    assert not life.events
    assert life.state.register_value == 5_002
    assert {each.kind for each in life.state.outgoing} == {"end"}
    life.answer(G1, end, AnswerStatus.RECORDED, closed=True, receipted=end.counter)
    assert all(each.gateway == G2 for each in life.state.kept)


def test_at_the_gateway_that_does_not_answer_nobody_else_is_served(
    nameplate: Callable[..., Any], at: Any, plan: Any, new_gateway: Callable[..., Any]
) -> None:
    life = Life(nameplate(Profile.ONE_SHOT), at, new_gateway(gateway=G1))
    arrival = Arrive(plan=plan(target=1, stay_s=0, gateways=(G1,)))
    life.give(arrival, 0, real_s=0)
    life.give(arrival, 500, real_s=500)
    assert not life.happened(Finished)
    assert life.only(Intent).counter == 1


# A register that is replaced --------------------------------------------------------------------------------------


def test_a_use_ends_at_what_the_old_register_shows_and_the_next_begins_with_the_new(life: Life, plan: Any) -> None:
    in_use(life, plan)
    life.give(Replaced(value=7), 60, real_s=2)
    (ended,) = life.happened(Finished)
    assert (ended.start, ended.register_epoch, ended.cancelled) == (5_000, 1, False)
    # What is said is said at once in the next step, of the old register.
    life.plate = replace(life.plate, register_epoch=2)
    end = life.tick(61, real_s=3).only(End)
    register = decode_statement(end.payload).register
    assert (register.register_epoch, register.value) == (1, ended.end)
    assert ended.end > 5_000
    life.answer(G1, end, AnswerStatus.RECORDED, closed=True)
    life.give(Arrive(plan=plan(gateways=(G1,))), 70, real_s=4)
    asked = decode_statement(life.only(Intent).payload).register
    assert (asked.register_epoch, asked.value) == (2, 7)


def test_a_passage_that_waits_for_its_answer_keeps_its_register(
    nameplate: Callable[..., Any], at: Any, plan: Any, new_gateway: Callable[..., Any]
) -> None:
    life = Life(nameplate(Profile.ONE_SHOT), at, new_gateway(gateway=G1))
    life.give(Arrive(plan=plan(target=1, stay_s=0, gateways=(G1,))), 0, real_s=0)
    before = life.state
    assert life.give(Replaced(value=0), 1, real_s=1).state.register_value == before.register_value
    assert life.state.use == before.use


def test_a_standing_meter_says_how_far_the_old_register_came_and_keeps_it_beside_the_new(
    nameplate: Callable[..., Any], at: Any, new_gateway: Callable[..., Any]
) -> None:
    gateway = new_gateway(gateway=G1, receipting=False)
    life = Life(nameplate(Profile.STANDING), at, gateway)
    life.tick(0, real_s=0).hear()
    life.give(Draw(rate_per_hour=3_600), 1, real_s=1)
    life.tick(901, real_s=2).hear()
    life.give(Replaced(value=12), 1_000, real_s=3)
    life.plate = replace(life.plate, register_epoch=2)
    life.tick(1_001, real_s=4)
    said = {each.counter: decode_statement(each.payload).register for each in life.said}
    old, new = (said[counter] for counter in sorted(said))
    assert (old.register_epoch, old.value, new.register_epoch, new.value) == (1, 5_999, 2, 13)
    # The new one does not take the old one's last word off the air, nor show what the old one began with.
    last = min(said)
    life.forget(next(each for each in life.said if each.counter == last))
    shown = next(each for each in life.said if each.counter == last).showing
    assert decode_statement(shown.payload).register.register_epoch == 1
    life.tick(1_901, real_s=5)
    first = next(each for each in life.state.outgoing if each.register_epoch == 2)
    life.answer(G1, next(each for each in life.said if each.counter == first.counter), AnswerStatus.RECORDED)
    assert (life.state.standing.baseline, life.state.standing.recorded_counter) == (first.value, first.counter)
    # What a gateway parks because its register is gone is for people, and not said for ever.
    again = next(each for each in life.tick(1_950, real_s=60).said if each.counter == last)
    life.answer(G1, again, AnswerStatus.REFUSED, refusal=Refusal.DEVICE_SUSPENDED)
    assert last in {each.counter for each in life.state.outgoing}
    life.answer(G1, again, AnswerStatus.REFUSED, refusal=Refusal.INTENT_ENDED)
    assert last not in {each.counter for each in life.state.outgoing}


# A gateway that asks ----------------------------------------------------------------------------------------------


def test_not_mine_any_more_is_signed_once_and_repeated_until_it_is_heard(life: Life) -> None:
    name = AuthorizationId(b"x" * 16)
    anything = Send(
        kind="end", gateway=G1, recipient=G1, counter=0, payload=b"", token=None, salt=None, trace_id=b"", witness=None, showing=None
    )  # fmt: skip
    life.tick(0, real_s=0)
    life.answer(G1, anything, AnswerStatus.RECORDED, asks=(name,))
    send = life.only(Disclaimer)
    said = decode_statement(send.payload)
    assert (said.authorization, said.register.value, said.counter) == (name, 5_000, 1)
    assert life.happened(Disclaimed) == [Disclaimed(gateway=G1, authorization=name)]
    life.answer(G1, anything, AnswerStatus.RECORDED, asks=(name,))
    assert [(again.counter, again.payload) for again in life.said] == [(1, send.payload)], "the same word again"
    assert life.state.next_counter == 2
    assert can_serve(life.plate, life.state, G1, life.at(life.seconds, real_s=life.real_s)) is not None, (
        "its register is taken until it is heard"
    )
    life.answer(G1, send, AnswerStatus.RECORDED, closed=True)
    assert not life.state.outgoing
    assert not life.state.kept
    assert can_serve(life.plate, life.state, G1, life.at(life.seconds, real_s=life.real_s)) is None


@pytest.mark.parametrize("when", ["asking", "using", "end unanswered", "end answered"])
def test_whoever_is_asked_after_his_own_says_his_last_word(life: Life, plan: Any, when: str) -> None:
    life.give(Arrive(plan=plan(gateways=(G1, G2), patience_real_us=None)), 0, real_s=0)
    name = authorization_id(life.plate.device, 1, 1, G1)
    expected: type[Statement] = Intent
    if when != "asking":
        life.hear()
        life.tick(100, real_s=0.5)
        expected = Reading
    if when.startswith("end"):
        life.tick(3_700, real_s=1)
        expected = End
    if when == "end answered":
        life.hear()
    anything = Send(
        kind="end", gateway=G1, recipient=G1, counter=0, payload=b"", token=None, salt=None, trace_id=b"", witness=None, showing=None
    )  # fmt: skip
    life.answer(G1, anything, AnswerStatus.RECORDED, asks=(name,))
    assert isinstance(decode_statement(life.said[-1].payload), expected)
    assert not life.happened(Disclaimed)
    assert not life.happened(Finished)


def test_the_same_authorization_at_another_gateway_is_not_mine(life: Life, plan: Any) -> None:
    name = in_use(life, plan)
    anything = Send(
        kind="end", gateway=G2, recipient=G2, counter=0, payload=b"", token=None, salt=None, trace_id=b"", witness=None, showing=None
    )  # fmt: skip
    life.answer(G2, anything, AnswerStatus.RECORDED, asks=(name,))
    assert life.only(Disclaimer).gateway == G2
    assert life.state.use is not None


# What is written down ---------------------------------------------------------------------------------------------


def test_a_state_of_the_formats_before_is_read(life: Life, plan: Any) -> None:
    import cbor2

    left_behind(life, plan)
    version, body = cbor2.loads(dump(life.state, Profile.SESSION))
    assert version == 6
    for each in body["seen"]:
        del each["put_back"]
    assert load(cbor2.dumps([5, body])) == life.state
    for each in (*body["outgoing"], *body["kept"]):
        del each["register_epoch"]
    assert load(cbor2.dumps([4, body])) == life.state
    del body["register_turns"]
    assert load(cbor2.dumps([3, body])) == life.state
    for each in body["outgoing"]:
        del each["answered"]
    for each in body["kept"]:
        del each["elsewhere"]
    for each in body["seen"]:
        del each["away_at_us"]
    second = load(cbor2.dumps([2, body]))
    assert [each.payload for each in second.outgoing] == [each.payload for each in life.state.outgoing]
    assert second.seen == tuple(replace(each, away_at_us=None) for each in life.state.seen)
    for each in body["outgoing"]:
        for name in ("authorization", "shown", "elsewhere", "carry_after_us", "carry_at_us", "carried_by"):
            del each[name]
    for each in body["kept"]:
        del each["grant"], each["carried_by"]
    old = load(cbor2.dumps([1, body]))
    assert [each.payload for each in old.kept] == [each.payload for each in life.state.kept]
    assert old.outgoing[0].elsewhere == ()
