"""A new incarnation of a gateway: who waits, what was not receipted, and the quotas of the one before."""

from edge_playbook import Gateway, M, Meter, Policy, clock, token_ref
from word_playbook import HOUR, hello, later, open_session, prove, reborn, receipt, restart, say

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import (
    AnswerStatus,
    Witness,
)
from farthing.evidence.batches import batch_hash
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.events import (
    Sealed,
)


def test_welcomes_that_another_journal_has_begun_are_passed_over(site: Gateway) -> None:
    new = reborn(site, complete=False)
    assert new.state.incarnation == 0
    assert new.seal() is None
    for each in site.policy.sent[4:]:
        new.do(each)
    assert (new.state.incarnation, new.state.quotas["q1"].frozen) == (0, True)
    assert new.replayed().incarnation == 0
    new.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    assert new.state.incarnation == 2
    assert new.replayed().incarnation == 2


def test_who_waits_seals_and_authorizes_nothing_and_meters_on(site: Gateway) -> None:
    session = open_session(site)
    hello(site, 1, waits=True)
    assert session.read(site, 1_500).status is AnswerStatus.RECORDED
    assert say(site, Meter("c2", 0).intent(site)).refusal is Refusal.NOT_AUTHORIZING
    assert site.seal() is None
    site.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    hello(site, 2)
    (claim,) = prove(site).claims
    assert (claim.register_to, claim.granted_incarnation) == (1_500, 1)


def test_two_stories_stop_authorizing_and_nothing_else(site: Gateway) -> None:
    session = open_session(site)
    site.told(authorizing_stopped=directive_pb2.AuthorizingStopped(incarnation=1, reason="two stories"))
    assert say(site, Meter("c2", 0).intent(site)).refusal is Refusal.NOT_AUTHORIZING
    say(site, session.meter.end(later(site), 1_500))
    assert site.seal().claims[0].final
    assert site.replayed().not_authorizing_reason == "two stories"
    site.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    assert site.state.not_authorizing_reason == ""
    # What is said of an incarnation that is over says nothing of this one.
    site.told(authorizing_stopped=directive_pb2.AuthorizingStopped(incarnation=1, reason="two stories"))
    assert site.state.not_authorizing_reason == ""


def test_a_journal_that_is_not_complete_says_later(site: Gateway) -> None:
    session = open_session(site)
    new = reborn(site, complete=False)
    end = session.meter.end(later(new), 1_500)
    assert say(new, end).refusal is Refusal.NOT_AUTHORIZING
    for each in site.policy.sent[4:]:
        new.do(each)
    assert say(new, end).refusal is Refusal.AUTHORIZATION_UNKNOWN
    assert say(new, end, shown=session.shown()).refusal is Refusal.NOT_AUTHORIZING
    # It has all there is, and no incarnation: what the cloud has billed of it, and the site's time zone, come with the welcome.
    new.do(commands.HeadArrived(version=new.state.directive_version, at=new.at))
    assert new.state.is_complete
    assert say(new, end, shown=session.shown()).refusal is Refusal.NOT_AUTHORIZING
    new.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    new.do(commands.HeadArrived(version=new.state.directive_version, at=new.at))
    assert say(new, end, shown=session.shown()).closed


def test_a_journal_that_is_not_complete_says_no_yes(site: Gateway) -> None:
    """What forbids stands behind what allows: it has the token, and not yet that the token is denied, or what a use may cost."""
    heard = len(site.policy.sent)
    site.told(token_denied=directive_pb2.TokenDenied(token_ref=token_ref("card"), key_epoch=1, reason="stolen"))
    new = Gateway("G1", "S1", at=site.at)
    new.journal.clear()
    new.state = type(new.state)(new.settings)
    restart(new, b"2" * 16)
    hello(new, 1)
    for each in site.policy.sent[:heard]:
        new.do(each)
    assert (new.state.incarnation, new.state.expected_incarnation) == (1, 1)
    intent = Meter("c1", 1_000).intent(new)
    asked = say(new, intent, may_wait=True)
    assert (asked.status, asked.refusal) == (AnswerStatus.LATER, Refusal.NOT_AUTHORIZING)
    read = say(new, Meter("m1", 5_000).reading(new, 5_000))
    assert (read.status, read.refusal) == (AnswerStatus.LATER, Refusal.NOT_AUTHORIZING)
    for each in site.policy.sent[heard:]:
        new.do(each)
    new.do(commands.HeadArrived(version=new.state.directive_version, at=new.at))
    assert say(new, intent).refusal is Refusal.TOKEN_DENIED
    assert new.replayed().not_authorizing_reason == ""
    assert say(new, Meter("m1", 5_000, counter=1).reading(new, 5_000)).status is AnswerStatus.RECORDED


def test_a_journal_without_incarnation_begins_no_standing_authorization(site: Gateway) -> None:
    """The welcome that is still to come may say where it began."""
    site.state.incarnation = 0
    reply = say(site, Meter("m1", 5_000).reading(site, 5_000))
    assert (reply.status, reply.refusal) == (AnswerStatus.LATER, Refusal.NOT_AUTHORIZING)
    assert not site.state.authorizations


def test_a_journal_without_incarnation_refuses_no_standing_reading_for_good(site: Gateway) -> None:
    """It reads its chain again: a suspension in it may be long over."""
    meter = Meter("m1", 5_000)
    say(site, meter.reading(site, 5_000))
    m1 = Policy.device("m1", profile="standing", standing_account_id="P")
    m1.status = directive_pb2.DEVICE_STATUS_SUSPENDED
    site.told(device=m1)
    site.state.incarnation = 0
    assert say(site, meter.reading(later(site), 5_100)).status is AnswerStatus.LATER
    site.state.incarnation = 1
    assert say(site, meter.reading(later(site), 5_200)).refusal is Refusal.DEVICE_SUSPENDED


def test_a_journal_that_may_have_forgotten_receipts_nothing(site: Gateway) -> None:
    session = open_session(site)
    say(site, session.meter.end(later(site), 1_500))
    receipt(site, site.seal())
    device = site.state.devices["c1"]
    heard = site.state.receipted_counter(device)
    assert heard > 0
    hello(site, 1, waits=True)
    assert site.state.receipted_counter(device) == 0
    hello(site, 1)
    assert site.state.receipted_counter(device) == heard
    say(site, session.meter.intent(site), witness=Witness(incarnation=1, start_id=b"x" * 16, position=1))
    assert site.state.receipted_counter(device) == 0


def test_what_was_not_receipted_is_sealed_again_in_the_new_chain(site: Gateway) -> None:
    session = open_session(site)
    session.read(site, 1_200)
    first = site.seal()
    receipt(site, first)
    raws = []
    for value in (1_300, 1_400):
        session.read(site, value)
        raws.append(site.seal().SerializeToString(deterministic=True))
    session.read(site, 1_500)
    site.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    device = site.state.devices["c1"]
    # What has a receipt keeps it.
    assert device.receipted_counter(site.state.receipted_position) == 2
    assert site.seal() is None
    assert site.do(commands.SealAgain(raw=raws[1])).events == ()
    again = []
    for raw in raws:
        (event,) = site.do(commands.SealAgain(raw=raw)).events
        assert isinstance(event, Sealed)
        again.append(batch_pb2.Batch.FromString(event.batch))
    assert not site.state.to_seal_again
    previous = bytes(32)
    for number, (raw, batch) in enumerate(zip(raws, again, strict=True), start=1):
        old = batch_pb2.Batch.FromString(raw)
        assert (batch.incarnation, batch.sequence, batch.previous_hash) == (2, number, previous)
        assert (list(batch.lines), batch.merkle_root) == (list(old.lines), old.merkle_root)
        assert (batch.first_position, batch.last_position) == (old.first_position, old.last_position)
        assert [(c.net_micros, c.granted_incarnation) for c in batch.claims] == [(c.net_micros, 1) for c in old.claims]
        assert not batch.stopped
        assert not batch.closed_quota_ids
        previous = batch_hash(batch.SerializeToString(deterministic=True))
    new = site.seal()
    assert (new.sequence, new.previous_hash, new.claims[0].register_to) == (3, previous, 1_500)
    for batch in (*again, new):
        receipt(site, batch)
    assert device.receipted_counter(site.state.receipted_position) == session.meter.counter
    replayed = site.replayed()
    assert (replayed.sequence, replayed.receipted_position) == (3, site.state.receipted_position)


def test_a_third_incarnation_takes_on_what_the_second_had_left(site: Gateway) -> None:
    session = open_session(site)
    raws = []
    for value in (1_300, 1_400):
        session.read(site, value)
        raws.append(site.seal().SerializeToString(deterministic=True))
    site.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    (once,) = site.do(commands.SealAgain(raw=raws[0])).events
    site.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=3, time_zone="UTC"))
    for raw in (once.batch, raws[1]):
        (event,) = site.do(commands.SealAgain(raw=raw)).events
        assert event.incarnation == 3
    assert site.state.sequence == 2
    assert not site.state.to_seal_again


def test_quotas_of_the_old_incarnation_pay_what_they_hold_and_no_more(site: Gateway) -> None:
    session = open_session(site)
    site.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    site.told(quota_granted=Policy.quota("q2", "P", 50 * M, clock("20:00"), incarnation=2))
    held = site.state.quotas["q1"].held_micros
    session.read(site, session.grant.limit)
    assert site.state.quotas["q1"].spent_micros == held
    assert {part.quota_id for part in session.grant.held} == {"q2"}
    say(site, session.meter.end(later(site), session.grant.limit - 10))
    batch = site.seal()
    assert list(batch.closed_quota_ids) == []
    assert "q1" in site.state.quotas
    # Until it is reported no more, a device may show a grant that names it.
    site.at = Instant(clock("20:00") + 7 * HOUR * SECOND_US)
    site.do(commands.HeadArrived(version=site.state.directive_version, at=site.at))
    site.told(quota_granted=Policy.quota("q3", "P", 5 * M, Instant(site.at + HOUR * SECOND_US), incarnation=2))
    open_session(site, "c2", 0, incarnation=2)
    site.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id="q2", reason="test"))
    site.seal()
    assert "q1" not in site.state.quotas
    assert all(quota.id != "q1" for quota in site.state.accounts["P"].quotas)
