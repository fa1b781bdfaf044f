"""Devices of the simulation: registers of their own, and a word that they keep.

They share nothing with the gateway but the contract. Each counts its own use; what it delivered, priced by the contract, is held
against the ledger at the end. An answer that never comes costs a retry of the same bytes to the same gateway; before a device asks
elsewhere, it signs an end for what it leaves; ends are kept until the cloud has receipted them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from farthing.clock import SECOND_US, Instant
from farthing.device import cose
from farthing.device import messages as m
from farthing.device.messages import AnswerStatus, End, Grant, Intent, Reading, RegisterValue, TariffVersion
from farthing.ids import authorization_id, standing_authorization_id, token_commitment
from farthing.refusal import Refusal
from farthing.tariff import Tariff, Use, price

if TYPE_CHECKING:
    from sim_world import World

SALT = bytes(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An answer as it reaches the device."""

    gateway_id: str
    incarnation: int
    answers: tuple[int, int]
    status: AnswerStatus
    refusal: Refusal | None
    grant: Grant | None
    receipted_counter: int
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A signed statement: the same bytes on every try."""

    statement: Intent | Reading | End
    payload: bytes
    cose: bytes
    token: str | None


@dataclass(slots=True, kw_only=True)
class Kept:
    """An end that the device keeps until it was answered and receipted."""

    said: Said
    answered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What the device says of one authorization, from its own count."""

    start: int
    end: int
    started_at: Instant
    ended_at: Instant
    closing: bool


@dataclass(slots=True)
class Session:
    """An intent under way, then granted."""

    intent: Said
    authorization: bytes
    start: int
    began_at: Instant
    tries: int = 0
    grant: Grant | None = None
    last_reading: Said | None = None


@dataclass
class Device:
    """What every device has."""

    world: World
    device_id: str
    profile: str
    unit: str
    tariff_id: str
    gateways: tuple[str, ...]
    tokens: tuple[str, ...] = ()
    rated_per_hour: int = 22_000
    stoppable: bool = True
    report_interval_s: int = 720
    value: int = 0
    counter: int = 0
    name: str = ""
    incarnations: dict[str, int] = field(default_factory=dict)
    kept: dict[int, Kept] = field(default_factory=dict)
    session: Session | None = None
    #: Authorization → what was delivered under it; only what is over, or cumulative for a standing one.
    delivered: dict[bytes, Delivered] = field(default_factory=dict)
    refusals: dict[Refusal, int] = field(default_factory=dict)
    finishing: bool = False

    def __post_init__(self) -> None:
        self.name = self.name or self.device_id
        self.kid = cose.key_id(self.device_id.encode())
        self.last_wake: Instant = self.world.now

    # ---- statements

    def _head(self, gateway_id: str) -> dict[str, Any]:
        self.counter += 1
        return {
            "recipient": gateway_id,
            "device": self.device_id,
            "device_epoch": 1,
            "counter": self.counter,
            "at": self.world.now,
            "register": RegisterValue(register_id="r1", register_epoch=1, value=self.value),
        }

    def _sign(self, statement: Intent | Reading | End, token: str | None) -> Said:
        payload = m.encode(statement)
        # Nobody here can forge, so nobody checks: a signature is 64 zeros.
        return Said(
            statement=statement,
            payload=payload,
            cose=cose.encode_sign1(self.kid, payload, bytes(64)),
            token=token,
        )

    def _tell(self, said: Said) -> None:
        self.world.device_says(self, said)

    @property
    def tariff(self) -> Tariff:
        return self.world.tariffs[self.tariff_id]

    @property
    def tariff_version(self) -> TariffVersion:
        return TariffVersion(tariff_id=self.tariff_id, version=1)

    def price_of(self, delivered: Delivered) -> tuple[int, int]:
        use = Use(
            unit=self.unit,
            start=delivered.start,
            end=delivered.end,
            started_at=delivered.started_at,
            ended_at=delivered.ended_at,
        )
        priced = price(self.tariff, use, closing=delivered.closing)
        return priced.net_micros, priced.tax_micros

    def is_done(self) -> bool:
        """Nothing under way, and everything it signed last is receipted."""
        return self.session is None and not self.kept

    def twin(self, name: str, gateways: tuple[str, ...]) -> Device:
        """A copy of the element and all it knows, elsewhere. What the original delivered stays the original's."""
        twin = copy.copy(self)
        twin.name = name
        twin.gateways = gateways
        twin.incarnations = dict(self.incarnations)
        twin.kept = {}
        twin.session = None
        twin.delivered = {}
        twin.refusals = {}
        return twin

    # ---- life

    def wake(self) -> None:
        for kept in list(self.kept.values()):
            self._tell(kept.said)
        self._live()
        self.last_wake = self.world.now

    def _live(self) -> None:
        raise NotImplementedError

    def hear(self, heard: Heard) -> None:
        if heard.refusal is not None:
            self.refusals[heard.refusal] = self.refusals.get(heard.refusal, 0) + 1
        kept = self.kept.get(heard.answers[1])
        if kept is not None and heard.status is AnswerStatus.RECORDED:
            kept.answered = True
        # A gateway cannot receipt what it never heard: an end counts once it was itself answered.
        for counter, kept in list(self.kept.items()):
            mine = kept.said.statement.recipient == heard.gateway_id
            if mine and kept.answered and counter <= heard.receipted_counter:
                del self.kept[counter]
        self._hear(heard)

    def _hear(self, heard: Heard) -> None:
        raise NotImplementedError

    # ---- intents, shared by sessions and one-shot uses

    def _ask(self, **fields: Any) -> None:
        gateway_id = self.world.rng.choice(self.gateways)
        token = self.world.rng.choice(self.tokens)
        intent = Intent(
            **self._head(gateway_id),
            commitment=token_commitment(token.encode(), SALT),
            incarnation=self.incarnations.get(gateway_id, 1),
            **fields,
        )
        name = authorization_id(intent.device, 1, intent.counter, intent.recipient)
        said = self._sign(intent, token)
        self.session = Session(said, name, self.value, self.world.now)
        self._tell(said)

    def _is_answer_to_intent(self, heard: Heard) -> bool:
        return self.session is not None and self.session.intent.statement.counter == heard.answers[1]

    def _refused(self, heard: Heard) -> bool:
        """Whether the intent got a no that ends it."""
        if heard.status is AnswerStatus.AGAIN:
            self.incarnations[heard.gateway_id] = heard.incarnation
            return True
        return heard.status is AnswerStatus.REFUSED

    def _leave(self, *, ended_at: Instant | None = None) -> None:
        """Sign the end of the session at the register's value and keep it."""
        session = self.session
        assert session is not None
        intent = session.intent.statement
        assert isinstance(intent, Intent)
        granted = session.grant is not None
        end = End(
            **self._head(intent.recipient),
            commitment=intent.commitment,
            authorization=session.authorization,
            tariff=self.tariff_version if granted else None,
        )
        assert granted or self.value == session.start
        said = self._sign(end, None)
        self.kept[end.counter] = Kept(said=said)
        self.delivered[session.authorization] = Delivered(
            start=session.start, end=self.value, started_at=intent.at, ended_at=ended_at or end.at, closing=True
        )
        self.session = None
        self._tell(said)


@dataclass
class SessionDevice(Device):
    """Asks, is told a limit, reads, ends: chargers and parking bays."""

    patience: int = 4

    def _live(self) -> None:
        session, rng = self.session, self.world.rng
        if session is None:
            # Most wait for their end to be heard; some ask again at once, at whichever gateway.
            if not self.finishing and rng.random() < 0.6:
                self._ask(wanted=rng.choice((None, None, 3_000, 500)))
            return
        if session.grant is None:
            session.tries += 1
            if session.tries > self.patience or (self.finishing and session.tries > 1):
                self._leave()
            else:
                self._tell(session.intent)
            return
        used = self._use(session)
        if self.finishing or (not used and rng.random() < 0.5) or rng.random() < 0.12:
            self._leave()
        elif rng.random() < 0.8:
            self._read(session)
        elif session.last_reading is not None:
            self._tell(session.last_reading)

    def _use(self, session: Session) -> bool:
        assert session.grant is not None
        elapsed_s = (self.world.now - self.last_wake) / SECOND_US
        most = int(self.rated_per_hour * elapsed_s / 3600)
        used = self.world.rng.randint(0, max(0, most))
        if self.stoppable:
            used = min(used, max(0, session.grant.limit - self.value))
        self.value += used
        return used > 0

    def _read(self, session: Session) -> None:
        intent = session.intent.statement
        assert isinstance(intent, Intent)
        reading = Reading(
            **self._head(intent.recipient),
            commitment=intent.commitment,
            authorization=session.authorization,
            tariff=self.tariff_version,
        )
        session.last_reading = self._sign(reading, None)
        self._tell(session.last_reading)

    def _hear(self, heard: Heard) -> None:
        session = self.session
        if session is None:
            return
        if session.grant is None and self._is_answer_to_intent(heard) and self._refused(heard):
            self.session = None
            return
        grant = heard.grant
        if grant is None or grant.authorization != session.authorization:
            return
        # The newest word counts: positions only grow.
        if session.grant is None or grant.witness.position > session.grant.witness.position:
            session.grant = grant


@dataclass
class OneShotDevice(Device):
    """A toll transponder: the barrier opens when it hears yes, so it asks until it hears something."""

    def _live(self) -> None:
        if self.session is not None:
            self._tell(self.session.intent)
        elif not self.finishing and self.world.rng.random() < 0.5:
            self._ask(one_shot=1)

    def _hear(self, heard: Heard) -> None:
        session = self.session
        if session is None or not self._is_answer_to_intent(heard):
            return
        if heard.status is AnswerStatus.GRANTED:
            self.delivered[session.authorization] = Delivered(
                start=session.start,
                end=session.start + 1,
                started_at=session.intent.statement.at,
                ended_at=session.intent.statement.at,
                closing=True,
            )
            self.value += 1
            self.session = None
        elif self._refused(heard):
            self.session = None


@dataclass
class StandingDevice(Device):
    """A smart meter: told yes once and for all; says its next reading when the one before was heard."""

    reading: Said | None = None

    def _live(self) -> None:
        if self.reading is not None:
            self._tell(self.reading)
            return
        if self.finishing:
            return
        elapsed_s = (self.world.now - self.last_wake) / SECOND_US
        self.value += self.world.rng.randint(0, max(0, int(self.rated_per_hour * elapsed_s / 3600)))
        reading = Reading(**self._head(self.gateways[0]), tariff=self.tariff_version)
        self.reading = self._sign(reading, None)
        self._tell(self.reading)

    def is_done(self) -> bool:
        return self.reading is None

    def _hear(self, heard: Heard) -> None:
        if self.reading is None or heard.answers[1] != self.reading.statement.counter:
            return
        assert heard.status is AnswerStatus.RECORDED, heard
        statement = self.reading.statement
        name = standing_authorization_id(self.device_id, 1, "r1", 1, statement.recipient)
        before = self.delivered.get(name)
        self.delivered[name] = Delivered(
            start=before.start if before else statement.register.value,
            end=statement.register.value,
            started_at=before.started_at if before else statement.at,
            ended_at=statement.at,
            closing=False,
        )
        self.reading = None
