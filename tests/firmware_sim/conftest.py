"""A gateway small enough to read: what a device may expect, told by the protocol's own words, without farthing_edge."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

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
from farthing_firmware_sim.device.state import is_finished, new_state, restored
from farthing_firmware_sim.device.step import step
from farthing_firmware_sim.device.stored import dump, load
from farthing_firmware_sim.device.values import (
    Answered,
    Arrive,
    Draw,
    Finish,
    Finished,
    Input,
    Moment,
    Nameplate,
    Plan,
    Profile,
    Reconnected,
    RefusedIntent,
    RetryPolicy,
    Send,
    Tick,
)

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
    readings_due: tuple[Instant, ...] = ()
    #: How long after its intent's instant a yes lapses; None: never.
    lapse_us: int | None = None
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
            readings_due=self.readings_due,
            lapses_at=None if self.lapse_us is None else Instant(intent.at + self.lapse_us),
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


def make_nameplate(
    profile: Profile = Profile.SESSION, *, stoppable: bool = True, modulus: int = 10**9, unit_per_tick: int = 0
) -> Nameplate:
    """A charger, or the same box with another profile."""
    standing = profile is Profile.STANDING
    return Nameplate(
        device=DeviceId("charge-1"),
        device_epoch=1,
        profile=profile,
        register_id=RegisterId("1"),
        register_epoch=1,
        unit="Wh",
        modulus=modulus,
        unit_per_tick=unit_per_tick,
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
        chain_secret=b"c" * 32,
    )


COMMITMENT = token_commitment(b"anna-card", bytes(16))


def moment(seconds: float = 0, *, real_s: float | None = None) -> Moment:
    """``seconds`` of business time after nine in the morning; real time runs 900 times slower unless said otherwise."""
    business_us = int(seconds * SECOND_US)
    return Moment(
        business_us=Instant(1_772_420_400 * SECOND_US + business_us),
        real_us=business_us // 900 if real_s is None else int(real_s * SECOND_US),
    )


@dataclass
class Storm:
    """A device, one or two gateways, and what is in the air between them."""

    plate: Nameplate
    gateways: dict[str, Any]
    at: Callable[..., Moment]
    plan: Callable[..., Any]
    start: int
    seconds: float = 0
    up: list[Send] = field(default_factory=list)
    down: list[tuple[str, Answer, Grant | None]] = field(default_factory=list)
    contents: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    finished: list[Finished] = field(default_factory=list)
    refused: list[RefusedIntent] = field(default_factory=list)
    ticks: int = 0

    def __post_init__(self) -> None:
        self.state = new_state(self.plate, register_value=self.start, now=self.at(0))
        self.stored = dump(self.state, self.plate.profile)

    def give(self, given: Input) -> None:
        before = self.state
        outcome = step(self.plate, before, given, now=self.at(self.seconds))
        self.state = outcome.state
        if outcome.durable:
            self.stored = dump(self.state, self.plate.profile)
        for send in outcome.sends:
            # What is sent was stored: a power cut now must find the counter passed.
            assert load(self.stored).next_counter > send.counter
            content = (str(send.gateway), send.payload)
            assert self.contents.setdefault(send.counter, content) == content
            statement = decode_statement(send.payload)
            assert statement.recipient == send.gateway
            assert (send.token is not None) == isinstance(statement, Intent)
        for shown in outcome.ticks:
            # Its place in the chain was stored before it was shown, and one in three is lost.
            kept = load(self.stored).use
            assert kept is not None
            assert kept.chain is not None
            assert kept.chain.shown >= shown.tick.index
            self.ticks += 1
            if self.ticks % 3:
                heard = self.gateways[shown.gateway].hear_tick(self.plate.device, shown.tick, self.at(self.seconds))
                if heard is not None:
                    self.down.append((shown.gateway, *heard))
        self.up.extend(outcome.sends)
        for event in outcome.events:
            if isinstance(event, Finished):
                self.finished.append(event)
            elif isinstance(event, RefusedIntent):
                self.refused.append(event)
        use = self.state.use
        if use is not None and self.plate.stoppable and self.plate.profile is Profile.SESSION:
            assert use.used <= use.covered

    def do(self, op: tuple[str, int]) -> None:
        kind, number = op
        match kind:
            case "time":
                self.seconds += number
                self.give(Tick())
            case "arrive":
                names = tuple(GatewayId(name) for name in self.gateways)
                if self.plate.profile is Profile.STANDING:
                    self.give(Draw(rate_per_hour=number * 50))
                elif self.plate.profile is Profile.ONE_SHOT:
                    self.give(Arrive(plan=self.plan(target=1, gateways=names[number % len(names) :][:1])))
                else:
                    self.give(Arrive(plan=self.plan(target=100 + number * 20, gateways=names)))
            case "hear" | "hear twice" if self.up:
                index = number % len(self.up)
                send = self.up[index] if kind == "hear twice" else self.up.pop(index)
                answer, grant = self.gateways[send.gateway].hear(send.payload)
                self.down.append((send.gateway, answer, grant))
            case "answer" | "answer twice" if self.down:
                index = number % len(self.down)
                gateway, answer, grant = self.down[index] if kind == "answer twice" else self.down.pop(index)
                self.give(Answered(gateway=GatewayId(gateway), answer=answer, grant=grant))
            case "lose" if self.up:
                self.up.pop(number % len(self.up))
            case "lose answer" if self.down:
                self.down.pop(number % len(self.down))
            case "power cut":
                self.state = restored(load(self.stored), now=self.at(self.seconds))
                # Delivered since the last thing it said or heard, and unsigned: a meter that lost its power counts on from there.
            case "refuse":
                next(iter(self.gateways.values())).refuse_next = Refusal.QUOTA_EXHAUSTED
            case "no receipts":
                for each in self.gateways.values():
                    each.receipting = number % 2 == 0
            case "reconnect":
                for name in self.gateways:
                    self.give(Reconnected(gateway=GatewayId(name)))
            case _:
                pass

    def calm_down(self) -> None:
        """The network is good from now on: everything is said and answered."""
        for each in self.gateways.values():
            each.receipting, each.refuse_next = True, None
        self.give(Finish())
        for _ in range(400):
            if is_finished(self.state):
                return
            self.seconds += 900
            self.give(Tick())
            while self.up:
                self.do(("hear", 0))
            while self.down:
                self.do(("answer", 0))
        raise AssertionError(f"not finished: {self.state}")


#: (what, how often): mostly a day at work, now and then a blow.
OPS = {
    "time": 30, "hear": 30, "answer": 30, "arrive": 8, "hear twice": 4, "answer twice": 4, "lose": 3, "lose answer": 3,
    "power cut": 1, "refuse": 1, "no receipts": 1, "reconnect": 1,
}  # fmt: skip


def a_day(seed: int, length: int) -> Iterator[tuple[str, int]]:
    """Ops from a seed: hypothesis chooses the seed, so that a day is long enough for sessions to end in it."""
    lot = random.Random(seed)
    for _ in range(length):
        kind = lot.choices(list(OPS), list(OPS.values()))[0]
        yield kind, lot.randint(0, 300) if kind == "time" else lot.choice((0, 0, 0, lot.randint(0, 200)))


@pytest.fixture
def storm() -> type[Storm]:
    return Storm


@pytest.fixture
def day() -> Callable[..., Iterator[tuple[str, int]]]:
    return a_day


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
