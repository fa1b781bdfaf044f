"""A gateway small enough to read: what a device may expect, told by the protocol's own words, without farthing_edge."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import (
    Answer,
    AnswerStatus,
    End,
    Grant,
    Held,
    Intent,
    Reading,
    Statement,
    TariffVersion,
    Witness,
    decode_statement,
)
from farthing.ids import (
    AuthorizationId,
    DeviceId,
    GatewayId,
    QuotaId,
    RegisterId,
    StartId,
    TariffId,
    authorization_id,
    token_commitment,
)
from farthing.money import Currency
from farthing.refusal import Refusal
from farthing_firmware_sim.device.values import Moment, Nameplate, Plan, Profile, RetryPolicy

TARIFF = TariffVersion(tariff_id=TariffId("charge"), version=1)
GATEWAY = GatewayId("gw-1")


@dataclass
class Open:
    """An authorization as the fake gateway knows it."""

    intent: Intent
    claimed: int
    limit: int
    closed: bool = False
    last_counter: int = 0


@dataclass
class FakeGateway:
    """Answers statements by the rules a device relies on. ``step`` units are covered at a time, out of ``budget``."""

    gateway: GatewayId = GATEWAY
    incarnation: int = 1
    step: int = 1_000
    budget: int = 10**9
    refuse_next: Refusal | None = None
    position: int = 0
    receipting: bool = True
    modulus: int = 10**9
    open: dict[AuthorizationId, Open] = field(default_factory=dict)
    cancelled: set[AuthorizationId] = field(default_factory=set)
    seen: dict[int, tuple[bytes, Answer, Grant | None]] = field(default_factory=dict)
    standing: list[tuple[int, int]] = field(default_factory=list)
    recorded: int = 0

    def hear(self, payload: bytes) -> tuple[Answer, Grant | None]:
        """The answer to a statement's payload (its signature was checked by whoever called)."""
        statement = decode_statement(payload)
        assert statement.recipient == self.gateway
        self.position += 1
        known = self.seen.get(statement.counter)
        if known is not None:
            assert known[0] == payload, "one counter, two contents"
            answer, grant = known[1], known[2]
            if isinstance(statement, Intent) and grant is not None:
                grant = self._grant(self.open[grant.authorization])
            return replace(answer, witness=self._witness(), receipted_counter=self._receipted()), grant
        answer, grant = self._decide(statement)
        if answer.status not in (AnswerStatus.LATER, AnswerStatus.AGAIN):
            self.seen[statement.counter] = (payload, answer, grant)
            self.recorded = max(self.recorded, statement.counter)
        return replace(answer, receipted_counter=self._receipted()), grant

    def _decide(self, statement: Statement) -> tuple[Answer, Grant | None]:
        if isinstance(statement, Intent):
            return self._intent(statement)
        if isinstance(statement, End):
            return self._end(statement)
        return self._reading(statement)

    def _intent(self, intent: Intent) -> tuple[Answer, Grant | None]:
        name = authorization_id(intent.device, intent.device_epoch, intent.counter, self.gateway)
        if intent.incarnation != self.incarnation:
            return self._no(intent, AnswerStatus.AGAIN, Refusal.INCARNATION_DIFFERS), None
        if name in self.cancelled:
            return self._no(intent, AnswerStatus.REFUSED, Refusal.INTENT_ENDED), None
        if self.refuse_next is not None:
            refusal, self.refuse_next = self.refuse_next, None
            return self._no(intent, AnswerStatus.REFUSED, refusal), None
        if any(not each.closed for each in self.open.values()):
            return self._no(intent, AnswerStatus.REFUSED, Refusal.REGISTER_BUSY), None
        one_shot = intent.one_shot or 0
        cover = one_shot or min(self.step, self.budget)
        if cover == 0:
            return self._no(intent, AnswerStatus.REFUSED, Refusal.QUOTA_EXHAUSTED), None
        self.budget -= cover
        self.open[name] = Open(intent=intent, claimed=one_shot, limit=cover, closed=bool(one_shot))
        grant = self._grant(self.open[name])
        return self._yes(intent, AnswerStatus.GRANTED, closed=bool(one_shot)), grant

    def _reading(self, reading: Reading) -> tuple[Answer, Grant | None]:
        if reading.authorization is None:
            self.standing.append((reading.counter, reading.register.value))
            return self._yes(reading, AnswerStatus.RECORDED), None
        found = self.open.get(reading.authorization)
        if found is None:
            return self._no(reading, AnswerStatus.AGAIN, Refusal.AUTHORIZATION_UNKNOWN), None
        if found.closed or reading.counter < found.last_counter:
            return self._yes(reading, AnswerStatus.RECORDED, closed=found.closed), None
        used = self._used(found, reading)
        assert used >= found.claimed, "a register never goes back"
        found.claimed, found.last_counter = used, reading.counter
        more = min(self.step - (found.limit - used), self.budget)
        if more > 0:
            found.limit += more
            self.budget -= more
        return self._yes(reading, AnswerStatus.RECORDED), self._grant(found)

    def _end(self, end: End) -> tuple[Answer, Grant | None]:
        found = self.open.get(end.authorization)
        if found is None:
            self.cancelled.add(end.authorization)
        elif not found.closed:
            found.claimed, found.closed = self._used(found, end), True
        return self._yes(end, AnswerStatus.RECORDED, closed=True), None

    def _used(self, found: Open, statement: Reading | End) -> int:
        return (statement.register.value - found.intent.register.value) % self.modulus

    def _grant(self, found: Open) -> Grant:
        intent = found.intent
        return Grant(
            recipient=intent.device,
            gateway=self.gateway,
            witness=self._witness(),
            at=intent.at,
            authorization=authorization_id(intent.device, intent.device_epoch, intent.counter, self.gateway),
            intent_epoch=intent.device_epoch,
            intent_counter=intent.counter,
            tariff=TARIFF,
            register_id=intent.register.register_id,
            register_epoch=intent.register.register_epoch,
            start=intent.register.value,
            limit=(intent.register.value + found.limit) % self.modulus,
            held=(Held(quota_id=QuotaId("q-1"), amount_micros=1),),
            currency=Currency("EUR"),
            net_micros=0,
            tax_micros=0,
            report_interval_s=900,
            commitment=intent.commitment,
        )

    def _yes(self, statement: Statement, status: AnswerStatus, *, closed: bool = False) -> Answer:
        # A grant's bytes are whatever the channel of the test carries; the core is handed the opened grant.
        needs = status is AnswerStatus.GRANTED
        return Answer(
            gateway=self.gateway,
            witness=self._witness(),
            answers=(statement.device_epoch, statement.counter),
            status=status,
            receipted_counter=0,
            grant=b"opened by the test" if needs else None,
            closed=closed,
        )

    def _no(self, statement: Statement, status: AnswerStatus, refusal: Refusal) -> Answer:
        return Answer(
            gateway=self.gateway,
            witness=self._witness(),
            answers=(statement.device_epoch, statement.counter),
            status=status,
            refusal=refusal,
            receipted_counter=0,
        )

    def _witness(self) -> Witness:
        return Witness(incarnation=self.incarnation, start_id=StartId(bytes(16)), position=self.position)

    def _receipted(self) -> int:
        return self.recorded if self.receipting else 0


def make_nameplate(profile: Profile = Profile.SESSION, *, stoppable: bool = True) -> Nameplate:
    """A charger, or the same box with another profile."""
    standing = profile is Profile.STANDING
    return Nameplate(
        device=DeviceId("charge-1"),
        device_epoch=1,
        profile=profile,
        register_id=RegisterId("1"),
        register_epoch=1,
        unit="Wh",
        modulus=10**9,
        rated_per_hour=11_000,
        report_interval_us=900 * SECOND_US,
        stoppable=stoppable,
        tariffs=frozenset({TARIFF}),
        standing_gateway=GATEWAY if standing else None,
        standing_tariff=TARIFF if standing else None,
        retry=RetryPolicy(first_us=400_000, most_us=3_000_000, receipt_us=2_000_000),
    )


def make_plan(
    *,
    gateways: tuple[GatewayId, ...] = (GATEWAY,),
    target: int = 5_500,
    stay_s: int = 3_600,
    patience_real_us: int | None = 6_000_000,
    elsewhere_real_us: int | None = 1_000_000,
) -> Plan:
    """A car that takes ``target`` Wh at 11 kW and stays an hour."""
    return Plan(
        token=b"anna-card",
        salt=bytes(16),
        trace_id=b"t" * 16,
        gateways=gateways,
        target=target,
        rate_per_hour=11_000,
        stay_us=stay_s * SECOND_US,
        patience_real_us=patience_real_us,
        elsewhere_real_us=elsewhere_real_us,
        wanted=None,
        source="test",
    )


COMMITMENT = token_commitment(b"anna-card", bytes(16))


def moment(seconds: float = 0, *, real_s: float | None = None) -> Moment:
    """``seconds`` of business time after nine in the morning; real time runs 900 times slower unless said otherwise."""
    business_us = int(seconds * SECOND_US)
    return Moment(
        business_us=Instant(1_772_420_400 * SECOND_US + business_us),
        real_us=business_us // 900 if real_s is None else int(real_s * SECOND_US),
    )


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def new_gateway() -> Callable[..., FakeGateway]:
    return FakeGateway


@pytest.fixture
def nameplate() -> Callable[..., Nameplate]:
    return make_nameplate


@pytest.fixture
def plan() -> Callable[..., Plan]:
    return make_plan


@pytest.fixture
def at() -> Callable[..., Moment]:
    return moment
