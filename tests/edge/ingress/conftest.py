"""A site's parties from a real ceremony, a real broker, and an engine that writes down what it hears."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from recording_engine import RecordingEngine

from farthing.clock import Instant
from farthing.device.cose import VerifyingKey, encode_sign1, key_id, to_be_signed
from farthing.device.messages import (
    Answer,
    Envelope,
    Grant,
    Intent,
    Reading,
    RegisterValue,
    Statement,
    TariffVersion,
    Witness,
    encode,
)
from farthing.hsm import Hsm, Party, Token
from farthing.ids import AuthorizationId, DeviceId, GatewayId, RegisterId, StartId, TariffId, token_commitment
from farthing_edge.authorization.commands import DeviceStatement
from farthing_edge.broker import BrokerFiles, write_broker
from farthing_edge.config import LimitsSection
from farthing_edge.ingress.guard import RubbishRing
from farthing_edge.ingress.statements import StatementDoor
from farthing_edge.metrics import Metrics
from farthing_hsm_sim.ceremony import Parties, hold
from farthing_hsm_sim.plan import Plan

GATEWAY = GatewayId("gw-1")
METER = DeviceId("meter-1")
SITE_KEY = "site-S1-1"
WITNESS = Witness(incarnation=3, start_id=StartId(b"s" * 16), position=42)
CARD = b"card 0001"
SALT = b"0123456789abcdef"


@dataclass(frozen=True)
class SoftElement:
    """A device's statement key, in memory: these tests are about the gateway."""

    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def spki(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, statement: Statement | Grant) -> bytes:
        payload = encode(statement)
        der = self.private.sign(to_be_signed(statement.kind, statement.recipient, payload), ec.ECDSA(SHA256()))
        r, s = decode_dss_signature(der)
        return encode_sign1(key_id(self.spki), payload, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


#: What signs this gateway's grants: in memory, as no test here is about a token's.
GRANTER = SoftElement()
GRANT_KEY = VerifyingKey.from_spki(GRANTER.spki)


def intent(counter: int = 1, *, device: str = METER, recipient: str = GATEWAY, token: bytes = CARD) -> Intent:
    return Intent(
        recipient=GatewayId(recipient),
        device=DeviceId(device),
        device_epoch=1,
        counter=counter,
        at=Instant(5),
        register=RegisterValue(register_id=RegisterId("bay"), register_epoch=1, value=0),
        commitment=token_commitment(token, SALT),
        incarnation=3,
    )


def reading(counter: int) -> Reading:
    return Reading(
        recipient=GATEWAY,
        device=METER,
        device_epoch=1,
        counter=counter,
        at=Instant(6),
        register=RegisterValue(register_id=RegisterId("bay"), register_epoch=1, value=1),
        commitment=bytes(32),
        authorization=AuthorizationId(bytes(16)),
        tariff=TariffVersion(tariff_id=TariffId("t"), version=1),
    )


def envelope(element: SoftElement, statement: Statement, *, token: bytes | None = CARD) -> bytes:
    return encode(
        Envelope(
            statement=element.sign(statement),
            token=token,
            salt=None if token is None else SALT,
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
    )


@dataclass(kw_only=True)
class Recorder(RecordingEngine):
    """Answers as soon as it is let."""

    gateway: GatewayId = GATEWAY
    witness: Witness = WITNESS
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    something_heard: asyncio.Event = field(default_factory=asyncio.Event)
    key: tuple[str, int] | None = (SITE_KEY, 1)

    async def submit(self, command: DeviceStatement) -> Answer:
        answer = await super().submit(command)
        self.something_heard.set()
        if command.statement.counter != 999:  # 999 is the slow one
            self.let_go.set()
        await self.let_go.wait()
        return answer


@dataclass(frozen=True)
class Door:
    """A door with everything it counts in."""

    door: StatementDoor
    engine: Recorder
    metrics: Metrics
    rubbish: RubbishRing

    def refusals(self, number: int, stage: str = "ingress") -> float:
        labels = {"stage": stage, "number": str(number)}
        return self.metrics.registry.get_sample_value("farthing_edge_refusals_total", labels) or 0.0


@pytest.fixture(scope="session")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    plan = Plan(gateways=("gw-1", "gw-2"), devices=("meter-1",), shared_tokens=True)
    return hold(plan, tmp_path_factory.mktemp("ceremony") / "parties")


@pytest.fixture(scope="module")  # one a process, and other modules have their own
def hsm(parties: Parties) -> Iterator[Hsm]:
    with Hsm.of(parties.gateways["gw-1"]) as running:
        yield running


@pytest.fixture(scope="session")
def party(parties: Parties) -> Party:
    return parties.gateways["gw-1"]


@pytest.fixture(scope="module")
def token(hsm: Hsm, party: Party) -> Token:
    return hsm.attach(party)


@pytest.fixture
async def site_key(token: Token) -> str:
    if not token.has_key(SITE_KEY):
        await token.generate_hmac_key(SITE_KEY)
    return SITE_KEY


@pytest.fixture
def meter() -> SoftElement:
    return SoftElement()


@pytest.fixture
async def open_door(token: Token, site_key: str, meter: SoftElement) -> Callable[..., Door]:
    def build(clock: Callable[[], int] = time.monotonic_ns, **limits: int) -> Door:
        engine = Recorder(keys={METER: VerifyingKey.from_spki(meter.spki)})
        metrics, rubbish = Metrics(), RubbishRing(samples=4)
        door = StatementDoor(
            gateway=GATEWAY,
            engine=engine,
            token=token,
            grant_key=GRANT_KEY,
            limits=LimitsSection(**limits),
            metrics=metrics,
            rubbish=rubbish,
            monotonic_ns=clock,
        )
        return Door(door=door, engine=engine, metrics=metrics, rubbish=rubbish)

    return build


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class RunningBroker:
    """A Mosquitto of our own."""

    address: str
    port: int
    files: BrokerFiles
    process: "subprocess.Popen[bytes]"


@pytest.fixture
def broker(token: Token, party: Party, tmp_path: Path) -> Iterator[RunningBroker]:
    port = free_port()
    address = f"127.0.0.1:{port}"
    files = write_broker(token, party, listen=address, directory=tmp_path / "broker")
    with (tmp_path / "broker.log").open("wb") as log:
        process = subprocess.Popen(files.command, stdout=log, stderr=log)
    yield RunningBroker(address=address, port=port, files=files, process=process)
    process.terminate()
    process.wait(10)


@pytest.fixture
def said() -> object:
    """What devices say in these tests."""

    class Said:
        CARD = CARD
        SALT = SALT
        intent = staticmethod(intent)
        reading = staticmethod(reading)
        envelope = staticmethod(envelope)
        free_port = staticmethod(free_port)
        SoftElement = SoftElement
        GRANTER = GRANTER
        WITNESS = WITNESS

    return Said
