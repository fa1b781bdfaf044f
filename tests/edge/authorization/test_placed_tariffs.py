"""Tariffs whose price depends on when and how: readings asked for, bills that never fall, and leaves from which anyone prices again."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from edge_playbook import Policy, clock
from evidence_bundles import ROOT, certificate, der
from evidence_bundles import sealed as sealed_by
from hypothesis import given, settings
from hypothesis import strategies as st
from placed_site import KEY, MORNING, PRIVATE, Site, element

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus, TariffVersion, decode_grant, encode
from farthing.evidence import leaf as leaf_codec
from farthing.evidence import merkle
from farthing.evidence.bundle import Billed, Bundle, BundledBatch, NamedRegister, NamedTariff, PlacedLeaf
from farthing.evidence.detail import EvidenceError, RegisterFacts, VerifiedLeaf, follows, verify
from farthing.evidence.leaf import Leaf
from farthing.evidence.proof import BundleFault, prove
from farthing.ids import AuthorizationId, DeviceId, GatewayId, OperatorId, RegisterId
from farthing.refusal import Refusal
from farthing.tariff import TIME_ZONE_DATA, parse
from farthing.v1 import batch_pb2
from farthing_edge.authorization.events import Metered
from farthing_edge.authorization.packing import unpack


def test_a_session_over_a_change_of_price() -> None:
    site = Site(MORNING)
    reply = site.begin()
    grant = site.gateway.grant_of(reply)
    # Half an hour after the start, noon in Berlin, and midnight there.
    assert grant.readings_due == (clock("10:00"), clock("22:00"))
    assert decode_grant(encode(grant)) == grant
    # 3,600 s at 22 kW: the dearer price, as nobody knows when it will be used; parking too.
    assert sum(held.amount_micros for held in grant.held) >= 22_000 * 360
    site.read("10:00", 3_000)
    assert site.billed == (600_000, 120_000)
    site.read("10:30", 6_000)
    assert site.billed == (900_000, 180_000)
    # The car is full: an hour of parking, in steps of five minutes at the end.
    site.read("11:31", 6_000)
    assert site.billed == (900_000 + 6_100_000, 180_000 + 1_220_000)
    batch, leaves = site.seal()
    assert batch.time_zone_data == TIME_ZONE_DATA
    assert len(site.proven(batch, leaves)) == 3
    assert site.end("11:31", 6_000).closed
    assert site.billed == (900_000 + 6_500_000, 180_000 + 1_300_000)
    batch, leaves = site.seal()
    last = site.proven(batch, leaves)[-1]
    assert last.leaf.closing
    assert last.leaf.stood is not None


def test_a_bundle_of_a_placed_session_needs_the_records_before() -> None:
    site = Site(MORNING)
    site.begin()
    sealed: list[tuple[batch_pb2.Batch, list[bytes]]] = []
    for at, value in (("09:45", 2_000), ("10:00", 3_000), ("10:30", 6_000)):
        site.read(at, value)
        sealed.append(site.seal())
    site.end("11:10", 6_100)
    sealed.append(site.seal())
    (claim,) = sealed[-1][0].claims
    batches = [bundled(batch, leaves) for batch, leaves in sealed]
    whole = Bundle(
        operator=OperatorId(sealed[0][0].operator_id),
        gateway=GatewayId("G1"),
        authorization=AuthorizationId(claim.authorization_id),
        billed=Billed(
            device=DeviceId("c1"),
            register_id=RegisterId(claim.register_id),
            register_epoch=claim.register_epoch,
            register_from=claim.register_from,
            register_to=claim.register_to,
            net_micros=claim.net_micros,
            tax_micros=claim.tax_micros,
            final=True,
            aside=False,
        ),
        time_zone="Europe/Berlin",
        gateway_key=KEY.spki,
        receipt_keys=(),
        tariffs=(NamedTariff(tariff_id="day", version=1, ocpi_json=site.documents[1].decode()),),
        registers=(
            NamedRegister(
                device=DeviceId("c1"),
                register_id=RegisterId(claim.register_id),
                register_epoch=claim.register_epoch,
                unit="Wh",
                modulus=10**9,
            ),
        ),
        certificates=(der(certificate("c1", PRIVATE)),),
        batches=tuple(batches),
    )
    proof = prove(whole, roots=[ROOT])
    assert not any("came to stand" in said for said in proof.not_proven)
    # Without a batch between, what the next one goes on from is its gateway's word, and said to be.
    for left_out in (0, 1, 2):
        fewer = replace(whole, batches=tuple(batches[:left_out] + batches[left_out + 1 :]))
        said = " ".join(prove(fewer, roots=[ROOT]).not_proven)
        assert f"came to stand where it did before batch 1/{left_out + 2}" in said
    # In another zone it was not noon.
    with pytest.raises(BundleFault, match="the price of the interval"):
        prove(replace(whole, time_zone="America/New_York"), roots=[ROOT])


def bundled(batch: batch_pb2.Batch, leaves: list[bytes]) -> BundledBatch:
    """All leaves are the one session's."""
    body = batch.SerializeToString(deterministic=True)
    return BundledBatch(
        batch=sealed_by(PRIVATE, "batch", "cloud", body),
        receipt=None,
        leaves=tuple(
            PlacedLeaf(index=index, leaf=leaf, path=tuple(merkle.inclusion_proof(leaves, index)))
            for index, leaf in enumerate(leaves)
        ),
    )


def test_every_leaf_follows_from_the_one_before_it_over_batches() -> None:
    site = Site(MORNING)
    site.begin()
    proven: list[VerifiedLeaf] = []
    for at, value in (("09:45", 2_000), ("10:00", 3_000), ("10:10", 3_000), ("10:30", 6_000), ("11:00", 6_000)):
        site.read(at, value)
        if site.gateway.state.unsealed:
            proven += site.proven(*site.seal())
    site.end("11:10", 6_100)
    proven += site.proven(*site.seal())
    assert len(proven) >= 5
    for earlier, later in itertools.pairwise(proven):
        assert follows(earlier, later)
    assert not follows(proven[2], proven[1])
    assert not follows(proven[0], replace(proven[1], leaf=replace(proven[1].leaf, stood=None)))


def test_a_lost_boundary_reading_costs_the_cheapest_and_nothing_falls() -> None:
    site = Site(MORNING)
    site.begin()
    site.read("09:50", 2_000)
    assert site.billed[0] == 300_000
    late = site.meter.reading(site.gateway, 2_500, at=clock("10:00"))
    site.read("10:20", 4_000)
    assert site.billed[0] == 300_000 + 200_000
    # It comes late: it is heard, and changes nothing that was billed.
    assert site.say(late).status is AnswerStatus.RECORDED
    assert site.billed[0] == 500_000
    site.end("10:25", 4_050)
    assert site.billed[0] == 300_000 + 210_000
    site.proven(*site.seal())


def placed(leaf: Leaf, **changes: Any) -> Leaf:
    assert leaf.stood is not None
    return replace(leaf, stood=replace(leaf.stood, placed=leaf.stood.placed._replace(**changes)))


def stood(leaf: Leaf, **changes: Any) -> Leaf:
    assert leaf.stood is not None
    return replace(leaf, stood=replace(leaf.stood, **changes))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            lambda leaf: placed(leaf, quantities=((0, 1_999), *leaf.stood.placed.quantities[1:])),
            "price of the interval",
        ),
        (lambda leaf: placed(leaf, at=leaf.stood.placed.at + 1), "stood elsewhere"),
        (lambda leaf: placed(leaf, at=leaf.stood.placed.at - 1), "earlier time"),
        (lambda leaf: placed(leaf, quantities=((99, 1),), counted=99, timed=-1), "component"),
        (lambda leaf: replace(leaf, stood=None), "price of the interval"),
        (lambda leaf: stood(leaf, register_to=3_001), "stood elsewhere"),
        (lambda leaf: stood(leaf, statement=leaf.statements[0]), "no reading of this authorization"),
        (lambda leaf: stood(leaf, statement=leaf.statements[1]), "stood elsewhere"),
    ],
)
def test_a_leaf_that_lies_about_where_the_use_stood_proves_nothing(change: Any, rule: str) -> None:
    site = Site(MORNING)
    site.begin()
    site.read("10:00", 3_000)
    site.read("10:30", 6_000)
    batch, leaves = site.seal()
    site.proven(batch, leaves)
    lie = [*leaves[:-1], change(leaf_codec.decode(leaves[-1])).encode()]
    batch.merkle_root = merkle.root(lie)
    with pytest.raises(EvidenceError, match=rule):
        site.proven(batch, lie)


def test_another_edition_of_the_wall_clocks_is_named() -> None:
    site = Site(MORNING)
    site.begin()
    site.read("10:00", 3_000)
    site.read("10:30", 6_000)
    batch, leaves = site.seal()
    batch.time_zone_data = "1999a"
    with pytest.raises(EvidenceError, match="1999a"):
        site.proven(batch, leaves, "America/Los_Angeles")


def test_seconds_that_are_bought_are_priced_where_they_lie() -> None:
    """Two hours are bought at 11:00 in Berlin where parking costs until noon."""
    site = Site([element("TIME", 2, vat=0, end_time="12:00")], at="09:00")
    site.gateway.told(device=Policy.device("c1", tariff_id="day", unit="s", profile="one-shot", rated_per_hour=0))
    site.begin(one_shot=7_200)
    assert site.billed == (2_000_000, 0)
    batch, leaves = site.seal()
    assert verify(
        batch,
        leaves,
        device_key=lambda _device, _key: KEY,
        tariff=lambda _tariff, version: parse(site.documents[version]),
        register=lambda _device, _register, _epoch: RegisterFacts(unit="s", modulus=10**9),
        time_zone="Europe/Berlin",
    )


def test_a_tariff_that_the_register_does_not_fit_refuses() -> None:
    site = Site([element("ENERGY", 1, max_current=32)])
    reply = site.begin()
    assert (reply.status, reply.refusal) == (AnswerStatus.REFUSED, Refusal.TARIFF_MISSING)


def test_without_a_known_wall_clock_nothing_is_granted() -> None:
    site = Site(MORNING)
    site.gateway.state.time_zone = ""
    assert site.begin().refusal is Refusal.TARIFF_MISSING


def test_a_dated_version_takes_over_by_itself_and_a_session_keeps_its_own() -> None:
    # 09:30 UTC on the playbook's day.
    site = Site([element("ENERGY", 0.1, vat=0)])
    site.put(2, [element("ENERGY", 0.5, vat=0)], start_date_time="2026-09-21T10:00:00Z")
    site.put(3, [element("ENERGY", 9.9, vat=0)])
    site.begin()
    site.read("10:30", 2_000)
    assert site.billed == (100_000, 0)
    site.end("10:31", 2_000)
    site.begin()
    # Version 3 has no date: it waits for the device's record.
    assert site.gateway.state.authorizations[site.meter.authorization].tariff == TariffVersion(
        tariff_id="day", version=2
    )


def test_a_version_out_of_force_refuses() -> None:
    site = Site([element("ENERGY", 0.1)], end_date_time="2026-09-21T09:00:00Z")
    assert site.begin().refusal is Refusal.TARIFF_MISSING


MINUTES = st.lists(st.tuples(st.integers(1, 50), st.sampled_from([0, 1, 700, 5_000])), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(
    steps=MINUTES, lost=st.lists(st.booleans(), min_size=6, max_size=6), late=st.booleans(), sealed=st.integers(0, 5)
)
def test_whatever_is_lost_or_late_bills_never_fall_and_everything_is_proven(
    steps: list[tuple[int, int]], lost: list[bool], late: bool, sealed: int
) -> None:
    site = Site(MORNING, at="08:40")
    site.begin()
    at, value, billed, kept = site.gateway.at, site.meter.value, (0, 0), []
    proven: list[VerifiedLeaf] = []
    for number, (minutes, units) in enumerate(steps):
        at, value = Instant(at + minutes * 60 * SECOND_US), value + units
        site.gateway.at = at
        reading = site.meter.reading(site.gateway, value, at=at)
        if lost[number]:
            kept.append(reading)
            continue
        site.say(reading)
        for old in kept if late else ():
            site.say(old)
        assert billed <= site.billed
        assert billed[1] <= site.billed[1]
        billed = site.billed
        if number == sealed and site.gateway.state.unsealed:
            proven += site.proven(*site.seal())
    site.gateway.at = at
    site.say(site.meter.end(site.gateway, value, at=at))
    assert billed <= site.billed
    if site.gateway.state.unsealed:
        proven += site.proven(*site.seal())
        assert (proven[-1].leaf.total_net_micros, proven[-1].leaf.total_tax_micros) == site.billed
    for earlier, later in itertools.pairwise(proven):
        assert follows(earlier, later)
    again = site.gateway.replayed()
    name = site.meter.authorization
    assert again.authorizations[name].placed == site.gateway.state.authorizations[name].placed


def test_an_entry_of_an_older_journal_has_no_placing() -> None:
    """Fields that came later have defaults: what was written before them is read."""
    import cbor2

    from farthing_edge.authorization.events import decode
    from farthing_edge.authorization.events import encode as encode_event

    site = Site([element("ENERGY", 0.1)])
    site.begin()
    site.read("10:00", 2_000)
    metered = next(event for event in site.gateway.journal if isinstance(event, Metered))
    kind, body = encode_event(metered)
    older = cbor2.dumps(cbor2.loads(unpack(body))[:-3])
    assert decode(kind, older) == metered._replace(placed=None, placed_position=0, readings_due=())
