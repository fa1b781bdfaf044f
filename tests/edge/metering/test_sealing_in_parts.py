"""A journal that had to wait before it could seal has more to say than one batch may bill: it says it in parts."""

import pytest
from edge_playbook import Gateway, M, Meter, Policy, clock, fund

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus
from farthing.evidence import merkle
from farthing.v1 import batch_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.events import KIND_OF, Sealed
from farthing_edge.metering import sealing
from farthing_edge.metering.detail import Placed, leaves_of_entries

MOST = 5


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setattr(sealing, "MAX_SEAL_RECORDS", MOST)
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    gateway.told(tariff=Policy.tariff("chg-3"))
    fund(gateway, "P", "card")
    for number in range(4):
        gateway.told(device=Policy.device(f"c{number}"))
    gateway.told(quota_granted=Policy.quota("q1", "P", 90 * M, clock("20:00")))
    return gateway


def wait(gateway: Gateway, standing: gateway_sync_pb2.HelloStanding.ValueType) -> None:
    hello = gateway_sync_pb2.HelloResponse(incarnation=1, standing=standing)
    gateway.do(commands.Connected(hello=hello))


def meters(gateway: Gateway) -> list[Meter]:
    made = []
    for number in range(4):
        meter = Meter(f"c{number}", 1_000)
        reply = gateway.say(meter.intent(gateway), "card")
        assert reply is not None
        assert reply.status is AnswerStatus.GRANTED
        meter.authorization = reply.grant_of
        made.append(meter)
    return made


def test_what_waited_is_billed_in_batches_that_the_cloud_takes_and_nothing_is_lost(site: Gateway) -> None:
    devices = meters(site)
    wait(site, gateway_sync_pb2.HELLO_STANDING_WAITS)
    for step in range(1, 7):
        site.at = Instant(site.at + 600 * SECOND_US)
        for number, meter in enumerate(devices):
            statement = meter.end if step == 6 and number else meter.reading
            reply = site.say(statement(site, 1_000 + step * 400))
            assert reply is not None
            assert reply.status is AnswerStatus.RECORDED
    site.do(commands.Tick())
    assert site.seal() is None  # it waits
    wait(site, gateway_sync_pb2.HELLO_STANDING_AGREED)
    site.told(quota_recalled={"quota_id": "q1"})
    batches = []
    while (batch := site.seal()) is not None:
        batches.append(batch)
        assert site.replayed().unsealed_micros == site.state.unsealed_micros
    # 24 records of four uses, three of which have ended.
    assert len(batches) == 5
    assert max(batch.leaf_count for batch in batches) <= MOST
    billed: dict[bytes, list[batch_pb2.Claim]] = {}
    for number, batch in enumerate(batches):
        assert batch.first_position == (1 if not number else batches[number - 1].last_position + 1)
        assert sum(line.net_micros for line in batch.lines) == sum(
            share.net_micros for claim in batch.claims for share in claim.shares
        )
        # Nobody says what a quota still holds before all that it paid is said.
        assert bool(batch.stopped or batch.closed_quota_ids) == (number == len(batches) - 1)
        for claim in batch.claims:
            billed.setdefault(claim.authorization_id, []).append(claim)
    for meter in devices:
        claims = billed[meter.authorization or b""]
        totals = [claim.net_micros for claim in claims]
        assert totals == sorted(totals)
        assert sum(share.net_micros for claim in claims for share in claim.shares) == totals[-1]
        assert [claim.final for claim in claims].count(True) == (meter is not devices[0])
        assert claims[-1].final == (meter is not devices[0])
        assert claims[-1].register_to == 1_000 + 6 * 400
    assert site.state.unsealed_micros == 0
    assert not site.state.ended


def test_detail_of_each_part_is_the_same_again_from_the_journal(site: Gateway) -> None:
    devices = meters(site)
    for step in range(1, 5):
        site.at = Instant(site.at + 600 * SECOND_US)
        for meter in devices:
            site.say(meter.reading(site, 1_000 + step * 300))
    while site.seal() is not None:
        pass
    durable = [event for event in site.journal if event.__class__ in KIND_OF]
    sealed = [event for event in durable if isinstance(event, Sealed)]
    assert len(sealed) == 4
    for event in sealed:
        batch = batch_pb2.Batch.FromString(event.batch)
        leaves = leaves_of_entries(
            [Placed(at, durable[at - 1]) for at in range(batch.first_position, batch.last_position + 1)],
            gateway_id="G1",
            event_at=lambda position: durable[position - 1],
            start_id_at=lambda _: bytes(16),
        )
        assert merkle.root(leaves) == batch.merkle_root


def test_a_receipt_of_a_part_receipts_no_statement_that_stands_in_the_next(site: Gateway) -> None:
    devices = meters(site)
    for step in range(1, 3):
        for meter in devices:
            site.say(meter.end(site, 1_000 + step * 300) if step == 2 else meter.reading(site, 1_300))
    batch = site.seal()
    assert batch is not None
    state = site.state
    receipt = batch_pb2.Receipt(gateway_id="G1", incarnation=1, sequence=1, batch_hash=state.batch_hash)
    site.do(commands.ReceiptArrived(receipt=receipt, raw=b"r"))
    ends = [state.receipted_counter(state.devices[meter.device_id]) >= meter.counter for meter in devices]
    # Five of eight records: the first device's end is the last of them.
    assert ends == [True, False, False, False]
