"""Two implementations that share only the contract: the device's core against the gateway's, in the same storms.

What the device delivered by its own count must be what the gateway's usage records bill, authorization by authorization.
"""

import hashlib
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import Answer, AnswerStatus, ChainTick, Grant, Intent, Witness, decode_statement
from farthing.evidence.batches import ZERO_HASH, batch_hash
from farthing.ids import GatewayId, TokenRef
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.commands import DeviceStatement, Reply
from farthing_edge.authorization.deciding import decide
from farthing_edge.authorization.events import Sealed
from farthing_edge.authorization.state import CoreSettings, GatewayState
from farthing_firmware_sim.device.values import Moment, Profile

DAY = 1_772_420_400 * SECOND_US
REF = TokenRef(hashlib.sha256(b"anna").digest())
PROFILES = {
    Profile.SESSION: directive_pb2.DEVICE_PROFILE_SESSION,
    Profile.ONE_SHOT: directive_pb2.DEVICE_PROFILE_ONE_SHOT,
    Profile.STANDING: directive_pb2.DEVICE_PROFILE_STANDING,
}
TARIFF_JSON = (
    b'{"id": "charge", "currency": "EUR", "elements": [{"price_components":'
    b' [{"type": "ENERGY", "price": 0.40, "vat": 20.0, "step_size": 1}]}]}'
)
TOLL_JSON = (
    b'{"id": "charge", "currency": "EUR", "elements": [{"price_components":'
    b' [{"type": "UNIT", "price": 1.20, "vat": 20.0, "step_size": 1}]}]}'
)


@dataclass
class EdgeCore:
    """The gateway's pure core as the storm's gateway: hears payloads, answers, seals, is receipted."""

    gateway: str
    profile: Profile
    stoppable: bool
    quota_micros: int
    refuse_next: Refusal | None = None
    receipting: bool = True
    version: int = 0
    hash: bytes = ZERO_HASH
    now: Instant = field(default=Instant(DAY))
    claims: dict[bytes, batch_pb2.Claim] = field(default_factory=dict)
    modulus: int = 10**9
    #: Records that rest on a tick.
    ticked: int = 0

    def __post_init__(self) -> None:
        self.state = GatewayState(
            CoreSettings(gateway_id=GatewayId(self.gateway), clock_epoch_us=DAY, clock_real_epoch_us=0, clock_rate=900)
        )
        self._do(
            commands.Started(
                start_id=bytes(16), boot_id="boot", clock_epoch_us=DAY, clock_real_epoch_us=0, clock_rate=900
            )
        )
        self._told(
            welcome=directive_pb2.Welcome(
                operator_id="op", site_id="s", incarnation=1, receipt_keys=[b"key"], time_zone="Europe/Berlin"
            )
        )
        one_shot = self.profile is Profile.ONE_SHOT
        ocpi = TOLL_JSON if one_shot else TARIFF_JSON
        self._told(tariff=directive_pb2.TariffRecord(tariff_id="charge", version=1, currency="EUR", ocpi_json=ocpi))
        active = directive_pb2.ACCOUNT_STATUS_ACTIVE
        self._told(account=directive_pb2.AccountRecord(account_id="anna", currency="EUR", status=active))
        self._told(token=directive_pb2.TokenRecord(token_ref=REF, key_epoch=1, token_id="i", account_id="anna"))
        self._told(
            quota_granted=directive_pb2.QuotaGranted(
                quota_id="q-1",
                account_id="anna",
                currency="EUR",
                amount_micros=self.quota_micros,
                spend_until_us=DAY + 10**15,
                report_until_us=DAY + 2 * 10**15,
                incarnation=1,
            )
        )
        register = directive_pb2.RegisterRecord(
            register_id="1",
            register_epoch=1,
            unit="passage" if one_shot else "Wh",
            modulus=self.modulus,
            rated_per_hour=11_000,
        )
        self._told(
            device=directive_pb2.DeviceRecord(
                device_id="charge-1",
                status=directive_pb2.DEVICE_STATUS_ACTIVE,
                device_epoch=1,
                profile=PROFILES[self.profile],
                statement_key=b"",
                registers=[register],
                tariff_id="charge",
                tariff_version=1,
                report_interval_s=900,
                standing_account_id="anna" if self.profile is Profile.STANDING else "",
                stoppable=self.stoppable,
            )
        )
        self._do(commands.HeadArrived(version=self.state.directive_version, at=self.now))

    def hear(self, payload: bytes) -> tuple[Answer, Grant | None]:
        statement = decode_statement(payload)
        self.now = max(self.now, statement.at)
        reply = self._do(
            DeviceStatement(
                statement=statement,
                cose=b"\x84" + payload,
                payload=payload,
                token_ref=REF if isinstance(statement, Intent) and self.refuse_next is None else None,
                key_epoch=1,
            )
        ).reply
        self.refuse_next = None
        assert reply is not None
        return self._answered(reply)

    def hear_tick(self, device: str, tick: ChainTick, at: Moment) -> tuple[Answer, Grant | None] | None:
        self.now = max(self.now, at.business_us)
        shown = ((tick.index, tick.preimage),)
        reply = self._do(commands.TicksArrived(device=device, authorization=tick.authorization, shown=shown)).reply
        return None if reply is None else self._answered(reply)

    def _answered(self, reply: Reply) -> tuple[Answer, Grant | None]:
        self.ticked += sum(1 for record in self.state.unsealed if record.tick is not None)
        self._seal()
        device = self.state.devices[reply.device]
        grant = None
        if reply.grant_of is not None:
            grant = self.state.authorizations[reply.grant_of].grant(self.state.gateway_id)
            assert grant is not None
        answer = Answer(
            gateway=GatewayId(self.gateway),
            witness=Witness(
                incarnation=self.state.incarnation, start_id=self.state.start_id, position=self.state.position
            ),
            answers=reply.answers,
            status=reply.status,
            receipted_counter=device.receipted_counter(self.state.receipted_position),
            refusal=reply.refusal,
            # The signed bytes of it are the channel's; the core is handed the opened grant.
            grant=b"opened by the test" if reply.status is AnswerStatus.GRANTED else None,
            closed=reply.closed,
            ticked=reply.ticked,
        )
        return answer, grant

    def _seal(self) -> None:
        for event in self._do(commands.SealDue()).events:
            assert isinstance(event, Sealed)
            batch = batch_pb2.Batch.FromString(event.batch)
            for claim in batch.claims:
                self.claims[claim.authorization_id] = claim
        if self.receipting and self.state.batches:
            newest = max(self.state.batches)
            receipt = batch_pb2.Receipt(
                gateway_id=self.gateway,
                incarnation=1,
                sequence=newest,
                batch_hash=self.state.batches[newest].batch_hash,
            )
            self._do(commands.ReceiptArrived(receipt=receipt, raw=b"receipt"))

    def _told(self, **body: object) -> None:
        self.version += 1
        directive = directive_pb2.Directive(
            gateway_id=self.gateway, version=self.version, previous_hash=self.hash, dated_at_us=DAY, **body
        )
        raw = directive.SerializeToString(deterministic=True)
        self.hash = batch_hash(raw)
        self._do(commands.DirectiveArrived(body=directive, raw=raw, signature=bytes(64), key_id=bytes(8)))

    def _do(self, command):
        decision = decide(self.state, command, now=self.now)
        for event in decision.events:
            apply(self.state, event)
        return decision


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(0, 400),
    profile=st.sampled_from(list(Profile)),
    stoppable=st.booleans(),
    two=st.booleans(),
    euros=st.sampled_from([0, 1, 2, 10, 1_000]),
)
def test_what_is_delivered_is_claimed(seed, length, profile, stoppable, two, euros, storm, day, nameplate, at, plan):
    names = ("gw-1", "gw-2") if two and profile is not Profile.STANDING else ("gw-1",)
    gateways = {
        name: EdgeCore(gateway=name, profile=profile, stoppable=stoppable, quota_micros=euros * 10**6 or 1)
        for name in names
    }
    world = storm(plate=nameplate(profile, stoppable=stoppable), gateways=gateways, at=at, plan=plan, start=812_340)
    for op in day(seed, length):
        world.do(op)
    world.calm_down()

    assert not [each for each in world.state.kept if each.refused is not None]
    claimed = {
        name: claim for gateway in gateways.values() for name, claim in gateway.claims.items() if claim.register_to
    }
    if profile is Profile.STANDING:
        standing = world.state.standing
        moved = standing.recorded - standing.baseline
        assert sum(claim.register_to - claim.register_from for claim in claimed.values()) == moved
        return
    delivered = {use_name(use): (use.start, use.end) for use in world.finished if use.end != use.start}
    assert {
        name: (claim.register_from, claim.register_to)
        for name, claim in claimed.items()
        if claim.register_to != claim.register_from
    } == delivered
    for gateway in gateways.values():
        assert all(each.closed for each in gateway.state.authorizations.values())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(100, 400),
    unit=st.sampled_from([1, 7, 50]),
    euros=st.sampled_from([1, 10, 1_000]),
)
def test_what_ticks_is_claimed_as_it_was_delivered(seed, length, unit, euros, storm, day, nameplate, at, plan):
    gateway = EdgeCore(gateway="gw-1", profile=Profile.SESSION, stoppable=True, quota_micros=euros * 10**6)
    plate = nameplate(unit_per_tick=unit)
    world = storm(plate=plate, gateways={"gw-1": gateway}, at=at, plan=plan, start=812_340)
    for op in day(seed, length):
        world.do(op)
    world.calm_down()
    assert not [each for each in world.state.kept if each.refused is not None]
    _claims_are_what_was_delivered(gateway, world, plate.modulus)


def test_a_long_use_by_ticks_rests_on_ticks(storm, nameplate, at, plan):
    """Several chains, most of its records proven by a hash and none by a reading."""
    gateway = EdgeCore(gateway="gw-1", profile=Profile.SESSION, stoppable=True, quota_micros=10**9)
    plate = nameplate(unit_per_tick=2)
    world = storm(plate=plate, gateways={"gw-1": gateway}, at=at, plan=plan, start=812_340)
    world.do(("arrive", 200))
    for _ in range(400):
        world.do(("time", 20))
        world.do(("hear", 0))
        world.do(("answer", 0))
    world.calm_down()
    kinds = {decode_statement(payload).kind for _, payload in world.contents.values()}
    assert kinds == {"intent", "chain", "end"}
    assert sum(decode_statement(payload).kind == "chain" for _, payload in world.contents.values()) == 3
    assert gateway.ticked >= 2
    _claims_are_what_was_delivered(gateway, world, plate.modulus)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), length=st.integers(100, 400), start=st.integers(0, 19_999))
def test_a_register_that_comes_round_is_claimed_once(seed, length, start, storm, day, nameplate, at, plan):
    modulus = 20_000
    gateway = EdgeCore(gateway="gw-1", profile=Profile.SESSION, stoppable=True, quota_micros=10**9, modulus=modulus)
    world = storm(plate=nameplate(modulus=modulus), gateways={"gw-1": gateway}, at=at, plan=plan, start=start)
    for op in day(seed, length):
        world.do(op)
    world.calm_down()
    _claims_are_what_was_delivered(gateway, world, modulus)


def _claims_are_what_was_delivered(gateway: EdgeCore, world, modulus: int) -> None:
    """Each use's interval as the device counted it, and no two that overlap."""
    delivered = {
        use_name(use): (use.start, (use.end - use.start) % modulus) for use in world.finished if use.end != use.start
    }
    claims = {name: claim for name, claim in gateway.claims.items() if claim.register_to != claim.register_from}
    assert {
        name: (claim.register_from % modulus, claim.register_to - claim.register_from) for name, claim in claims.items()
    } == delivered
    intervals = sorted((claim.register_from, claim.register_to) for claim in claims.values())
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(intervals))
    assert all(each.closed for each in gateway.state.authorizations.values())


def use_name(use) -> bytes:
    return bytes(use.authorization)


@pytest.mark.parametrize("profile", list(Profile))
def test_the_two_cores_understand_each_other(profile, storm, nameplate, at, plan):
    world = storm(
        plate=nameplate(profile),
        gateways={"gw-1": EdgeCore(gateway="gw-1", profile=profile, stoppable=True, quota_micros=10**9)},
        at=at,
        plan=plan,
        start=812_340,
    )
    for op in [("time", 1), ("arrive", 50), ("hear", 0), ("answer", 0), ("time", 900), ("hear", 0), ("answer", 0)]:
        world.do(op)
    world.calm_down()
    assert not world.refused
    assert world.gateways["gw-1"].claims
