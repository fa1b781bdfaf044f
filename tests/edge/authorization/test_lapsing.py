"""DESIGN 2: an authorization lapses when no new use may start, but the hold stays until the device's last word."""

from dataclasses import replace

import cbor2
import pytest
from edge_playbook import Gateway, M, Meter, Policy, clock, fund

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import MAX_COUNT, AnswerStatus, decode_statement
from farthing_edge.authorization import commands
from farthing_edge.authorization.commands import Shown
from farthing_edge.authorization.events import Adopted, Granted, Lapsed, Metered, decode, encode
from farthing_edge.authorization.packing import unpack
from farthing_edge.authorization.state import DEFAULT_GRANT_LAPSE_US as LAPSE
from farthing_edge.metering.detail import Placed, leaves_of_entries
from farthing_edge.metering.sealing import facts_of_record, leaves_of, sheet_of

NINE, TEN = clock("09:00"), clock("10:00")


@pytest.fixture
def site() -> Gateway:
    site = Gateway("G1", "S1", NINE)
    fund(site, "P", "card")
    for name in ("chg-3", "toll-1"):
        site.told(tariff=Policy.tariff(name))
    site.told(device=Policy.device("c1"))
    site.told(device=Policy.device("t1", profile="one-shot", tariff_id="toll-1", unit="passage"))
    site.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("23:00")))
    return site


def granted(site: Gateway, device: str = "c1", **changes) -> Meter:
    meter = Meter(device, 1_000)
    reply = site.say(meter.intent(site, **changes), "card")
    assert reply.status is AnswerStatus.GRANTED
    meter.authorization = reply.grant_of
    return meter


def later(site: Gateway, us: int) -> Gateway:
    site.at = Instant(site.at + us)
    return site


def lapsed(site: Gateway) -> list[bytes]:
    return [event.authorization for event in site.do(commands.Tick()).events if isinstance(event, Lapsed)]


def test_the_grant_names_the_instant_by_the_clock_that_dated_the_intent(site: Gateway) -> None:
    yesterday = Instant(NINE - 24 * 3600 * SECOND_US)
    granted(site, at=yesterday)
    (authorization,) = site.state.authorizations.values()
    assert site.grant_of(site.last.reply).lapses_at == yesterday + LAPSE
    # Here it lapses as long after the yes.
    assert site.state.not_begun == {authorization.id: NINE + LAPSE}


@pytest.mark.parametrize(("at", "lapse_us", "expected"), [(MAX_COUNT - 1, LAPSE, MAX_COUNT), (NINE, 0, None)])
def test_an_instant_is_never_beyond_what_an_instant_can_say(
    site: Gateway, at: int, lapse_us: int, expected: int | None
) -> None:
    site.state.settings = replace(site.settings, grant_lapse_us=lapse_us)
    # Nobody vouches for the gateway's clock, so it doubts nobody's.
    site.state.clock.trusted = False
    granted(site, at=Instant(at))
    assert site.grant_of(site.last.reply).lapses_at == expected
    assert bool(site.state.not_begun) == (expected is not None)


def test_what_has_lapsed_is_written_down_once_and_held_as_before(site: Gateway) -> None:
    meter = granted(site)
    held = site.state.quotas["q1"].held_micros
    later(site, LAPSE - 1)
    assert lapsed(site) == []
    later(site, 1)
    assert lapsed(site) == [meter.authorization]
    assert lapsed(site) == []
    assert site.state.lapsed == {meter.authorization: NINE + LAPSE}
    assert site.state.quotas["q1"].held_micros == held > 0
    # Its register is not free: only its device's word, or people's, ends it.
    assert site.state.devices["c1"].registers["r1"].open is site.state.authorizations[meter.authorization]
    assert site.replayed().lapsed == site.state.lapsed


def test_the_later_of_the_clock_and_what_has_surely_passed_lets_it_lapse(site: Gateway) -> None:
    meter = granted(site)
    site.do(commands.HeadArrived(version=site.state.directive_version, at=Instant(NINE + LAPSE)))
    assert lapsed(site) == [meter.authorization]


def test_a_use_that_was_heard_to_begin_does_not_lapse(site: Gateway) -> None:
    meter = granted(site)
    later(site, 60 * SECOND_US)
    reply = site.say(meter.reading(site, 1_000))
    # From here on the device is told of a limit, and of no lapse.
    assert site.grant_of(reply).lapses_at is None
    assert not site.state.not_begun
    later(site, 2 * LAPSE)
    assert lapsed(site) == []


@pytest.mark.parametrize("how", ["reading", "end", "late end without width"])
def test_who_begins_late_is_billed_once_out_of_its_hold(site: Gateway, how: str) -> None:
    """A clock that was put back, or firmware that does not know the rule: use is always billed."""
    meter = granted(site)
    authorization = site.state.authorizations[meter.authorization]
    later(site, LAPSE)
    assert lapsed(site) == [meter.authorization]
    later(site, 600 * SECOND_US)
    value = 1_000 if "without" in how else 2_000
    statement = meter.reading(site, value) if how == "reading" else meter.end(site, value)
    said = site.say(statement)
    assert said.status is AnswerStatus.RECORDED
    assert site.say(statement) == said
    assert not site.state.lapsed
    # 1 kWh at 0.25 and 0.50 at once, 20 % tax; nothing for nothing.
    assert authorization.gross_micros == (0 if "without" in how else 900_000)
    assert authorization.closed == (how != "reading")
    assert bool(authorization.holds) == (how == "reading")
    assert site.state.quotas["q1"].spent_micros == authorization.gross_micros
    assert site.replayed().quotas["q1"].spent_micros == authorization.gross_micros


def test_its_device_is_asked_after_it_with_the_next_answer(site: Gateway) -> None:
    meter = granted(site)
    later(site, 60 * SECOND_US)
    # An end of something else, without width: it gets an answer like any other.
    assert site.say(meter.end(site, 1_000, authorization=bytes(16), tariff=None)).asks == ()
    later(site, LAPSE)
    assert lapsed(site) == [meter.authorization]
    assert site.say(meter.end(site, 1_000, authorization=b"x" * 16, tariff=None)).asks == (meter.authorization,)


def test_a_passage_is_its_yes_and_lapses_never(site: Gateway) -> None:
    granted(site, "t1", one_shot=1)
    assert site.grant_of(site.last.reply).lapses_at is None
    assert not site.state.not_begun
    later(site, 2 * LAPSE)
    assert lapsed(site) == []


def test_what_people_close_does_not_lapse_besides(site: Gateway) -> None:
    granted(site)
    later(site, 2 * LAPSE)
    site.told(device=Policy.device("c1", device_epoch=2))
    events = site.do(commands.Tick()).events
    assert [event.closing for event in events] == [True]
    assert lapsed(site) == []
    assert not site.state.not_begun


def test_the_intent_again_hears_the_same_yes(site: Gateway) -> None:
    meter = Meter("c1", 1_000)
    intent = meter.intent(site)
    first = site.grant_of(site.say(intent, "card"))
    later(site, 2 * LAPSE)
    lapsed(site)
    assert site.grant_of(site.say(intent, "card")) == first


def test_a_leaf_shows_the_grant_as_it_was_told(site: Gateway) -> None:
    """The lapse stands in the signed bytes: whoever shows them again has it."""
    meter = granted(site)
    later(site, 60 * SECOND_US)
    site.say(meter.reading(site, 2_000))
    facts = [facts_of_record(site.state, record) for record in site.state.unsealed]
    now = leaves_of(facts, sheet_of((f.account, f.currency, f.tariff, f.charges, f.at) for f in facts))
    again = leaves_of_entries(
        [Placed(at, event) for at, event in enumerate(site.journal, 1) if isinstance(event, Metered)],
        gateway_id=site.state.gateway_id,
        event_at=lambda position: site.journal[position - 1],
        start_id_at=lambda _: site.state.start_id,
    )
    assert again == now
    assert cbor2.dumps({16: NINE + LAPSE})[1:] in now[0]


def test_what_a_lost_journal_gave_goes_on_however_late_its_device_shows_it(site: Gateway) -> None:
    meter = granted(site)
    (first,) = [event for event in site.journal if isinstance(event, Granted)]
    grant = site.grant_of(site.last.reply)
    other = Gateway("G1", "S1", Instant(NINE + 2 * LAPSE))
    fund(other, "P", "card")
    other.told(tariff=Policy.tariff("chg-3"))
    other.told(device=Policy.device("c1"))
    other.do(commands.HeadArrived(version=other.state.directive_version, at=other.at))
    end = meter.end(other, 2_000)
    intent_payload = first.statement[1:]
    shown = Shown(
        grant=replace(grant, witness=replace(grant.witness, start_id=b"another journal!")),
        grant_cose=b"\x84",
        first=decode_statement(intent_payload),
        first_cose=first.statement,
        first_payload=intent_payload,
    )
    said = other.say(end, shown=shown)
    assert said.status is AnswerStatus.RECORDED
    adopted = next(event for event in other.journal if isinstance(event, Adopted))
    assert cbor2.loads(adopted.grant)[16] == NINE + LAPSE
    assert other.state.authorizations[meter.authorization].gross_micros == 900_000
    assert not other.state.not_begun
    assert not other.state.lapsed


def test_entries_are_read_back(site: Gateway) -> None:
    granted(site)
    later(site, LAPSE)
    site.do(commands.Tick())
    for event in site.journal:
        if isinstance(event, Granted | Lapsed):
            assert decode(*encode(event)) == event
    (first,) = [event for event in site.journal if isinstance(event, Granted)]
    kind, body = encode(first)
    older = cbor2.dumps(cbor2.loads(unpack(body))[:-1])
    assert decode(kind, older) == first._replace(lapses_at=None)
