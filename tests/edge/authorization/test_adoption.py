"""Sessions outlive a journal: a gateway that lost its own takes them on from what their devices show."""

import json
from dataclasses import replace

import pytest
from edge_playbook import TARIFFS, Gateway, M, Meter, Policy, clock
from word_playbook import (
    HOUR,
    Open,
    disclaim,
    hello,
    later,
    open_session,
    prove,
    reborn,
    say,
    signed,
)

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import (
    AnswerStatus,
    Witness,
    encode,
)
from farthing.refusal import Refusal
from farthing.tariff import Use, parse, price
from farthing.v1 import directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.commands import Shown
from farthing_edge.authorization.events import (
    Adopted,
    IntentCancelled,
    StatementParked,
)


def test_a_fresh_reading_adopts_its_session_on_what_the_grant_holds(site: Gateway) -> None:
    session = open_session(site)
    session.read(site, 1_500)
    held = {part.quota_id: part.amount_micros for part in session.grant.held}
    limit = session.grant.limit
    new = reborn(site)
    reading = session.meter.reading(later(new), limit)
    asked = say(new, reading)
    assert (asked.status, asked.refusal) == (AnswerStatus.AGAIN, Refusal.AUTHORIZATION_UNKNOWN)

    reply = say(new, reading, shown=session.shown())
    grant = new.grant_of(reply)
    assert (reply.status, grant.authorization, grant.start) == (
        AnswerStatus.RECORDED,
        session.meter.authorization,
        1_000,
    )
    # The lost journal's billing is billed again, from the start: the cloud takes what exceeds its highest claim.
    batch = prove(new)
    assert [(line.quota_id, line.overrun) for line in batch.lines] == [("q1", False), ("", True)]
    assert batch.lines[0].net_micros + batch.lines[0].tax_micros == held["q1"]
    (claim,) = batch.claims
    assert (claim.register_from, claim.register_to, claim.granted_incarnation) == (1_000, limit, 1)
    # No quota of this incarnation yet: no further than the use.
    assert grant.limit == limit
    new.told(quota_granted=Policy.quota("q2", "P", 50 * M, clock("20:00"), incarnation=2))
    assert session.read(new, limit).status is AnswerStatus.RECORDED
    assert session.grant.limit > limit
    assert [part.quota_id for part in session.grant.held] == ["q2"]
    say(new, session.meter.end(later(new), limit + 100))
    assert prove(new).claims[0].final
    assert new.replayed().quotas["q2"].spent_micros == new.state.quotas["q2"].spent_micros > 0


def test_the_limit_of_one_authorization_binds_an_adopted_one_too(site: Gateway) -> None:
    site.told(usage_limits=directive_pb2.UsageLimits(per_authorization_micros=M))
    session = open_session(site)
    new = reborn(site)
    session.grant = new.grant_of(
        say(new, session.meter.reading(later(new), session.grant.limit), shown=session.shown())
    )
    new.told(quota_granted=Policy.quota("q2", "P", 50 * M, clock("20:00"), incarnation=2))
    session.read(new, session.grant.limit)
    grant = session.grant
    assert grant.net_micros + grant.tax_micros + sum(part.amount_micros for part in grant.held) <= M
    assert new.replayed().authorizations[grant.authorization].cap_micros == M


@pytest.mark.parametrize(
    ("tiers_micros", "cap_micros"),
    [((M,), M), ((M, 3 * M), M), ((200_000, M), M), ((200_000,), None)],
    ids=["of its tier", "of the lowest that it can be", "not of one that it is beyond", "of none"],
)
def test_an_adopted_one_has_the_least_cap_of_the_tiers_it_can_have_been_given_at(
    site: Gateway, tiers_micros: tuple[int, ...], cap_micros: int | None
) -> None:
    tiers = [
        directive_pb2.ScoreTier(
            **{"from": 100 + number, "action": directive_pb2.RISK_ACTION_SHRINK, "hold_micros": micros}
        )
        for number, micros in enumerate(tiers_micros)
    ]
    # Nobody has so many points when it begins: what it holds says that it is in no tier below that.
    site.told(usage_limits=directive_pb2.UsageLimits(per_authorization_micros=M))
    session = open_session(site)
    site.told(usage_limits=directive_pb2.UsageLimits())
    site.told(scorecard=directive_pb2.Scorecard(version=1, tiers=tiers))
    new = reborn(site)
    say(new, session.meter.reading(later(new), session.grant.limit), shown=session.shown())
    assert new.replayed().authorizations[session.grant.authorization].cap_micros == cap_micros


def test_a_register_that_a_journal_has_not_heard_of_yet_is_asked_for_later(site: Gateway) -> None:
    session = open_session(site)
    shown = session.shown()
    first = replace(shown.first, register=replace(shown.first.register, register_epoch=2))
    grant = replace(shown.grant, register_epoch=2)
    newer = replace(shown, first=first, grant=grant, first_payload=encode(first))
    end = session.meter.end(later(site), session.grant.limit)
    end = replace(end, register=replace(end.register, register_epoch=2))
    new = reborn(site)
    assert say(new, end, shown=newer).refusal is Refusal.NOT_AUTHORIZING
    assert new.state.parked == 0


def test_it_goes_on_from_the_claim_that_the_welcome_names(site: Gateway) -> None:
    session = open_session(site)
    session.read(site, 1_500)
    (claim,) = site.seal().claims
    session.read(site, 1_600)
    new = reborn(site, open_claims=(claim,))
    say(new, session.meter.end(later(new), 1_700), shown=session.shown())
    batch = prove(new)
    (final,) = batch.claims
    assert (final.net_micros, final.final) == (500_000 + 700 * 250, True)
    (share,) = final.shares
    assert share.net_micros == 200 * 250
    assert (share.net_micros + share.tax_micros, batch.lines[0].quota_id) == (
        final.net_micros + final.tax_micros - claim.net_micros - claim.tax_micros,
        "q1",
    )


#: Tariff; what the lost journal has heard, (minutes after the start, value) each; what the claim has in the end beside its price alone.
HEARD = {
    "all that is known": ("mix-1", [(5, 1_500), (10, 2_000)], "price"),
    "stood still, which the end does not know": ("mix-1", [(5, 1_500), (15, 1_500)], "price"),
    "a clock that went back a little": ("mix-1", [(22, 1_500)], "price"),
    "a clock that went far back": ("mix-1", [(40, 2_000)], "billed"),
    "dear before noon, which the end does not know": ("noon-1", [(5, 1_300)], "price"),
    "very dear before noon, which the end does not know": ("noon-1", [(5, 2_500)], "billed"),
}


@pytest.mark.parametrize(("tariff_id", "heard", "has"), HEARD.values(), ids=HEARD)
def test_an_end_after_a_lost_journal_bills_its_price_and_no_less_than_before(
    site: Gateway, tariff_id: str, heard: list[tuple[int, int]], has: str
) -> None:
    """What the lost journal has billed stays; what is added is proven by the end's own statements, to the micro."""
    # 11:50 at the site's wall clock, in summer.
    site.at = clock("09:50")
    site.told(tariff=Policy.tariff(tariff_id))
    site.told(device=Policy.device("c1", tariff_id=tariff_id))
    site.do(commands.HeadArrived(version=site.state.directive_version, at=site.at))
    meter = Meter("c1", 1_000, tariff=tariff_id)
    intent = meter.intent(site)
    meter.authorization = say(site, intent).grant_of
    for minutes, value in heard:
        said = meter.reading(later(site), value, at=Instant(intent.at + minutes * 60 * SECOND_US))
        assert say(site, said).status is AnswerStatus.RECORDED
    session = Open(meter, intent, site.state.authorizations[meter.authorization].grant("G1"))
    (claim,) = prove(site).claims
    new = reborn(site, open_claims=(claim,))
    end = meter.end(later(new), 2_600, at=Instant(intent.at + 20 * 60 * SECOND_US))
    assert say(new, end, shown=session.shown()).closed
    use = Use(unit="Wh", start=1_000, end=2_600, started_at=intent.at, ended_at=end.at, time_zone=new.state.time_zone)
    due = price(parse(json.dumps(TARIFFS[tariff_id]).encode()), use, closing=True)
    (final,) = prove(new).claims
    expected = {"price": (due.net_micros, due.tax_micros), "billed": (claim.net_micros, claim.tax_micros)}
    assert max(expected.values()) == expected[has]
    assert (final.net_micros, final.tax_micros) == expected[has]
    assert final.final
    assert bool(final.shares) == (has == "price")


def test_an_end_is_adopted_however_old_and_closes_at_once(site: Gateway) -> None:
    session = open_session(site)
    end = session.meter.end(later(site), 1_300)
    new = later(reborn(site), 40 * HOUR)
    reply = say(new, end, shown=session.shown())
    assert (reply.status, reply.closed) == (AnswerStatus.RECORDED, True)
    assert prove(new).claims[0].final
    assert new.state.open_authorizations == 0
    before = new.state.position
    assert say(new, end, shown=session.shown()).closed
    assert new.state.position == before
    assert new.state.devices["c1"].registers["r1"].open is None


def test_an_old_reading_adopts_nothing(site: Gateway) -> None:
    session = open_session(site)
    reading = session.meter.reading(later(site), 1_300)
    new = later(reborn(site), 4 * 720)
    reply = say(new, reading, shown=session.shown())
    assert (reply.status, reply.refusal) == (AnswerStatus.AGAIN, Refusal.AUTHORIZATION_UNKNOWN)
    assert not new.state.authorizations


def test_a_standing_reading_adopts_whatever_its_devices_clock_says(site: Gateway) -> None:
    """It holds nothing that nobody would end, and there is no end that could be shown instead."""
    meter = Meter("m1", 5_000)
    first = meter.reading(site, 5_000)
    say(site, first)
    witness = Witness(incarnation=1, start_id=bytes(16), position=site.state.position)
    reading = meter.reading(later(site), 5_100)
    new = later(reborn(site), 24 * 3600)
    shown = Shown(grant=None, grant_cose=b"", first=first, first_cose=signed(first), first_payload=encode(first))
    assert say(new, reading, witness=witness, shown=shown).status is AnswerStatus.RECORDED
    assert prove(new).claims[0].register_from == 5_000


def test_a_reading_does_not_adopt_beside_an_open_session(site: Gateway) -> None:
    session = open_session(site)
    reading = session.meter.reading(later(site), 1_300)
    new = reborn(site)
    new.told(quota_granted=Policy.quota("q2", "P", 50 * M, clock("20:00"), incarnation=2))
    other = open_session(new, value=1_300, incarnation=2, counter=70)
    assert say(new, reading, shown=session.shown()).refusal is Refusal.AUTHORIZATION_UNKNOWN
    # Its end is: what was used is billed, and the open one stays open.
    session.meter.counter = 80
    assert say(new, session.meter.end(later(new), 1_300), shown=session.shown()).closed
    assert new.state.devices["c1"].registers["r1"].open.id == other.grant.authorization
    assert [authorization.closed for authorization in new.state.authorizations.values()] == [False, True]


def test_a_grant_beats_a_refusal(site: Gateway) -> None:
    session = open_session(site)
    new = reborn(site)
    # The new journal was told that the intent is given up: a copy of an older end, without a tariff.
    given_up = replace(session.meter.end(later(new), 1_000), tariff=None)
    assert say(new, given_up).closed
    assert isinstance(new.last.events[0], IntentCancelled)
    assert say(new, session.meter.end(later(new), 1_200), shown=session.shown()).closed
    assert isinstance(new.last.events[0], Adopted)
    assert prove(new).claims[0].register_to == 1_200


@pytest.mark.parametrize(
    "broken",
    [
        {"grant": {"recipient": "c2"}},
        {"grant": {"gateway": "G2"}},
        {"grant": {"authorization": bytes(16)}},
        {"grant": {"intent_counter": 7}},
        {"grant": {"start": 1_001}},
        {"grant": {"register_epoch": 2}},
        {"grant": {"commitment": bytes(32)}},
        {"first": {"device": "c2"}},
        {"first": {"recipient": "G2"}},
        {"first": {"one_shot": 1}},
        {"first": {"counter": 900}},
        {"grant": None},
    ],
    ids=str,
)
def test_what_does_not_belong_together_adopts_nothing(site: Gateway, broken: dict) -> None:
    session = open_session(site)
    new = reborn(site)
    shown = session.shown()
    if broken.get("grant", {}) is None:
        shown = replace(shown, grant=None)
    elif "grant" in broken:
        shown = replace(shown, grant=replace(shown.grant, **broken["grant"]))
    else:
        shown = replace(shown, first=replace(shown.first, **broken["first"]))
    before = new.state.position
    assert say(new, session.meter.end(later(new), 1_200), shown=shown).refusal is Refusal.MALFORMED
    assert new.state.position == before


def test_what_this_journal_gave_and_forgot_is_over(site: Gateway) -> None:
    session = open_session(site)
    say(site, disclaim(site, session.meter))
    site.state.authorizations.clear()
    reply = say(site, session.meter.end(later(site), 1_500), shown=session.shown())
    assert reply.refusal is Refusal.INTENT_ENDED
    assert isinstance(site.last.events[0], StatementParked)


def test_a_grant_of_this_incarnation_that_is_not_known_proves_a_rollback_and_is_metered(site: Gateway) -> None:
    """A disk of this morning: the grant is signed, so no device's word is needed."""
    session = open_session(site)
    morning = reborn(site, complete=False)
    hello(morning, 1)
    for each in site.policy.sent[4:]:
        morning.do(each)
    morning.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=1, time_zone="UTC"))
    morning.do(commands.HeadArrived(version=morning.state.directive_version, at=morning.at))
    assert session.read(morning, 1_300, shown=session.shown()).status is AnswerStatus.RECORDED
    assert morning.state.rollback_suspected
    assert morning.state.quotas["q1"].held_micros <= 50 * M
    assert say(morning, Meter("c2", 0).intent(morning)).refusal is Refusal.NOT_AUTHORIZING


def test_a_standing_authorization_goes_on_from_its_first_reading(site: Gateway) -> None:
    meter = Meter("m1", 5_000)
    first = meter.reading(site, 5_000)
    say(site, first)
    say(site, meter.reading(later(site), 5_200))
    (claim,) = site.seal().claims
    say(site, meter.reading(later(site), 5_300))
    new = reborn(site, open_claims=(claim,))
    new.told(quota_granted=Policy.quota("q2", "P", 50 * M, clock("20:00"), incarnation=2))
    reading = meter.reading(later(new), 5_400)
    assert say(new, reading).refusal is Refusal.AUTHORIZATION_UNKNOWN
    shown = Shown(grant=None, grant_cose=b"", first=first, first_cose=signed(first), first_payload=encode(first))
    assert say(new, reading, shown=shown).status is AnswerStatus.RECORDED
    (goes_on,) = prove(new).claims
    assert (goes_on.register_from, goes_on.register_to) == (5_000, 5_400)
    assert goes_on.net_micros == 500_000 + 400 * 250
    assert say(new, meter.reading(later(new), 5_500)).status is AnswerStatus.RECORDED


def test_a_standing_reading_that_proves_a_rollback_begins_nothing(site: Gateway) -> None:
    witness = Witness(incarnation=1, start_id=b"x" * 16, position=1)
    reply = say(site, Meter("m1", 5_000).reading(site, 5_000), witness=witness)
    assert (reply.status, reply.refusal) == (AnswerStatus.LATER, Refusal.NOT_AUTHORIZING)
    assert not site.state.authorizations
    assert site.state.rollback_suspected
