"""What a gateway makes of its devices' word: witnesses, questions after the silent, sessions that outlive a journal."""

import json
from dataclasses import dataclass, replace

import pytest
from edge_playbook import TARIFFS, Gateway, M, Meter, Policy, clock, fund

from farthing.clock import SECOND_US, Instant
from farthing.device import cose
from farthing.device.messages import (
    AnswerStatus,
    Disclaimer,
    End,
    Grant,
    Intent,
    Reading,
    RegisterValue,
    TariffVersion,
    Witness,
    encode,
)
from farthing.evidence import detail
from farthing.evidence.batches import batch_hash
from farthing.ids import DeviceId, GatewayId, RegisterId, TariffId, authorization_id
from farthing.refusal import Refusal
from farthing.tariff import Use, parse, price
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.commands import Reply, Shown
from farthing_edge.authorization.events import (
    KIND_OF,
    Adopted,
    IntentCancelled,
    RollbackSuspected,
    Sealed,
    StatementParked,
)
from farthing_edge.authorization.state import COUNTER_WINDOW, MAX_CARRIED
from farthing_edge.metering.detail import Placed, leaves_of_entries
from farthing_edge.metering.sealing import facts_of_record, leaves_of, sheet_of

HOUR = 3_600


def later(gateway: Gateway, seconds: int = 60) -> Gateway:
    gateway.at = Instant(gateway.at + seconds * SECOND_US)
    return gateway


@pytest.fixture
def site() -> Gateway:
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    for tariff in ("chg-3", "toll-1", "park-1"):
        gateway.told(tariff=Policy.tariff(tariff))
    fund(gateway, "P", "card")
    gateway.told(device=Policy.device("c1"))
    gateway.told(device=Policy.device("c2"))
    gateway.told(device=Policy.device("m1", profile="standing", standing_account_id="P", rated_per_hour=1_000))
    gateway.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("20:00")))
    gateway.do(commands.HeadArrived(version=gateway.state.directive_version, at=gateway.at))
    return gateway


def signed(statement: Intent | Reading | End | Disclaimer) -> bytes:
    return cose.encode_sign1(cose.key_id(statement.device.encode()), encode(statement), bytes(64))


def say(gateway: Gateway, statement: Intent | Reading | End | Disclaimer, **changes: object) -> Reply:
    token = "card" if isinstance(statement, Intent) else None
    reply = gateway.say(statement, token, cose=signed(statement), **changes)
    assert reply is not None
    return reply


@dataclass
class Open:
    """A session as its device knows it."""

    meter: Meter
    intent: Intent
    grant: Grant

    def shown(self) -> Shown:
        return Shown(
            grant=self.grant,
            grant_cose=b"g",
            first=self.intent,
            first_cose=signed(self.intent),
            first_payload=encode(self.intent),
        )

    def read(self, gateway: Gateway, value: int, **changes: object) -> Reply:
        reply = say(gateway, self.meter.reading(later(gateway), value), **changes)
        if reply.grant_of is not None:
            self.grant = gateway.grant_of(reply)
        return reply


def open_session(gateway: Gateway, device: str = "c1", value: int = 1_000, **fields: object) -> Open:
    meter = Meter(device, value, counter=0 if device == "c1" else 500)
    intent = meter.intent(gateway, **fields)
    reply = say(gateway, intent)
    assert reply.status is AnswerStatus.GRANTED, reply
    meter.authorization = reply.grant_of
    return Open(meter, intent, gateway.grant_of(reply))


def disclaim(gateway: Gateway, meter: Meter, authorization: bytes | None = None) -> Disclaimer:
    return Disclaimer(**meter.head(gateway), authorization=authorization or meter.authorization)


# Witnesses ------------------------------------------------------------------------------------------------------------


def restart(gateway: Gateway, start_id: bytes) -> None:
    gateway.do(commands.Started(start_id=start_id, boot_id="b", clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1))


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


# What became of it? -----------------------------------------------------------------------------------------------


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


# A journal that is lost -------------------------------------------------------------------------------------------


def receipt(gateway: Gateway, batch: batch_pb2.Batch) -> None:
    raw = batch.SerializeToString(deterministic=True)
    gateway.do(
        commands.ReceiptArrived(
            receipt=batch_pb2.Receipt(
                gateway_id="G1",
                incarnation=batch.incarnation,
                sequence=batch.sequence,
                batch_hash=batch_hash(raw),
            ),
            raw=b"",
        )
    )


def hello(gateway: Gateway, incarnation: int, *, waits: bool = False) -> None:
    standing = gateway_sync_pb2.HELLO_STANDING_WAITS if waits else gateway_sync_pb2.HELLO_STANDING_BEGIN
    gateway.do(commands.Connected(hello=gateway_sync_pb2.HelloResponse(incarnation=incarnation, standing=standing)))


def reborn(old: Gateway, *, complete: bool = True, open_claims: tuple[batch_pb2.Claim, ...] = ()) -> Gateway:
    """The same gateway with an empty journal: the chain from its first directive, then the welcome to incarnation 2."""
    new = Gateway("G1", "S1", at=old.at)
    new.journal.clear()
    new.state = type(new.state)(new.settings)
    new.policy = old.policy
    restart(new, b"2" * 16)
    hello(new, 2)
    sent = list(old.policy.sent)
    for each in sent if complete else sent[:4]:
        new.do(each)
    if complete:
        new.told(
            welcome=directive_pb2.Welcome(
                operator_id="op",
                site_id="S1",
                incarnation=2,
                receipt_keys=[b"key"],
                time_zone="Europe/Berlin",
                open_claims=open_claims,
            )
        )
        new.do(commands.HeadArrived(version=new.state.directive_version, at=new.at))
    return new


class AnyKey:
    def __init__(self, device: str) -> None:
        self.key_id = cose.key_id(device.encode())

    def verify(self, *_: object) -> bool:
        return True


def prove(gateway: Gateway, *, modulus: int = 10**9) -> batch_pb2.Batch:
    """Seal; show that the detail proves itself, and is the same again from the journal."""
    state = gateway.state
    facts = [facts_of_record(state, record) for record in state.unsealed]
    leaves = leaves_of(facts, sheet_of((f.account, f.currency, f.tariff, f.charges, f.at) for f in facts))
    durable = [event for event in gateway.journal if event.__class__ in KIND_OF]
    batch = gateway.seal()
    assert batch is not None
    starts = {position: bytes(gateway.state.start_id) for position in range(len(durable) + 1)}
    first, last = batch.first_position, batch.last_position
    again = leaves_of_entries(
        [Placed(position, durable[position - 1]) for position in range(first, last + 1)],
        gateway_id="G1",
        event_at=lambda position: durable[position - 1],
        start_id_at=lambda position: starts[position],
    )
    assert again == leaves
    detail.verify(
        batch,
        leaves,
        device_key=lambda device, _kid: AnyKey(device),
        tariff=lambda name, _version: parse(json.dumps(TARIFFS[name]).encode()),
        register=lambda *_: detail.RegisterFacts(unit="Wh", modulus=modulus),
        time_zone=state.time_zone,
    )
    return batch


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


def test_a_standing_reading_that_proves_a_rollback_begins_nothing(site: Gateway) -> None:
    witness = Witness(incarnation=1, start_id=b"x" * 16, position=1)
    reply = say(site, Meter("m1", 5_000).reading(site, 5_000), witness=witness)
    assert (reply.status, reply.refusal) == (AnswerStatus.LATER, Refusal.NOT_AUTHORIZING)
    assert not site.state.authorizations
    assert site.state.rollback_suspected


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


# A new incarnation of a journal that survived ---------------------------------------------------------------------


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


# An end that went another way -------------------------------------------------------------------------------------


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


# A one-shot use of a lost journal ---------------------------------------------------------------------------------


def passage(site: Gateway) -> tuple[Intent, Grant]:
    site.told(device=Policy.device("x1", profile="one-shot", tariff_id="toll-1", unit="passage", rated_per_hour=3_600))
    intent = Meter("x1", 41, tariff="toll-1").intent(site, one_shot=1)
    return intent, site.grant_of(say(site, intent))


def shown_use(intent: Intent, grant: Grant, **changes: object) -> Shown:
    return Shown(
        grant=replace(grant, **changes),
        grant_cose=b"g",
        first=intent,
        first_cose=signed(intent),
        first_payload=encode(intent),
    )


def test_a_one_shot_use_of_a_lost_journal_is_billed_once_from_its_intent_and_its_grant(site: Gateway) -> None:
    intent, grant = passage(site)
    new = reborn(site)
    # Without its grant it is a wish like any other, and speaks to another incarnation.
    assert say(new, intent).refusal is Refusal.INCARNATION_DIFFERS
    reply = say(new, intent, token_ref=None, shown=shown_use(intent, grant))
    assert (reply.status, reply.closed, reply.grant_of) == (AnswerStatus.GRANTED, True, grant.authorization)
    before = new.state.position
    assert say(new, intent, token_ref=None, shown=shown_use(intent, grant)).status is AnswerStatus.GRANTED
    assert new.state.position == before
    assert new.replayed().quotas["q1"].spent_micros == new.state.quotas["q1"].spent_micros == 1_200_000
    batch = new.seal()
    (claim,) = batch.claims
    assert (claim.authorization_id, claim.final, claim.granted_incarnation) == (grant.authorization, True, 1)
    assert [line.quota_id for line in batch.lines] == ["q1"]


def test_a_yes_that_is_shown_beats_a_no_that_was_said_since(site: Gateway) -> None:
    intent, grant = passage(site)
    new = reborn(site)
    x1 = Policy.device("x1", profile="one-shot", tariff_id="toll-1", unit="passage", rated_per_hour=3_600)
    x1.status = directive_pb2.DEVICE_STATUS_SUSPENDED
    new.told(device=x1)
    assert say(new, intent).refusal is Refusal.DEVICE_SUSPENDED
    other = replace(intent, one_shot=2)
    assert say(new, other, token_ref=None, shown=shown_use(other, grant)).refusal is Refusal.COUNTER_REUSED
    assert say(new, intent, token_ref=None, shown=shown_use(intent, grant)).closed
    assert say(new, intent).status is AnswerStatus.GRANTED
    assert new.replayed().quotas["q1"].spent_micros == new.state.quotas["q1"].spent_micros == 1_200_000
    assert new.seal().claims[0].final


def test_a_shown_use_is_not_paid_by_a_quota_that_was_over_when_it_was_given(site: Gateway) -> None:
    # An earlier quota of the same account: long closed, as the ledger knows, and this journal no more.
    site.told(quota_granted=Policy.quota("q0", "P", 50 * M, clock("09:30")))
    intent, grant = passage(site)
    new = reborn(site)
    assert say(new, intent, token_ref=None, shown=shown_use(intent, grant)).closed
    assert (new.state.quotas["q0"].spent_micros, new.state.quotas["q1"].spent_micros) == (0, 1_200_000)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"recipient": "c1"}, Refusal.MALFORMED),
        ({"gateway": "G2"}, Refusal.MALFORMED),
        ({"intent_counter": 9}, Refusal.MALFORMED),
        ({"start": 40}, Refusal.MALFORMED),
        ({"limit": 41}, Refusal.MALFORMED),
        ({"commitment": bytes(32)}, Refusal.MALFORMED),
        ({"authorization": bytes(16)}, Refusal.MALFORMED),
        ({"tariff": TariffVersion(tariff_id="gone", version=1)}, Refusal.TARIFF_MISSING),
    ],
    ids=str,
)
def test_a_shown_use_that_its_grant_does_not_prove_bills_nothing(
    site: Gateway, changes: dict, refusal: Refusal
) -> None:
    intent, grant = passage(site)
    new = reborn(site)
    before = new.state.position
    assert say(new, intent, token_ref=None, shown=shown_use(intent, grant, **changes)).refusal is refusal
    assert new.state.position == before
    # A journal that has it needs no showing: it says what it said.
    assert say(site, intent, token_ref=None, shown=shown_use(intent, grant)).status is AnswerStatus.GRANTED
