"""What devices say of authorizations that another gateway gave: carried up, or heard of from the ledger."""

from dataclasses import replace

import pytest
from edge_playbook import Gateway, M, Meter, Policy, clock
from word_playbook import Open, later, open_session, passage, prove, receipt, say, signed

from farthing.clock import Instant
from farthing.device.messages import (
    AnswerStatus,
    End,
    Grant,
    Intent,
    Reading,
    RegisterValue,
    TariffVersion,
    Witness,
    encode,
)
from farthing.evidence.batches import batch_hash
from farthing.ids import DeviceId, GatewayId, RegisterId, StartId, TariffId
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.commands import Shown
from farthing_edge.authorization.state import COUNTER_WINDOW, MAX_CARRIED
from farthing_edge.authorization.timekeeping import BELIEVED_AHEAD_US


def test_an_end_that_another_gateway_carried_is_taken_like_the_devices_own(site: Gateway) -> None:
    session = open_session(site)
    end = session.meter.end(later(site), 1_500)
    site.told(
        end_carried=directive_pb2.EndCarried(
            claim=batch_pb2.Claim(authorization_id=session.meter.authorization),
            statements=[signed(session.intent), signed(end)],
            carried_by="G2",
        )
    )
    assert site.state.quotas["q1"].held_micros == 0
    (claim,) = prove(site).claims
    assert (claim.final, claim.register_to) == (True, 1_500)
    before = site.state.position
    assert say(site, end).closed
    assert site.state.position == before
    assert site.replayed().open_authorizations == 0


@pytest.mark.parametrize("statements", [[], [b"rubbish"], "of a lost journal"])
def test_a_carried_end_that_says_nothing_here_changes_nothing(site: Gateway, statements: object) -> None:
    session = open_session(site)
    if statements == "of a lost journal":
        statements = [signed(replace(session.meter.end(site, 1_500), authorization=bytes(16)))]
    site.told(end_carried=directive_pb2.EndCarried(statements=statements, carried_by="G2"))
    assert len(site.last.events) == 1
    assert site.state.open_authorizations == 1


def test_an_answer_to_a_request_that_this_journal_never_made_proves_that_it_went_back(site: Gateway) -> None:
    def granted(name: str, **changes: int) -> directive_pb2.QuotaGranted:
        quota = Policy.quota(name, "P", M, clock("20:00"), incarnation=changes.pop("incarnation", 1))
        quota.request_counter = changes.pop("request_counter")
        return quota

    site.state.request_counter = 3
    site.told(quota_granted=granted("q-asked", request_counter=3))
    site.told(quota_granted=granted("q-of-before", request_counter=9, incarnation=0))
    assert not site.state.rollback_suspected
    site.told(quota_granted=granted("q-never-asked", request_counter=4))
    assert "quota request 4" in site.state.rollback_suspected
    assert "q-never-asked" in site.state.quotas, "it is held: obeyed all the same"


def test_a_standing_reading_that_another_gateway_carried_is_metered_where_it_is_known(site: Gateway) -> None:
    meter = Meter("m1", 5_000)
    first = meter.reading(site, 5_000)
    newest = meter.reading(later(site), 5_100)
    message = directive_pb2.EndCarried(statements=[signed(first), signed(newest)], carried_by="G2")
    # Where it began here nobody has said: a carried word begins nothing.
    site.told(end_carried=message)
    assert not site.state.authorizations
    say(site, first)
    site.told(end_carried=message)
    (authorization,) = site.state.authorizations.values()
    assert (authorization.value, authorization.closed) == (5_100, False)
    assert say(site, newest).status is AnswerStatus.RECORDED


def carried_to(other: Gateway, session: Open, value: int) -> End:
    """The session's end, for its own gateway, as another one is given it."""
    end = session.meter.end(other, value, recipient=session.intent.recipient)
    assert end.recipient != other.gateway_id
    return end


@pytest.fixture
def neighbour() -> Gateway:
    gateway = Gateway("G2", "S1", at=clock("10:00"))
    for device in ("c1", "c2"):
        gateway.told(device=Policy.device(device))
    gateway.do(commands.HeadArrived(version=gateway.state.directive_version, at=gateway.at))
    return gateway


def test_another_gateways_end_is_carried_up_as_it_came_and_receipted(site: Gateway, neighbour: Gateway) -> None:
    session = open_session(site)
    end = carried_to(neighbour, session, 1_700)
    reply = say(neighbour, end, shown=session.shown())
    assert (reply.status, reply.closed, reply.grant_of) == (AnswerStatus.RECORDED, False, None)
    before = neighbour.state.position
    assert say(neighbour, end, shown=session.shown()) == reply
    assert neighbour.state.position == before
    assert neighbour.replayed().carried == neighbour.state.carried
    assert not neighbour.state.authorizations

    device = neighbour.state.devices["c1"]
    assert device.receipted_counter(neighbour.state.receipted_position) < end.counter
    batch = neighbour.seal()
    assert (list(batch.lines), list(batch.claims)) == ([], [])
    (carried,) = batch.carried
    assert (carried.granted_by, carried.granted_incarnation) == ("G1", 1)
    assert list(carried.statements) == [signed(session.intent), signed(end)]
    assert carried.grant == b"g"
    assert neighbour.seal() is None
    raw = batch.SerializeToString(deterministic=True)
    neighbour.do(
        commands.ReceiptArrived(
            receipt=batch_pb2.Receipt(gateway_id="G2", incarnation=1, sequence=1, batch_hash=batch_hash(raw)), raw=b""
        )
    )
    assert device.receipted_counter(neighbour.state.receipted_position) == end.counter


@pytest.mark.parametrize(
    ("how", "refusal"),
    [
        ({}, None),
        ({"end": {"authorization": bytes(16)}}, Refusal.MALFORMED),
        ({"end": {"commitment": bytes(32)}}, Refusal.MALFORMED),
        ({"end": {"tariff": None}}, Refusal.MALFORMED),
        ({"end": {"device_epoch": 2}}, Refusal.DEVICE_EPOCH_DIFFERS),
        ({"end": {"device": "nobody"}}, Refusal.DEVICE_UNKNOWN),
        ({"end": {"recipient": "G3"}}, Refusal.MALFORMED),
        ({"end": {"register": RegisterValue(register_id="r2", register_epoch=1, value=5)}}, Refusal.MALFORMED),
        ({"grant": {"recipient": "c2"}}, Refusal.MALFORMED),
        ({"grant": {"gateway": "G3"}}, Refusal.MALFORMED),
        ({"grant": {"intent_counter": 9}}, Refusal.MALFORMED),
        ({"first": {"counter": 99}}, Refusal.MALFORMED),
        ({"grant": None}, Refusal.MALFORMED),
    ],
    ids=str,
)
def test_what_is_carried_speaks_of_one_authorization(
    site: Gateway, neighbour: Gateway, how: dict, refusal: Refusal | None
) -> None:
    session = open_session(site)
    end, shown = carried_to(neighbour, session, 1_700), session.shown()
    end = replace(end, **how.get("end", {}))
    if how.get("grant", {}) is None:
        shown = replace(shown, grant=None)
    shown = replace(shown, first=replace(shown.first, **how.get("first", {})))
    if shown.grant is not None:
        shown = replace(shown, grant=replace(shown.grant, **how.get("grant", {})))
    assert say(neighbour, end, shown=shown).refusal is refusal
    assert len(neighbour.state.carried) == (refusal is None)


def test_who_has_an_end_carried_says_what_it_has_seen_of_the_carriers_journal(
    site: Gateway, neighbour: Gateway
) -> None:
    """It may be all that its device ever says to that gateway, which calls receipted what it has forgotten to carry."""
    session = open_session(site)
    witness = Witness(incarnation=1, start_id=StartId(b"x" * 16), position=1)
    reply = say(neighbour, carried_to(neighbour, session, 1_700), shown=session.shown(), witness=witness)
    assert (reply.status, len(neighbour.state.carried)) == (AnswerStatus.RECORDED, 1)
    assert "c1 has seen a start that this journal does not know" in neighbour.state.rollback_suspected
    assert neighbour.state.receipted_counter(neighbour.state.devices["c1"]) == 0


def test_what_is_dated_years_ahead_of_a_trusted_clock_nobody_carries(site: Gateway, neighbour: Gateway) -> None:
    session = open_session(site)
    for ahead_us, refusal in ((BELIEVED_AHEAD_US + 1, Refusal.CLOCK_AHEAD), (BELIEVED_AHEAD_US, None)):
        end = replace(carried_to(neighbour, session, 1_700), at=Instant(neighbour.at + ahead_us))
        assert say(neighbour, end, shown=session.shown()).refusal is refusal
    assert len(neighbour.state.carried) == 1


def test_carrying_is_bounded_and_a_counter_has_one_content(site: Gateway, neighbour: Gateway) -> None:
    session = open_session(site)
    end = carried_to(neighbour, session, 1_700)
    say(neighbour, end, shown=session.shown())
    assert say(neighbour, replace(end, at=Instant(1)), shown=session.shown()).refusal is Refusal.COUNTER_REUSED
    neighbour.state.carried *= MAX_CARRIED
    other = carried_to(neighbour, session, 1_800)
    full = say(neighbour, other, shown=session.shown())
    assert (full.status, full.refusal) == (AnswerStatus.LATER, Refusal.OVERLOADED)
    assert len(neighbour.seal().carried) == MAX_CARRIED
    assert say(neighbour, other, shown=session.shown()).status is AnswerStatus.RECORDED


def test_a_word_is_carried_though_a_copy_of_its_element_has_said_something_here_under_its_counter(
    site: Gateway, neighbour: Gateway
) -> None:
    """Its own gateway may be gone for good: then nobody else has the yes that it gave."""
    session = open_session(site)
    end = carried_to(neighbour, session, 1_700)
    said_here = Meter("c1", 5_000, counter=end.counter - 1).intent(neighbour)
    refused = say(neighbour, said_here)
    assert (said_here.counter, refused.status) == (end.counter, AnswerStatus.REFUSED)
    reply = say(neighbour, end, shown=session.shown())
    assert reply.status is AnswerStatus.RECORDED
    assert neighbour.state.receipted_counter(neighbour.state.devices["c1"]) == end.counter - 1
    # Said again, before and after the batch: heard, and carried once.
    before = neighbour.state.position
    assert say(neighbour, end, shown=session.shown()) == reply
    assert neighbour.state.position == before
    batch = neighbour.seal()
    assert [each.statements[-1] for each in batch.carried] == [signed(end)]
    assert say(neighbour, end, shown=session.shown()) == reply
    assert not neighbour.state.carried
    receipt(neighbour, batch)
    assert neighbour.state.receipted_counter(neighbour.state.devices["c1"]) == end.counter
    # Each is answered as it was, and whoever says a third thing under that counter is nobody.
    assert say(neighbour, said_here) == refused
    for third in (replace(end, at=Instant(1)), replace(said_here, at=Instant(1))):
        shown = session.shown() if isinstance(third, End) else None
        assert say(neighbour, third, shown=shown).refusal is Refusal.COUNTER_REUSED
    assert neighbour.replayed().devices["c1"].carried == neighbour.state.devices["c1"].carried


def shown_by(first: Intent | Reading, grant: Grant | None) -> Shown:
    return Shown(
        grant=grant,
        grant_cose=b"" if grant is None else b"g",
        first=first,
        first_cose=signed(first),
        first_payload=encode(first),
    )


def test_another_gateways_one_shot_yes_is_carried_up_as_it_came(site: Gateway, neighbour: Gateway) -> None:
    intent, grant = passage(site)
    neighbour.told(device=Policy.device(intent.device))
    shown = shown_by(intent, grant)
    reply = say(neighbour, intent, shown=shown)
    assert (reply.status, reply.closed, reply.grant_of) == (AnswerStatus.RECORDED, False, None)
    assert say(neighbour, intent, shown=shown) == reply
    (carried,) = neighbour.seal().carried
    assert (carried.granted_by, carried.granted_incarnation) == (intent.recipient, grant.witness.incarnation)
    assert (list(carried.statements), carried.grant) == ([signed(intent)], b"g")
    for wrong in (replace(grant, intent_counter=99), replace(grant, commitment=bytes(32)), None):
        assert say(neighbour, intent, shown=replace(shown, grant=wrong)).refusal is Refusal.MALFORMED
    assert not neighbour.state.carried
    # Without a yes to show it is nobody's here.
    assert say(neighbour, intent).refusal is Refusal.RECIPIENT_DIFFERS


def standing_reading(counter: int, value: int, **changes: object) -> Reading:
    reading = Reading(
        recipient=GatewayId("G1"),
        device=DeviceId("c1"),
        device_epoch=1,
        counter=counter,
        at=clock("10:00"),
        register=RegisterValue(register_id=RegisterId("r1"), register_epoch=1, value=value),
        tariff=TariffVersion(tariff_id=TariffId("chg-3"), version=1),
    )
    return replace(reading, **changes)


def test_another_gateways_standing_readings_are_carried_up_without_a_grant(neighbour: Gateway) -> None:
    first, newest = standing_reading(1, 100), standing_reading(7, 900)
    shown = shown_by(first, None)
    assert say(neighbour, newest, shown=shown).status is AnswerStatus.RECORDED
    (carried,) = neighbour.seal().carried
    assert (carried.granted_by, carried.granted_incarnation, carried.grant) == ("G1", 0, b"")
    assert list(carried.statements) == [signed(first), signed(newest)]
    for wrong in (
        standing_reading(9, 100),
        replace(first, recipient=GatewayId("G3")),
        replace(first, device_epoch=2),
        replace(first, tariff=TariffVersion(tariff_id=TariffId("other"), version=1)),
        replace(first, authorization=bytes(16)),
    ):
        reply = say(neighbour, standing_reading(8, 950), shown=shown_by(wrong, None))
        assert reply.refusal is Refusal.MALFORMED
    # A session's reading is not a last word.
    reading = standing_reading(8, 950, authorization=bytes(16))
    assert say(neighbour, reading, shown=shown).refusal is Refusal.RECIPIENT_DIFFERS


def test_a_last_word_older_than_the_window_of_counters_is_carried_all_the_same(
    site: Gateway, neighbour: Gateway
) -> None:
    session = open_session(site)
    end = carried_to(neighbour, session, 1_700)
    neighbour.state.devices["c1"].highest = end.counter + COUNTER_WINDOW
    assert say(neighbour, end, shown=session.shown()).status is AnswerStatus.RECORDED
    assert say(neighbour, end, shown=session.shown()).status is AnswerStatus.RECORDED
    assert len(neighbour.state.carried) == 1
    device = neighbour.state.devices["c1"]
    assert device.receipted_counter(neighbour.state.receipted_position) < end.counter
    assert neighbour.replayed().carried == neighbour.state.carried
