"""Devices, a cloud and a gateway in conversation: what is said late, twice, out of order, or in vain."""

import pytest
from edge_playbook import Gateway, M, Meter, Policy, clock, fund

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus, RegisterValue
from farthing.evidence.batches import batch_hash
from farthing.ids import authorization_id
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.events import QuotaRequested, QuotaStopped


@pytest.fixture
def site() -> Gateway:
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    for tariff in ("chg-3", "toll-1", "park-1"):
        gateway.told(tariff=Policy.tariff(tariff))
    fund(gateway, "P", "card")
    gateway.told(device=Policy.device("c1"))
    gateway.told(device=Policy.device("m1", profile="standing", standing_account_id="P", rated_per_hour=1_000))
    gateway.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("20:00")))
    return gateway


def later(gateway: Gateway, seconds: int = 60) -> Gateway:
    gateway.at = Instant(gateway.at + seconds * SECOND_US)
    return gateway


def open_session(gateway: Gateway, meter: Meter) -> Meter:
    reply = gateway.say(meter.intent(gateway), meter.token)
    assert reply.status is AnswerStatus.GRANTED
    meter.authorization = reply.grant_of
    return meter


def test_readings_out_of_order_bill_what_the_highest_bills(site: Gateway) -> None:
    meter = open_session(site, Meter("c1", 1_000))
    first, second = meter.reading(later(site), 1_400), meter.reading(later(site), 2_000)
    assert site.say(second).status is AnswerStatus.RECORDED
    before = site.state.position
    late = site.say(first)
    assert (late.status, late.closed, late.grant_of) == (AnswerStatus.RECORDED, False, meter.authorization)
    assert site.state.position == before
    site.say(meter.end(later(site), 2_000))
    assert site.state.authorizations[meter.authorization].net_micros == 500_000 + 1_000 * 250


def test_a_register_that_goes_back_is_parked_and_not_billed(site: Gateway) -> None:
    meter = open_session(site, Meter("c1", 1_000))
    site.say(meter.reading(later(site), 2_000))
    back = meter.reading(later(site), 1_500)
    assert site.say(back).refusal is Refusal.REGISTER_WENT_BACK
    assert site.state.parked == 1
    assert site.say(back).refusal is Refusal.REGISTER_WENT_BACK
    assert site.state.parked == 1
    assert site.say(meter.end(later(site), 2_500)).closed


def test_an_end_without_width_closes_and_costs_nothing(site: Gateway) -> None:
    meter = open_session(site, Meter("c1", 1_000))
    reply = site.say(meter.end(later(site, 7_200), 1_000, tariff=None))
    assert (reply.status, reply.closed) == (AnswerStatus.RECORDED, True)
    batch = site.seal()
    (claim,) = batch.claims
    assert (claim.final, claim.net_micros, list(claim.shares)) == (True, 0, [])
    assert (claim.register_from, claim.register_to) == (1_000, 1_000)
    assert list(batch.lines) == []
    assert site.state.quotas["q1"].held_micros == 0


def test_what_a_closed_session_hears(site: Gateway) -> None:
    meter = open_session(site, Meter("c1", 1_000))
    late = meter.reading(later(site), 1_300)
    end = meter.end(later(site), 1_500)
    assert site.say(end).closed
    assert site.say(late).closed
    assert site.say(end).closed
    before = site.state.position
    beyond = meter.reading(later(site), 9_000)
    assert site.say(beyond).refusal is Refusal.INTENT_ENDED
    assert site.state.position == before + 1
    assert site.state.parked == 1


def test_a_reading_for_a_session_nobody_knows_is_asked_again(site: Gateway) -> None:
    meter = Meter("c1", 1_000, authorization=authorization_id("c1", 1, 77, "G1"))
    reply = site.say(meter.reading(site, 1_100))
    assert (reply.status, reply.refusal) == (AnswerStatus.AGAIN, Refusal.AUTHORIZATION_UNKNOWN)
    # An end that names a tariff has heard a grant: it is no cancelled intent either.
    assert site.say(meter.end(site, 1_100)).refusal is Refusal.AUTHORIZATION_UNKNOWN


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"commitment": bytes(32)}, Refusal.COMMITMENT_DIFFERS),
        ({"register": RegisterValue(register_id="r1", register_epoch=2, value=1_100)}, Refusal.REGISTER_EPOCH_DIFFERS),
        ({"register": RegisterValue(register_id="r2", register_epoch=1, value=1_100)}, Refusal.MALFORMED),
        ({"register": RegisterValue(register_id="r1", register_epoch=1, value=10**9)}, Refusal.MALFORMED),
        ({"recipient": "G9"}, Refusal.RECIPIENT_DIFFERS),
        ({"device_epoch": 2}, Refusal.DEVICE_EPOCH_DIFFERS),
    ],
)
def test_a_reading_that_does_not_fit_its_authorization(site: Gateway, changes: dict, refusal: Refusal) -> None:
    meter = open_session(site, Meter("c1", 1_000))
    assert site.say(meter.reading(site, 1_100, **changes)).refusal is refusal
    assert site.state.authorizations[meter.authorization].gross_micros == 0
    assert site.say(meter.reading(site, 1_100)).status is AnswerStatus.RECORDED


def test_a_blocked_device_is_metered_to_its_end_but_starts_nothing(site: Gateway) -> None:
    meter = open_session(site, Meter("c1", 1_000))
    site.told(device=Policy.device("c1", status=directive_pb2.DEVICE_STATUS_BLOCKED))
    assert site.say(meter.reading(later(site), 1_500)).status is AnswerStatus.RECORDED
    assert site.say(meter.end(later(site), 1_600)).closed
    assert site.say(meter.intent(site), "card").refusal is Refusal.DEVICE_BLOCKED


@pytest.mark.parametrize("status", [directive_pb2.DEVICE_STATUS_SUSPENDED, directive_pb2.DEVICE_STATUS_BLOCKED])
def test_what_a_suspended_device_was_refused_stays_refused_when_it_is_active_again(
    site: Gateway, status: directive_pb2.DeviceStatus.ValueType
) -> None:
    meter = Meter("c1", 1_000)
    intent = meter.intent(site)
    site.told(device=Policy.device("c1", status=status))
    refusal = site.say(intent, "card").refusal
    assert refusal in (Refusal.DEVICE_SUSPENDED, Refusal.DEVICE_BLOCKED)
    site.told(device=Policy.device("c1"))
    # A late copy: the device has gone by its no, and would never end what this began.
    assert site.say(intent, "card").refusal is refusal
    assert site.state.open_authorizations == 0


def test_standing_readings_bill_from_the_baseline_on(site: Gateway) -> None:
    meter = Meter("m1", 5_000)
    assert site.say(meter.reading(site, 5_000)).status is AnswerStatus.RECORDED
    assert site.state.unsealed == []
    reply = site.say(meter.reading(later(site), 5_200))
    assert (reply.status, reply.grant_of, reply.closed) == (AnswerStatus.RECORDED, None, False)
    site.say(meter.reading(later(site, 900), 5_300))
    batch = site.seal()
    (claim,) = batch.claims
    assert (claim.register_from, claim.register_to, claim.final) == (5_000, 5_300, False)
    assert claim.net_micros == 500_000 + 300 * 250
    assert site.state.quotas["q1"].held_micros == 0
    site.told(
        device=Policy.device(
            "m1",
            profile="standing",
            standing_account_id="P",
            rated_per_hour=1_000,
            status=directive_pb2.DEVICE_STATUS_SUSPENDED,
        )
    )
    assert site.say(meter.reading(later(site), 5_400)).refusal is Refusal.DEVICE_SUSPENDED


def test_a_standing_reading_beyond_its_quota_is_overrun_and_more_is_asked_for(site: Gateway) -> None:
    site.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id="q1", reason="test"))
    meter = Meter("m1", 0)
    site.say(meter.reading(site, 0))
    (request,) = [event for event in site.journal if isinstance(event, QuotaRequested)]
    assert request.wanted_micros > 0
    site.say(meter.reading(later(site), 200))
    (line,) = site.seal().lines
    assert line.overrun
    assert line.account_id == "P"


def test_low_water_asks_once_until_it_is_answered(site: Gateway) -> None:
    site.told(account=Policy.account("Q", preload_micros=8 * M))

    def asked() -> list[QuotaRequested]:
        return [event for event in site.journal if isinstance(event, QuotaRequested)]

    site.do(commands.Tick())
    site.do(commands.Tick())
    (request,) = asked()
    assert (request.account, request.wanted_micros) == ("Q", 8 * M)
    assert list(site.replayed().requests) == [request.counter]
    site.do(commands.QuotaAnswered(counter=request.counter, answer=gateway_sync_pb2.QUOTA_ANSWER_NOTHING_AVAILABLE))
    site.do(commands.Tick())
    assert len(asked()) == 1
    later(site, 61).do(commands.Tick())
    assert len(asked()) == 2
    site.told(quota_granted=Policy.quota("q8", "Q", 8 * M, clock("20:00"), request_counter=asked()[-1].counter))
    site.do(commands.Tick())
    assert len(asked()) == 2
    assert site.state.requests == {}


def test_a_receipt_counts_for_the_batch_it_names(site: Gateway) -> None:
    meter = open_session(site, Meter("c1", 1_000))
    site.say(meter.end(later(site), 1_500))
    device = site.state.devices["c1"]
    assert device.receipted_counter(site.state.receipted_position) == 0
    batch = site.seal()
    raw = batch.SerializeToString(deterministic=True)
    wrong = batch_pb2.Receipt(gateway_id="G1", incarnation=1, sequence=1, batch_hash=bytes(32))
    assert site.do(commands.ReceiptArrived(receipt=wrong, raw=b"")).events == ()
    right = batch_pb2.Receipt(gateway_id="G1", incarnation=1, sequence=1, batch_hash=batch_hash(raw))
    site.do(commands.ReceiptArrived(receipt=right, raw=b""))
    assert site.state.receipted_sequence == 1
    assert device.receipted_counter(site.state.receipted_position) == 2
    # A counter that is not receipted yet holds back all above it.
    first = meter.intent(site)
    meter.authorization = authorization_id("c1", 1, first.counter, "G1")
    site.say(first, "card")
    assert device.receipted_counter(site.state.receipted_position) == 2


def test_directives_come_in_one_gapless_chain(site: Gateway) -> None:
    version = site.state.directive_version
    skipped = site.policy.directive(site.at, seal=directive_pb2.SealPolicy(records=5))
    after = site.policy.directive(site.at, seal=directive_pb2.SealPolicy(records=6))
    assert site.do(after).events == ()
    assert site.state.directive_version == version
    site.do(skipped)
    assert site.do(skipped).events == ()
    site.do(after)
    assert (site.state.directive_version, site.state.seal_policy.records) == (version + 2, 6)
    other = Policy("G1")
    other.version, other.hash = site.policy.version, bytes(32)
    assert site.do(other.directive(site.at, seal=directive_pb2.SealPolicy(records=7))).events == ()


def test_a_directive_that_cannot_be_obeyed_does_not_stop_the_chain(site: Gateway) -> None:
    site.told(tariff=directive_pb2.TariffRecord(tariff_id="bad", version=1, currency="EUR", ocpi_json=b"{"))
    site.told(quota_granted=Policy.quota("q5", "nobody", M, clock("20:00")))
    assert [version for version, _ in site.state.directive_faults] == [
        site.state.directive_version - 1,
        site.state.directive_version,
    ]
    assert "q5" not in site.state.quotas


def test_the_cloud_has_seen_more_than_this_journal(site: Gateway) -> None:
    hello = gateway_sync_pb2.HelloResponse(
        incarnation=1, witnessed_start_id=bytes(16), witnessed_position=site.state.position
    )
    site.do(commands.Connected(hello=hello))
    assert site.state.not_authorizing_reason == ""
    meter = open_session(site, Meter("c1", 0))
    hello.witnessed_position = site.state.position + 1
    site.do(commands.Connected(hello=hello))
    assert site.say(meter.reading(site, 100)).status is AnswerStatus.RECORDED
    site.told(device=Policy.device("c2"))
    reply = site.say(Meter("c2", 0).intent(site), "card")
    assert (reply.status, reply.refusal) == (AnswerStatus.LATER, Refusal.NOT_AUTHORIZING)
    assert site.replayed().rollback_suspected
    site.told(welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=2, time_zone="UTC"))
    assert site.state.not_authorizing_reason
    hello.incarnation = 2
    site.do(commands.Connected(hello=hello))
    assert site.state.not_authorizing_reason == ""
    assert site.state.quotas["q1"].frozen


def test_the_counter_window_is_bounded(site: Gateway) -> None:
    site.told(quota_granted=Policy.quota("q2", "P", 1_000 * M, clock("20:00")))
    meter = Meter("c1", 0)
    for _ in range(300):
        open_session(site, meter)
        site.say(meter.end(site, meter.value + 10))
        if meter.counter % 100 == 0:
            site.seal()
    site.seal()
    device = site.state.devices["c1"]
    assert len(device.seen) <= 128
    assert len(site.state.authorizations) <= 128
    old = Meter("c1", 0).intent(site)
    assert site.say(old, "card").refusal in {Refusal.REGISTER_WENT_BACK, Refusal.COUNTER_TOO_OLD}


def test_a_parking_meter_pays_by_the_second_and_is_cut_off_by_its_limit(site: Gateway) -> None:
    site.told(
        device=Policy.device(
            "p1", unit="s", rated_per_hour=3_600, tariff_id="park-1", report_interval_s=600, stoppable=True
        )
    )
    meter = Meter("p1", 0, tariff="park-1")
    grant = site.grant_of(site.say(meter.intent(site, wanted=300), "card"))
    assert (grant.start, grant.limit) == (0, 300)
    meter.authorization = grant.authorization
    assert site.grant_of(site.say(meter.reading(later(site, 120), 120))).limit == 720
    site.say(meter.end(later(site, 65), 185))
    # 185 s in steps of a minute: four minutes at 3.60 an hour.
    assert site.state.authorizations[meter.authorization].gross_micros == 240_000


def test_a_spent_quota_is_closed_at_once_and_leaves_its_place(site: Gateway) -> None:
    fund(site, "Q", "tag")
    site.told(device=Policy.device("x1", profile="one-shot", tariff_id="toll-1", unit="passage"))
    site.told(quota_granted=Policy.quota("q2", "Q", 1_200_000, clock("20:00")))
    meter = Meter("x1", 41, tariff="toll-1", token="tag")
    assert site.say(meter.intent(site, one_shot=1), meter.token).status is AnswerStatus.GRANTED

    site.do(commands.Tick())
    site.do(commands.Tick())

    stopped = [event for event in site.journal if isinstance(event, QuotaStopped)]
    assert [(event.quota_id, event.reason) for event in stopped] == [("q2", "spent")]
    assert list(site.seal().closed_quota_ids) == ["q2"]
    assert "q2" not in site.state.quotas
    assert not site.replayed().spent


def test_an_unused_quota_is_given_back_only_while_another_can_be_had(site: Gateway) -> None:
    site.told(account=Policy.account("Q", preload_micros=8 * M))
    site.told(quota_granted=Policy.quota("q8", "Q", 8 * M, clock("20:00") + 7 * 86_400 * SECOND_US))

    def stopped() -> list[tuple[str, str]]:
        return [(e.quota_id, e.reason) for e in site.journal if isinstance(e, QuotaStopped) and e.quota_id == "q8"]

    site.do(commands.UplinkChanged(online=False))
    later(site, 25 * 3600).do(commands.Tick())
    assert stopped() == []
    site.do(commands.UplinkChanged(online=True))
    site.do(commands.Tick())
    site.do(commands.Tick())
    assert stopped() == [("q8", "unused")]
    assert not [e for e in site.journal if isinstance(e, QuotaRequested) and e.account == "Q"]
    assert "q8" in site.seal().closed_quota_ids


def test_a_quota_is_not_given_back_as_unused_while_a_use_holds_of_it_or_when_its_time_is_over(site: Gateway) -> None:
    fund(site, "Q", "tag", preload_micros=8 * M)
    site.told(quota_granted=Policy.quota("held", "Q", 8 * M, clock("20:00") + 7 * 86_400 * SECOND_US))
    site.told(account=Policy.account("R", preload_micros=8 * M))
    site.told(quota_granted=Policy.quota("late", "R", 8 * M, clock("20:00")))
    meter = Meter("c1", 0, token="tag")
    meter.authorization = site.say(meter.intent(site), "tag").grant_of
    assert site.state.quotas["held"].held_micros

    site.do(commands.UplinkChanged(online=True))
    later(site, 25 * 3600).do(commands.Tick())
    site.do(commands.Tick())

    assert [
        (event.quota_id, event.reason)
        for event in site.journal
        if isinstance(event, QuotaStopped) and event.quota_id in {"held", "late"}
    ] == [("late", "spend_until")]
    assert site.say(meter.end(later(site, 60), 100)).closed
    later(site, 25 * 3600).do(commands.Tick())
    assert site.state.quotas["held"].stopped
