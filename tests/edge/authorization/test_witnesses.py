"""What devices and the token remember of a journal: a gateway that went back is noticed."""

from dataclasses import replace

import pytest
from edge_playbook import Gateway, M, Meter, Policy, clock
from word_playbook import (
    disclaim,
    hello,
    later,
    open_session,
    prove,
    reborn,
    receipt,
    restart,
    say,
    signed,
)

from farthing.device.messages import (
    AnswerStatus,
    Witness,
    encode,
)
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.commands import Shown
from farthing_edge.authorization.events import (
    RollbackSuspected,
    SeenBeyond,
)
from farthing_edge.authorization.witnesses import vouches


@pytest.mark.parametrize(
    ("incarnation", "start", "beyond", "suspected"),
    [
        (1, b"now", 0, False),
        (1, b"now", 1, True),
        (1, b"old", 0, False),
        (1, b"old", 1, True),
        (1, b"never", -5, True),
        (0, b"never", 50, False),  # of a journal whose loss is known
        (0, b"now", 1, False),
        (2, b"now", 0, True),
    ],
)
def test_a_witness_that_the_journal_does_not_know(
    site: Gateway, incarnation: int, start: bytes, beyond: int, suspected: bool
) -> None:
    session = open_session(site)
    last_of_old = site.state.position
    restart(site, b"n" * 16)
    last = {b"old": last_of_old, b"now": site.state.position, b"never": site.state.position}[start]
    start_id = {b"old": bytes(16), b"now": b"n" * 16, b"never": b"x" * 16}[start]
    witness = Witness(incarnation=incarnation, start_id=start_id, position=last + beyond)
    reply = session.read(site, 1_500, witness=witness)
    # Metering goes on either way.
    assert (reply.status, site.state.authorizations[session.meter.authorization].value) == (
        AnswerStatus.RECORDED,
        1_500,
    )
    assert bool(site.state.rollback_suspected) is suspected
    assert [type(event) for event in site.last.events if isinstance(event, RollbackSuspected)] == [
        RollbackSuspected
    ] * suspected
    assert site.replayed().rollback_suspected == site.state.rollback_suspected
    refused = say(site, Meter("c2", 0).intent(site)).refusal
    assert refused is (Refusal.NOT_AUTHORIZING if suspected else None)


def test_an_intent_that_proves_a_rollback_is_not_granted(site: Gateway) -> None:
    witness = Witness(incarnation=1, start_id=b"x" * 16, position=1)
    intent = Meter("c1", 0).intent(site)
    reply = say(site, intent, witness=witness)
    assert (reply.status, reply.refusal) == (AnswerStatus.LATER, Refusal.NOT_AUTHORIZING)
    assert not site.state.authorizations
    assert site.seal() is None
    # Said once, journaled once.
    assert say(site, intent, witness=witness).refusal is Refusal.NOT_AUTHORIZING
    assert sum(isinstance(event, RollbackSuspected) for event in site.journal) == 1
    # A repeat of the suspect's incarnation changes nothing, a higher one ends it.
    site.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    site.told(quota_granted=Policy.quota("q2", "P", 50 * M, clock("20:00"), incarnation=2))
    assert say(site, replace(intent, incarnation=2, counter=9)).status is AnswerStatus.GRANTED


def test_a_witness_of_an_incarnation_that_never_was_stops_no_gateway_for_ever(site: Gateway) -> None:
    session = open_session(site)
    session.read(site, 1_500, witness=Witness(incarnation=2**32 - 1, start_id=b"x" * 16, position=1))
    assert site.state.not_authorizing_reason
    # People have looked at it, and decided.
    hello(site, 2)
    site.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    assert not site.state.not_authorizing_reason


def test_only_an_active_device_of_this_epoch_is_a_witness(site: Gateway) -> None:
    session = open_session(site)
    witness = Witness(incarnation=1, start_id=b"x" * 16, position=1)
    site.told(device=Policy.device("c1", status=directive_pb2.DEVICE_STATUS_BLOCKED))
    assert session.read(site, 1_100, witness=witness).status is AnswerStatus.RECORDED
    say(site, Meter("c2", 0).intent(site, device_epoch=7), witness=witness)
    assert site.state.rollback_suspected == ""


def test_what_a_device_that_is_not_active_has_seen_stops_nobody_and_is_never_called_receipted(site: Gateway) -> None:
    session = open_session(site)
    device = site.state.devices["c1"]
    site.told(device=Policy.device("c1", status=directive_pb2.DEVICE_STATUS_SUSPENDED))
    session.read(site, 1_100)
    receipt(site, site.seal())
    read = session.meter.counter
    assert site.state.receipted_counter(device) == read
    # It has seen its end recorded, which this journal has forgotten.
    ended = Witness(incarnation=1, start_id=b"x" * 16, position=1)
    cancelled = session.meter.end(later(site), 1_100, authorization=b"a" * 16, tariff=None)
    assert say(site, cancelled, witness=ended).status is AnswerStatus.RECORDED
    assert site.state.receipted_counter(device) == 0
    # Said once, journaled once; also what knows no better says so.
    say(site, cancelled, witness=ended)
    say(site, cancelled)
    assert sum(isinstance(event, SeenBeyond) for event in site.journal) == 1
    assert site.state.receipted_counter(device) == site.replayed().receipted_counter(device) == 0
    # Nobody else is stopped, or hears less.
    assert site.state.may_seal
    open_session(site, "c2")
    # Once it is active again, its word counts: with its next statement, whatever witness goes with it.
    site.told(device=Policy.device("c1"))
    session.read(site, 1_200)
    assert "c1 has seen a start that this journal does not know" in site.state.rollback_suspected
    assert not site.state.may_seal


def test_what_a_device_that_was_blocked_has_seen_is_over_with_the_next_incarnation(site: Gateway) -> None:
    session = open_session(site)
    site.told(device=Policy.device("c1", status=directive_pb2.DEVICE_STATUS_BLOCKED))
    session.read(site, 1_100, witness=Witness(incarnation=1, start_id=b"x" * 16, position=1))
    assert site.state.seen_beyond
    hello(site, 2)
    site.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    site.told(device=Policy.device("c1"))
    session.read(site, 1_200)
    assert not site.state.seen_beyond
    assert site.state.rollback_suspected == ""


def test_a_grant_of_its_own_is_a_witness_whoever_shows_it(site: Gateway) -> None:
    session = open_session(site)
    assert site.state.may_seal
    given = replace(session.grant, witness=Witness(incarnation=1, start_id=b"x" * 16, position=1))
    site.told(device=Policy.device("c1", status=directive_pb2.DEVICE_STATUS_SUSPENDED))
    reading = session.meter.reading(later(site), 1_100)
    reply = say(site, reading, shown=replace(session.shown(), grant=given))
    assert reply.status is AnswerStatus.RECORDED
    assert "a start that this journal does not know" in site.state.rollback_suspected
    # From here on it calls nothing receipted: what it has forgotten its device would forget too.
    assert not site.state.may_seal


@pytest.mark.parametrize(
    ("incarnation", "ahead", "other_hash", "suspected"),
    [
        (1, 0, False, False),
        (1, -1, False, False),
        (0, 90, False, False),
        (1, 1, False, True),
        (1, 0, True, True),
        (2, -1, False, True),
    ],
)
def test_what_the_token_remembers(
    site: Gateway, incarnation: int, ahead: int, other_hash: bool, suspected: bool
) -> None:
    open_session(site)
    say(site, disclaim(site, Meter("c1", 1_000, counter=1), site.state.devices["c1"].registers["r1"].open.id))
    assert site.seal() is not None
    site.do(
        commands.TokenWitnessed(
            incarnation=incarnation,
            sequence=site.state.sequence + ahead,
            batch_hash=bytes(32) if other_hash else site.state.batch_hash,
        )
    )
    assert bool(site.state.rollback_suspected) is suspected
    assert site.replayed().rollback_suspected == site.state.rollback_suspected


def test_a_standing_device_whose_witness_is_older_shows_how_it_began(site: Gateway) -> None:
    """Nothing of it was ever claimed, so the welcome cannot name it: what the device saw says that there was a journal."""
    meter = Meter("m1", 5_000)
    first = meter.reading(site, 5_000)
    say(site, first)
    witness = Witness(incarnation=1, start_id=bytes(16), position=site.state.position)
    new = reborn(site)
    reading = meter.reading(later(new), 5_100)
    assert say(new, reading, witness=witness).refusal is Refusal.AUTHORIZATION_UNKNOWN
    shown = Shown(grant=None, grant_cose=b"", first=first, first_cose=signed(first), first_payload=encode(first))
    say(new, reading, witness=witness, shown=shown)
    assert prove(new).claims[0].register_from == 5_000
    # A device that this gateway has never heard begins here.
    assert say(reborn(site), meter.reading(later(new), 5_100)).status is AnswerStatus.RECORDED


@pytest.mark.parametrize(
    ("start", "beyond", "suspected"),
    [
        (b"now", 0, ""),
        (b"now", 1, "ends before"),
        (b"old", 0, ""),
        (b"old", 1, "ends before"),
        (b"never", -5, "start"),
    ],
)
def test_what_the_cloud_has_seen_is_held_against_the_start_that_it_names(
    site: Gateway, start: bytes, beyond: int, suspected: str
) -> None:
    """A journal that went back and has grown past what was seen since: its position alone says nothing."""
    last_of_old = site.state.position
    restart(site, b"n" * 16)
    open_session(site)
    last = last_of_old if start == b"old" else site.state.position
    hello_response = gateway_sync_pb2.HelloResponse(
        incarnation=1,
        witnessed_start_id={b"old": bytes(16), b"now": b"n" * 16, b"never": b"x" * 16}[start],
        witnessed_position=last + beyond,
    )
    site.do(commands.Connected(hello=hello_response))
    assert suspected in site.state.rollback_suspected
    assert bool(site.state.rollback_suspected) is bool(suspected)
    assert bool(site.state.not_authorizing_reason) is bool(suspected)


def test_a_meters_beginning_that_was_forgotten_is_billed_from(site: Gateway) -> None:
    """The journal goes back to before it, and grows past what the cloud has seen of it: the meter shows how it began."""
    meter = Meter("m1", 5_000)
    older = Gateway("G1", "S1", at=clock("10:00"))
    for each in site.policy.sent[older.state.directive_version :]:
        older.do(each)
    older.policy = site.policy
    older.do(commands.HeadArrived(version=older.state.directive_version, at=older.at))
    first = meter.reading(site, 5_000)
    assert say(site, first).status is AnswerStatus.RECORDED
    seen = site.state.position
    for number in range(1, seen + 1):
        restart(older, bytes([number]) * 16)
    assert older.state.position > seen
    connected = gateway_sync_pb2.HelloResponse(
        incarnation=1,
        witnessed_start_id=bytes(16),
        witnessed_position=seen,
        standing=gateway_sync_pb2.HELLO_STANDING_AGREED,
    )
    older.do(commands.Connected(hello=connected))
    # Whatever its device knows of the journal: nothing begins here before people have looked.
    assert say(older, meter.reading(later(older), 5_010)).refusal is Refusal.NOT_AUTHORIZING
    assert not older.state.authorizations
    hello(older, 2)
    older.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="Europe/Berlin"))
    older.do(commands.HeadArrived(version=older.state.directive_version, at=older.at))
    reading = meter.reading(later(older), 5_020)
    witness = Witness(incarnation=1, start_id=bytes(16), position=seen)
    assert say(older, reading, witness=witness).refusal is Refusal.AUTHORIZATION_UNKNOWN
    shown = Shown(grant=None, grant_cose=b"", first=first, first_cose=signed(first), first_payload=encode(first))
    say(older, reading, witness=witness, shown=shown)
    (claim,) = prove(older).claims
    assert (claim.register_from, claim.register_to) == (5_000, 5_020)


def test_who_is_not_known_yet_keeps_what_proves_that_the_journal_went_back(site: Gateway) -> None:
    """The journal goes back to before the meter was enrolled, without an uplink: as long as it does not know the meter, it cannot hear it."""
    meter = Meter("m9", 5_000)
    older = Gateway("G1", "S1", at=site.at)
    for each in site.policy.sent:
        older.do(each)
    older.policy = site.policy
    older.do(commands.HeadArrived(version=older.state.directive_version, at=older.at))
    enrolled = Policy.device("m9", profile="standing")
    site.told(device=enrolled)
    first = meter.reading(site, 5_000)
    assert say(site, first).status is AnswerStatus.RECORDED
    seen = Witness(incarnation=1, start_id=bytes(16), position=site.state.position)
    for number in range(1, seen.position + 1):
        restart(older, bytes([number]) * 16)
    assert older.state.position > seen.position

    reply = say(older, meter.reading(later(older), 5_010), witness=seen)
    assert reply.refusal is Refusal.DEVICE_UNKNOWN
    if vouches(older.state, reply):
        seen = Witness(incarnation=1, start_id=older.state.start_id, position=older.state.position)
    older.do(site.policy.sent[-1])
    reply = say(older, meter.reading(later(older), 5_020), witness=seen)
    # Where it began is not forgotten: nothing begins here before people have looked.
    assert reply.refusal is Refusal.NOT_AUTHORIZING
    assert older.state.rollback_suspected
    assert not older.state.authorizations


def test_an_answer_vouches_for_the_journal_where_its_devices_witness_was_held_against_it(site: Gateway) -> None:
    session = open_session(site)
    assert vouches(site.state, session.read(site, 1_100))
    other_epoch = Meter("c2", 0).intent(site, device_epoch=7)
    for unheard in (other_epoch, replace(other_epoch, device="nobody")):
        assert not vouches(site.state, say(site, unheard))
    site.told(device=Policy.device("c1", status=directive_pb2.DEVICE_STATUS_SUSPENDED))
    assert vouches(site.state, session.read(site, 1_200))
    assert not vouches(
        site.state, session.read(site, 1_300, witness=Witness(incarnation=1, start_id=b"x" * 16, position=1))
    )
