"""P4 of what waits for people: it goes up with the next batch, and its device keeps it until that batch is receipted."""

import pytest
from signed_uses import Site, signed

from farthing.device.messages import AnswerStatus
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.events import StatementParked
from farthing_edge.authorization.state import MAX_PARKED_UNSEALED
from farthing_edge.metering.sealing import seal_again


@pytest.fixture
def site() -> Site:
    site = Site()
    site.begin(1_000)
    site.wait(600)
    return site


def sealed(site: Site) -> batch_pb2.Batch:
    batch = site.gateway.seal()
    assert batch is not None
    return batch


def test_the_next_batch_has_it_whole_and_its_receipt_releases_it(site: Site) -> None:
    state = site.gateway.state
    odd = site.device.reading(site.gateway, 9_000)
    assert site.say(odd).refusal is Refusal.REGISTER_TOO_FAST
    parked = next(event for event in site.gateway.journal if isinstance(event, StatementParked))
    device = state.devices["d1"]
    assert state.receipted_counter(device) < odd.counter
    assert state.has_something_to_say()
    batch = sealed(site)
    assert [(each.statement, each.refusal) for each in batch.parked] == [(parked.statement, Refusal.REGISTER_TOO_FAST)]
    assert state.receipted_counter(device) < odd.counter
    receipt = batch_pb2.Receipt(gateway_id="G1", incarnation=1, sequence=state.sequence, batch_hash=state.batch_hash)
    site.gateway.do(commands.ReceiptArrived(receipt=receipt, raw=b"receipt"))
    assert state.receipted_counter(device) == odd.counter
    # Once is enough, and people decide about it as ever.
    assert not sealed_again(site)
    assert len(state.parked_statements) == 1
    assert site.gateway.replayed().parked_unsealed == []


def sealed_again(site: Site) -> list[bytes]:
    site.wait(60)
    site.read(1_100)
    return [each.statement for each in sealed(site).parked]


def test_what_a_batch_has_no_room_for_is_told_later_and_nothing_of_it_is_written(site: Site) -> None:
    for number in range(MAX_PARKED_UNSEALED):
        assert site.read(9_000 + number).refusal is Refusal.REGISTER_TOO_FAST
    # What can be taken is taken meanwhile.
    assert site.read(1_100).status is AnswerStatus.RECORDED
    entries = len(site.gateway.journal)
    one_more = site.device.reading(site.gateway, 10_000)
    for _ in range(2):
        reply = site.say(one_more)
        assert (reply.status, reply.refusal) == (AnswerStatus.LATER, Refusal.OVERLOADED)
    assert len(site.gateway.journal) == entries
    assert len(sealed(site).parked) == MAX_PARKED_UNSEALED
    assert site.say(one_more).refusal is Refusal.REGISTER_TOO_FAST
    assert len(sealed(site).parked) == 1


def test_what_the_cloud_brings_and_cannot_be_taken_need_not_go_up_again(site: Site) -> None:
    for number in range(MAX_PARKED_UNSEALED):
        site.read(9_000 + number)
    end = site.device.end(site.gateway, 20_000)
    body = directive_pb2.EndCarried(statements=[signed(end)], carried_by="G2")
    decision = site.gateway.told(end_carried=body)
    assert [event.goes_up for event in decision.events if isinstance(event, StatementParked)] == [False]
    assert len(sealed(site).parked) == MAX_PARKED_UNSEALED


def test_a_chain_that_is_said_again_says_it_again(site: Site) -> None:
    site.read(9_000)
    first = sealed(site)
    state = site.gateway.state
    site.gateway.told(
        welcome=directive_pb2.Welcome(
            operator_id="op", site_id="S1", incarnation=2, receipt_keys=[b"key"], time_zone="Europe/Berlin"
        )
    )
    again = seal_again(state, first.SerializeToString(deterministic=True), site.gateway.at)
    assert again is not None
    assert batch_pb2.Batch.FromString(again.batch).parked == first.parked
