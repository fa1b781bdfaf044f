"""What became of it? A gateway asks after the silent, and devices disclaim what never was."""

from dataclasses import replace

import pytest
from edge_playbook import Gateway, Meter
from word_playbook import disclaim, later, open_session, receipt, say

from farthing.clock import Instant
from farthing.device.messages import (
    AnswerStatus,
)
from farthing.ids import authorization_id
from farthing.refusal import Refusal


def test_a_silent_authorization_is_asked_after_in_every_answer_to_its_device(site: Gateway) -> None:
    session = open_session(site)
    assert say(site, Meter("c2", 0, counter=500).intent(site)).asks == ()
    other = Meter("c1", 5, counter=40, authorization=authorization_id("c1", 1, 39, "G1"))
    later(site, 2 * 720)
    assert say(site, other.end(site, 5, tariff=None)).asks == ()
    later(site, 721)
    assert say(site, other.end(site, 5, tariff=None)).asks == (session.meter.authorization,)
    # Its own word answers the question.
    session.meter.counter = 60
    assert session.read(site, 1_200).asks == ()
    assert say(site, other.end(site, 5, tariff=None)).asks == ()


def test_a_busy_register_is_asked_about_at_once_and_a_disclaimer_frees_it(site: Gateway) -> None:
    session = open_session(site)
    session.read(site, 1_400)
    held = site.state.quotas["q1"].held_micros
    assert held
    again = session.meter.intent(later(site))
    busy = say(site, again)
    assert (busy.refusal, busy.asks) == (Refusal.REGISTER_BUSY, (session.meter.authorization,))

    word = disclaim(site, session.meter)
    over = say(site, word)
    assert (over.status, over.closed) == (AnswerStatus.RECORDED, True)
    assert site.state.quotas["q1"].held_micros == 0
    before = site.state.position
    assert say(site, word).closed
    assert say(site, replace(word, at=Instant(word.at + 1))).refusal is Refusal.COUNTER_REUSED
    assert site.state.position == before

    batch = site.seal()
    (claim,) = batch.claims
    # At its last claim: nothing more is billed, not even what an end would round up.
    assert (claim.final, claim.register_from, claim.register_to) == (True, 1_000, 1_400)
    assert claim.net_micros == 500_000 + 400 * 250
    assert say(site, session.meter.intent(site)).status is AnswerStatus.GRANTED
    assert site.replayed().open_authorizations == site.state.open_authorizations == 1


def test_a_disclaimer_is_receipted_like_an_end(site: Gateway) -> None:
    session = open_session(site)
    word = disclaim(site, session.meter)
    say(site, word)
    device = site.state.devices["c1"]
    assert device.receipted_counter(site.state.receipted_position) < word.counter
    receipt(site, site.seal())
    assert device.receipted_counter(site.state.receipted_position) == word.counter


@pytest.mark.parametrize("whose", ["nobody's", "another's", "closed"])
def test_a_disclaimer_of_what_is_not_open_changes_nothing(site: Gateway, whose: str) -> None:
    session = open_session(site)
    if whose == "closed":
        say(site, session.meter.end(site, 1_100))
    teller = Meter("c2", 0, counter=500) if whose == "another's" else session.meter
    name = bytes(16) if whose == "nobody's" else session.meter.authorization
    before = site.state.position
    reply = say(site, disclaim(site, teller, name))
    assert reply.refusal is (Refusal.MALFORMED if whose == "another's" else None)
    assert site.state.position == before
