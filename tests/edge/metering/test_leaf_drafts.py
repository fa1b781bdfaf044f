"""Leaves made before their batch: the batch is the same with all of them, with some, and with none."""

from edge_playbook import Gateway, M, Meter, Policy, clock, fund

from farthing.clock import SECOND_US, Instant
from farthing.evidence import merkle
from farthing.v1 import batch_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.events import Sealed
from farthing_edge.metering.drafting import LeafDrafts
from farthing_edge.metering.sealing import seal

QUARTER_OF_AN_HOUR = 900 * SECOND_US


def site() -> tuple[Gateway, list[Meter]]:
    """Three uses whose money comes from two quotas: records on several lines."""
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    gateway.told(tariff=Policy.tariff("chg-3"))
    fund(gateway, "P", "card")
    for name in ("c0", "c1", "c2"):
        gateway.told(device=Policy.device(name))
    gateway.told(quota_granted=Policy.quota("q1", "P", 4 * M, clock("20:00")))
    gateway.told(quota_granted=Policy.quota("q2", "P", 90 * M, clock("21:00")))
    meters = []
    for name in ("c0", "c1", "c2"):
        meter = Meter(name, 1_000)
        meter.authorization = gateway.say(meter.intent(gateway), "card").grant_of
        meters.append(meter)
    return gateway, meters


def read(gateway: Gateway, meters: list[Meter], step: int) -> None:
    gateway.at = Instant(gateway.at + QUARTER_OF_AN_HOUR)
    for meter in meters:
        assert gateway.say(meter.reading(gateway, 1_000 + step * 400)).refusal is None


def test_a_batch_is_the_same_whatever_of_it_was_drafted() -> None:
    gateway, meters = site()
    drafts = LeafDrafts()
    read(gateway, meters, 1)
    assert drafts.go_on(gateway.state, 2)
    assert not drafts.go_on(gateway.state, 2)
    assert not drafts.go_on(gateway.state, 2)
    for step in range(2, 6):
        read(gateway, meters, step)
    alone, some = (seal(gateway.state, gateway.at, each) for each in (None, drafts))
    assert drafts.go_on(gateway.state, 7)
    assert not drafts.go_on(gateway.state, 7)
    every = seal(gateway.state, gateway.at, drafts)
    assert alone == some == every
    batch = batch_pb2.Batch.FromString(alone.sealed.batch)
    assert len(batch.lines) > 3
    assert len(alone.leaves) == batch.leaf_count > len(gateway.state.unsealed) == 15
    assert merkle.root(alone.leaves) == batch.merkle_root
    assert all(drafts.of(record) is not None for record in gateway.state.unsealed)


def test_what_is_sealed_is_forgotten_and_the_next_batch_goes_on_from_there() -> None:
    gateway, meters = site()
    drafts = LeafDrafts()
    read(gateway, meters, 1)
    drafts.go_on(gateway.state, 10)
    first = gateway.state.unsealed
    decision = gateway.do(commands.SealDue(drafted=drafts))
    (sealed,) = decision.events
    assert isinstance(sealed, Sealed)
    assert merkle.root(decision.leaves) == batch_pb2.Batch.FromString(sealed.batch).merkle_root
    drafts.forget(gateway.state.sealed_position)
    assert [drafts.of(record) for record in first] == [None] * 3
    read(gateway, meters, 2)
    assert not drafts.go_on(gateway.state, 10)
    assert all(drafts.of(record) is not None for record in gateway.state.unsealed)


def test_a_draft_is_of_one_record_and_of_no_other_at_its_position() -> None:
    gateway, meters = site()
    drafts = LeafDrafts()
    read(gateway, meters, 1)
    drafts.go_on(gateway.state, 10)
    # Read anew from the journal, its records are other ones: also where they say the same.
    again = gateway.replayed()
    assert [record.position for record in again.unsealed] == [record.position for record in gateway.state.unsealed]
    assert [drafts.of(record) for record in again.unsealed] == [None] * 3
    drafts.begin_again()
    assert not drafts.go_on(again, 10)
    assert all(drafts.of(record) is not None for record in again.unsealed)
    assert seal(again, gateway.at, drafts) == seal(gateway.state, gateway.at)
