"""A whole fleet as a process of its own: real elements, a real broker, EDHOC and OSCORE, over a network that is bad on purpose.

What answers is the gateway's real door (certificates, signatures, commitments) in front of the small gateway of these tests.
"""

import asyncio
import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from farthing.device.cose import VerifyingKey, encode_sign1, key_id, to_be_signed
from farthing.device.messages import Answer, AnswerStatus, Witness, encode
from farthing.edhoc import credential
from farthing.hsm import Hsm, Token
from farthing.ids import DeviceId, GatewayId, StartId
from farthing.refusal import Refusal
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.commands import DeviceStatement
from farthing_edge.authorization.deciding import decide
from farthing_edge.authorization.state import CoreSettings, Device, GatewayState
from farthing_edge.broker import client_key, device_key, write_broker
from farthing_edge.config import CoapSection, LimitsSection, MqttSection
from farthing_edge.engine import Waiting
from farthing_edge.ingress.coap import CoapIngress
from farthing_edge.ingress.guard import RubbishRing
from farthing_edge.ingress.handshakes import DeviceKey, Handshakes
from farthing_edge.ingress.mqtt import MqttIngress
from farthing_edge.ingress.statements import StatementDoor
from farthing_edge.metrics import Metrics
from farthing_hsm_sim.ceremony import Parties, hold
from farthing_hsm_sim.plan import Plan

pytestmark = pytest.mark.real

GATEWAYS = ("gw-1", "gw-2")
DEVICES = ("charge-1", "park-1", "house-1", "toll-1")
RATE = 3_600
DAY_US = 1_772_420_400_000_000


@dataclass
class Ledger:
    """The engine behind a door: one small gateway per device."""

    gateway: str
    token: Token
    keys: dict[DeviceId, VerifyingKey]
    make: Any
    label: str = ""
    per_device: dict[DeviceId, Any] = field(default_factory=dict)
    blocked: set[DeviceId] = field(default_factory=set)

    #: What it has taken of other gateways' devices, and the real core that said so.
    carried: list[DeviceStatement] = field(default_factory=list)
    carrier: GatewayState = field(init=False)

    under_way: set["asyncio.Task[None]"] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.carrier = GatewayState(
            CoreSettings(
                gateway_id=GatewayId(self.gateway), clock_epoch_us=DAY_US, clock_real_epoch_us=0, clock_rate=RATE
            )
        )
        for name in self.keys:
            device = self.carrier.devices[name] = Device(name)
            device.epoch = 1

    def hear(self, command: DeviceStatement, waiting: Waiting, /) -> None:
        async def answer() -> None:
            waiting.set_result(await self.submit(command))

        self.under_way = {each for each in self.under_way if not each.done()}
        self.under_way.add(asyncio.create_task(answer()))

    def carry(self, command: DeviceStatement) -> Answer:
        """Another gateway's device hands over what that one does not answer: the real core decides, and the cloud has it at once."""
        statement = command.statement
        decision = decide(self.carrier, command, now=statement.at)
        for event in decision.events:
            apply(self.carrier, event)
            self.carried.append(command)
        reply = decision.reply
        assert reply is not None
        said = self.answer_refusal(answers=reply.answers, refusal=reply.refusal or Refusal.MALFORMED)
        if reply.refusal is not None:
            return said
        return replace(
            said, status=reply.status, refusal=None, closed=reply.closed, receipted_counter=statement.counter
        )

    async def submit(self, command: DeviceStatement) -> Answer:
        if command.statement.recipient != self.gateway:
            return self.carry(command)
        device = command.statement.device
        small = self.per_device.setdefault(device, self.make(gateway=GatewayId(self.gateway), step=3_000))
        if device in self.blocked and command.statement.kind == "intent":
            small.refuse_next = Refusal.DEVICE_BLOCKED
        known = small.seen.get(command.statement.counter)
        if known is not None and known[0] != encode(command.statement):
            # The small gateway asserts what honest devices do; this is its door's other guest.
            return replace(
                known[1], status=AnswerStatus.REFUSED, refusal=Refusal.COUNTER_REUSED, grant=None, closed=False
            )
        answer, grant = small.hear(encode(command.statement))
        if grant is None:
            return answer
        payload = encode(replace(grant, tariff=replace(grant.tariff, tariff_id="t-1")))
        signature = await self.token.sign("grant", to_be_signed("grant", device, payload))
        cose = encode_sign1(key_id(self.token.party.public_key("grant")), payload, signature)
        return replace(answer, grant=cose)

    def answer_refusal(
        self, *, answers: tuple[int, int] | None, refusal: Refusal, retry_after_ms: int | None = None
    ) -> Answer:
        return Answer(
            gateway=GatewayId(self.gateway),
            witness=Witness(incarnation=1, start_id=StartId(bytes(16)), position=0),
            answers=answers,
            status=AnswerStatus.REFUSED if retry_after_ms is None else AnswerStatus.LATER,
            refusal=refusal,
            retry_after_ms=retry_after_ms,
            receipted_counter=0,
        )

    def statement_key(self, device: DeviceId, /) -> VerifyingKey | None:
        return self.keys.get(device)

    def is_complete(self) -> bool:
        return True

    def site_key(self) -> tuple[str, int] | None:
        return None

    async def hmac_many(self, label: str, data: Sequence[bytes]) -> list[bytes]:
        raise AssertionError(f"no site key, no token ref: {label}, {len(data)} bytes")


@dataclass
class World:
    """Two gateways with broker and CoAP, and what devices need to know of them."""

    folder: Path
    parties: Parties
    engines: dict[str, Ledger]
    brokers: dict[str, str]
    coaps: dict[str, str]
    keys: dict[str, Any]
    served: dict[str, "Served"]
    #: Gateway → its broker and who listens there.
    heard: dict[str, "Heard"]

    def config(self, name: str, devices: str, *, network: str = "", extra: str = "", traffic: str = "") -> Path:
        gateways = "".join(
            f"""
[[gateways]]
id = "{gateway}"
mqtt = "{self.brokers[gateway]}"
coap = "{self.coaps[gateway]}"
ca_file = "{self.keys["charge-1"].ca_file}"
grant_key_file = "{self.parties.gateways[gateway].public / "grant.der"}"
edhoc_key_file = "{self.parties.gateways[gateway].public / "edhoc.der"}"
edhoc_kid = "{self.parties.gateways[gateway].kid.hex()}"
"""
            for gateway in GATEWAYS
        )
        file = self.folder / f"{name}.toml"
        file.write_text(
            f"""
out_dir = "{name}-out"
state_dir = "{name}-state"
seed = 5

[clock]
simulation = true
epoch_us = {DAY_US}
real_epoch_us = {time.time_ns() // 1_000}
rate = {RATE}

[retry]
first_ms = 150
most_ms = 800
receipt_ms = 300
carry_ms = 600

[traffic]
finish_timeout_s = 20
{traffic}

[network]
{network}
{extra}
{gateways}
{devices}
"""
        )
        return file

    def mqtt_device(self, name: str, kind: str, unit: str, rated: int, *, gateways: tuple[str, ...] = ("gw-1",)) -> str:
        key = self.keys[name]
        ways = "".join(
            f"""
[devices.mqtt.{gateway}]
certificate_file = "{key.certificate_file}"
key_file = "{key.key_file}"
"""
            for gateway in gateways
        )
        return f"""
[[devices]]
id = "{name}"
kind = "{kind}"
party = "{self.parties.devices[name].folder}"
gateways = {json.dumps(gateways)}
transport = "mqtt"
report_interval_s = 900
tariffs = [{{id = "t-1", version = 1}}]
tokens = ["anna-card", "hex:00ff"]
gap_s = 900
register = {{id = "1", epoch = 1, unit = "{unit}", modulus = 1000000000, rated_per_hour = {rated}, starts_at = 999999000}}
{ways}"""

    def coap_device(self, name: str, kind: str, unit: str, *, gateways: str = '"gw-1"', more: str = "") -> str:
        folder = self.parties.devices[name].folder
        return f"""
[[devices]]
id = "{name}"
kind = "{kind}"
party = "{folder}"
gateways = [{gateways}]
transport = "coap"
dh_key_file = "{folder / "static-dh.key"}"
report_interval_s = 1800
tariffs = [{{id = "t-1", version = 1}}]
tokens = ["lorry-tag-1"]
gap_s = 900
register = {{id = "1", epoch = 1, unit = "{unit}", modulus = 1000000000, rated_per_hour = 14000, starts_at = 41}}
{more}
"""


@dataclass
class Served:
    """A gateway's CoAP door that can go away and come back without its security contexts."""

    open: Any
    address: str = ""
    task: "asyncio.Task[None] | None" = None

    async def start(self, listen: str) -> None:
        ingress = self.open(listen=listen)
        await ingress.start()
        self.address = ingress.address
        self.task = asyncio.create_task(ingress.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def restart(self) -> None:
        await self.stop()
        await self.start(self.address)


@dataclass
class Heard:
    """A gateway's broker, and the gateway as its client."""

    token: Token
    party: Any
    door: StatementDoor
    folder: Path
    address: str = ""
    broker: "subprocess.Popen[bytes] | None" = None
    task: "asyncio.Task[None] | None" = None

    async def start(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        files = write_broker(self.token, self.party, listen=self.address, directory=self.folder)
        self.broker = start_broker(files.command, self.folder.with_suffix(".log"))
        up = asyncio.Event()
        ingress = MqttIngress(
            section=MqttSection(address=self.address, max_backoff_s=0.2, min_backoff_s=0.05),
            door=self.door,
            metrics=Metrics(),
            make_key=lambda: client_key(self.token, self.party, "gateway", directory=None),
            on_change=lambda connected: up.set() if connected else up.clear(),
        )
        self.task = asyncio.create_task(ingress.run())
        await asyncio.wait_for(up.wait(), 10)

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        if self.broker is not None:
            self.broker.terminate()
            await asyncio.to_thread(self.broker.wait, 10)
            self.broker = None


def open_coap(
    *, listen: str, gateway: str, door: StatementDoor, parties: Parties, token: Token, metrics: Metrics
) -> CoapIngress:
    party = parties.gateways[gateway]
    section = CoapSection(listen=listen)
    handshakes = Handshakes(
        section=section,
        key=_TokenKey(token),
        credential=credential(gateway, party.kid, party.public_key("edhoc")),
        keys_with=_Directory(parties).keys_with,
        metrics=metrics,
    )
    return CoapIngress(section=section, door=door, handshakes=handshakes, metrics=metrics)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return hold(Plan(gateways=GATEWAYS, devices=DEVICES), tmp_path_factory.mktemp("ceremony") / "parties")


@pytest.fixture(scope="module")
def tokens(parties: Parties, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Token]]:
    # One process holds one SoftHSM directory, so this process is gw-1; what signs for gw-2 is gw-1's token under test too.
    with Hsm.of(parties.gateways["gw-1"]) as hsm:
        token = hsm.attach(parties.gateways["gw-1"])
        yield {"gw-1": token}


@pytest.fixture
async def world(parties: Parties, tokens: dict[str, Token], tmp_path: Path, new_gateway: Any) -> AsyncIterator[World]:
    token, party = tokens["gw-1"], parties.gateways["gw-1"]
    # Both doors use gw-1's keys: what differs is the name they answer to.
    parties = replace(parties, gateways=dict.fromkeys(GATEWAYS, party))
    keys = {name: device_key(token, party, name, directory=tmp_path / f"key-{name}") for name in DEVICES}
    engines, coaps, served, heard = {}, {}, {}, {}
    device_keys = {
        DeviceId(name): VerifyingKey.from_spki(each.public_key("statement")) for name, each in parties.devices.items()
    }
    for gateway in GATEWAYS:
        engine = Ledger(gateway=gateway, token=token, keys=device_keys, make=new_gateway)
        metrics = Metrics()
        door = StatementDoor(
            gateway=GatewayId(gateway),
            engine=engine,
            token=engine,
            grant_key=VerifyingKey.from_spki(party.public_key("grant")),
            limits=LimitsSection(),
            metrics=metrics,
            rubbish=RubbishRing(samples=4),
        )
        opened = partial(open_coap, gateway=gateway, door=door, parties=parties, token=token, metrics=metrics)
        served[gateway] = Served(open=opened)
        await served[gateway].start("127.0.0.1:0")
        engines[gateway], coaps[gateway] = engine, served[gateway].address
        heard[gateway] = Heard(token=token, party=party, door=door, folder=tmp_path / f"broker-{gateway}")
    await heard["gw-1"].start()
    yield World(
        folder=tmp_path,
        parties=parties,
        engines=engines,
        brokers=dict.fromkeys(GATEWAYS, heard["gw-1"].address),
        coaps=coaps,
        keys=keys,
        served=served,
        heard=heard,
    )
    for each in (*served.values(), *heard.values()):
        await each.stop()


def start_broker(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream)


class _TokenKey:
    def __init__(self, token: Token) -> None:
        self._token = token

    async def ecdh(self, peer_x: bytes) -> bytes:
        return await self._token.ecdh("edhoc", peer_x)


class _Directory:
    def __init__(self, parties: Parties) -> None:
        self._keys: dict[bytes, list[DeviceKey]] = {}
        for name, party in parties.devices.items():
            key = load_der_public_key(party.public_key("static-dh"))
            assert isinstance(key, ec.EllipticCurvePublicKey)
            x = key.public_numbers().x.to_bytes(32, "big")
            self._keys.setdefault(party.kid, []).append(DeviceKey(device=DeviceId(name), kid=party.kid, x=x))

    def keys_with(self, kid: bytes) -> list[DeviceKey]:
        return self._keys.get(kid, [])


class Fleet:
    """The command as a process."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self._log = log.open("wb")
        self._never = asyncio.get_running_loop().create_future()
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from farthing_firmware_sim.command import app; app()", *arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    async def until(self, condition: Any, *, timeout_s: float = 30) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                assert self.process.poll() is None, f"ended with {self.process.returncode}: {self._text()}"
                # What another process brings about has no event here: look again after a while.
                await asyncio.wait([self._never], timeout=0.05)

    async def ended(self, timeout_s: float = 40) -> int:
        code = await asyncio.to_thread(self.process.wait, timeout_s)
        assert code in (0, 3), self._text()
        return code

    def _text(self) -> str:
        return Path(self._log.name).read_text()[-3_000:]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Any]:
    started: list[Fleet] = []

    def start(*arguments: str) -> Fleet:
        started.append(Fleet(*arguments, log=tmp_path / f"fleet-{len(started)}.log"))
        return started[-1]

    yield start
    for each in started:
        each.close()


def status(config: Path) -> dict[str, Any]:
    try:
        return json.loads((config.parent / f"{config.stem}-out" / "status.json").read_text())
    except FileNotFoundError:
        return {}


def sessions(config: Path) -> list[dict[str, Any]]:
    file = config.parent / f"{config.stem}-out" / "sessions.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def delivered(config: Path, device: str, gateway: str) -> int:
    return sum(
        (row["to"] - row["from"]) % 10**9
        for row in sessions(config)
        if row["device"] == device and row["gateway"] == gateway and row["kind"] in ("use", "standing")
    )


def claimed(world: World, device: str, gateway: str) -> int:
    small = world.engines[gateway].per_device.get(DeviceId(device))
    if small is None:
        return 0
    if small.standing:
        return int(max(small.standing)[1] - min(small.standing)[1])
    return sum(each.claimed for each in small.open.values())


async def test_all_kinds_over_a_bad_network_claim_what_they_deliver(world: World, fleet: Any) -> None:
    config = world.config(
        "devices",
        world.mqtt_device("charge-1", "charger", "Wh", 11_000)
        + world.mqtt_device("park-1", "parking", "s", 3_600)
        + world.coap_device("house-1", "smart-meter", "Wh")
        + world.coap_device("toll-1", "toll", "passage", gateways='"gw-1", "gw-2"'),
        network="loss_ppm = 50000\nduplicate_ppm = 100000\nreorder_ppm = 100000\nreorder_ms = 100",
    )
    run = fleet("run", "--config", str(config))
    await run.until(lambda: status(config).get("uses", 0) >= 12)
    run.process.send_signal(signal.SIGUSR1)
    assert await run.ended() == 0

    summary = json.loads((world.folder / "devices-out" / "summary.json").read_text())
    assert summary["complete"]
    for device in DEVICES:
        for gateway in GATEWAYS:
            assert delivered(config, device, gateway) == claimed(world, device, gateway), (device, gateway)
        assert summary["devices"][device]["kept"] == 0
    rows = sessions(config)
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["device"] for row in rows} == set(DEVICES)
    assert {row["gateway"] for row in rows if row["device"] == "toll-1"} == set(GATEWAYS)
    ordinary = [row for row in rows if row["kind"] == "use" and row["device"] == "charge-1"]
    for before, after in itertools.pairwise(ordinary):
        assert after["from"] == before["to"]


async def check_handed_over(world: World, run: Any, config: Path, device: str, gone: Any) -> None:
    """A standing meter's gateway goes away for good: how far the meter came, the other one hears, with what it began with."""
    own, other = world.engines["gw-1"], world.engines["gw-2"]

    def heard() -> list[int]:
        small = own.per_device.get(DeviceId(device))
        return [] if small is None else sorted(value for _, value in small.standing)

    await run.until(lambda: len(heard()) >= 2)
    await gone()
    last = max(heard())
    await run.until(lambda: len(other.carried) >= 2 and other.carried[-1].statement.register.value > last)
    run.process.send_signal(signal.SIGUSR1)
    assert await run.ended() == 0

    for each in other.carried:
        assert (each.statement.recipient, each.statement.device, each.statement.kind) == ("gw-1", device, "reading")
        # No grant: it was told yes once and for all. What its own gateway took first proves where it began.
        assert (each.shown.grant, each.shown.first.register.value) == (None, min(heard()))
    values = [each.statement.register.value for each in other.carried]
    assert values == sorted(values)
    assert DeviceId(device) not in other.per_device, "it is the own gateway's authorization, and stays that"
    assert delivered(config, device, "gw-1") == values[-1] - min(heard()) > 0
    summary = json.loads((config.parent / f"{config.stem}-out" / "summary.json").read_text())
    assert (summary["complete"], summary["devices"][device]["kept"]) == (True, 0)


async def test_a_meter_whose_gateway_is_gone_tells_another_over_mqtt(world: World, fleet: Any) -> None:
    await world.heard["gw-2"].start()
    world.brokers["gw-2"] = world.heard["gw-2"].address
    meter = world.mqtt_device("charge-1", "smart-meter", "Wh", 11_000, gateways=GATEWAYS)
    config = world.config("meter", meter.replace("starts_at = 999999000", "starts_at = 7"))
    run = fleet("run", "--config", str(config))
    await check_handed_over(world, run, config, "charge-1", world.heard["gw-1"].stop)


async def test_a_meter_whose_gateway_is_gone_tells_another_over_coap(world: World, fleet: Any) -> None:
    config = world.config("meter", world.coap_device("house-1", "smart-meter", "Wh", gateways='"gw-1", "gw-2"'))
    run = fleet("run", "--config", str(config))
    await check_handed_over(world, run, config, "house-1", world.served["gw-1"].stop)


async def test_a_clone_spends_the_same_counters_elsewhere(world: World, fleet: Any) -> None:
    original = world.config(
        "original", world.coap_device("toll-1", "toll", "passage", gateways='"gw-1"', more="uses = 1000")
    )
    run = fleet("run", "--config", str(original))
    await run.until(lambda: status(original).get("uses", 0) >= 2)
    clone = world.config(
        "clone",
        world.coap_device("toll-1", "toll", "passage", gateways='"gw-2"', more="uses = 2"),
        extra=f'[clone]\nof_state_dir = "{world.folder / "original-state"}"',
    )
    spent = fleet("clone-attack", "--config", str(clone))
    assert await spent.ended() == 0
    stolen = sessions(clone)
    assert len(stolen) == 2
    await run.until(
        lambda: {row["intent_counter"] for row in stolen} <= {r["intent_counter"] for r in sessions(original)}
    )

    world.engines["gw-1"].blocked.add(DeviceId("toll-1"))
    attempt = fleet("attempt", "--config", str(original), "--device", "toll-1", "--gateway", "gw-1")
    assert await attempt.ended() == 0
    answer = json.loads(attempt.process.stdout.read())
    assert (answer["answer"], answer["refusal"]) == ("refused", 204)

    run.process.send_signal(signal.SIGTERM)
    assert await run.ended() == 0
    both = {row["intent_counter"] for row in stolen} & {row["intent_counter"] for row in sessions(original)}
    mine = {row["intent_counter"]: row for row in sessions(original)}
    for row in stolen:
        if row["intent_counter"] in both:
            assert (row["from"], row["to"]) == (mine[row["intent_counter"]]["from"], mine[row["intent_counter"]]["to"])
            assert row["gateway"] != mine[row["intent_counter"]]["gateway"]
    assert both

    # With the fleet gone, an attempt runs the device itself.
    attempt = fleet("attempt", "--config", str(original), "--device", "toll-1", "--gateway", "gw-1")
    assert await attempt.ended() == 0
    assert json.loads(attempt.process.stdout.read())["refusal"] == 204


async def test_a_file_is_played_as_fast_as_gateways_answer(world: World, fleet: Any) -> None:
    """Two years of a file's sessions: each row is a use of its own energy, at its own times, and the file's sum is delivered."""
    file = world.folder / "perth.csv"
    file.write_text(
        "CP ID,Connector,Start Date,Start Time,End Date,End Time,Total kWh\n"
        "9,1,31/08/2017,08:00,31/08/2017,10:00,12.781\n"
        "9,1,01/09/2017,08:00,01/09/2017,09:00,3.3\n"
        "9,1,02/09/2017,13:00,02/09/2017,13:00,0.1\n"
        "9,1,03/09/2017,08:00,03/09/2017,09:00,\n"
        "9,1,01/07/2019,08:00,01/07/2019,09:00,7\n"
    )
    devices = world.mqtt_device("charge-1", "charger", "Wh", 11_000) + world.coap_device("toll-1", "toll", "passage")
    config = world.config("file", devices, network="loss_ppm = 50000\nduplicate_ppm = 100000")
    run = fleet("replay", "--config", str(config), "--file", str(file), "--to", "2019-01-01", "--json")
    printed = await asyncio.to_thread(run.process.stdout.read)
    assert run.process.wait(10) == 0
    played = json.loads(printed.splitlines()[-1])
    assert (played["rows"], played["played"], played["format"]) == (5, 3, "perth-csv")
    assert sum(played["skipped"].values()) == 2
    rows = sessions(config)
    assert {row["device"] for row in rows} == {"charge-1"}, "what the file is not about does nothing"
    assert [(row["to"] - row["from"]) % 10**9 for row in rows] == [12_781, 3_300, 100]
    begun_us = [row["started_at_us"] for row in rows]
    assert begun_us == [each * 1_000_000 for each in (1_504_166_400, 1_504_252_800, 1_504_357_200)]
    assert rows[0]["ended_at_us"] == begun_us[0] + 2 * 3_600_000_000
    assert delivered(config, "charge-1", "gw-1") == claimed(world, "charge-1", "gw-1") == 16_181


async def test_bad_input_is_answered_by_number(world: World, fleet: Any) -> None:
    config = world.config("attacker", world.mqtt_device("park-1", "parking", "s", 3_600))
    attack = fleet("attack", "--config", str(config), "--device", "park-1", "--gateway", "gw-1")
    out = await asyncio.to_thread(attack.process.stdout.read)
    observed = {each["attack"]: each for each in json.loads(out)}
    assert attack.process.wait(10) == 0, "every answer is a right one"
    assert {name: each["refusal"] for name, each in observed.items()} == {
        "garbage": 100,
        "oversize": 105,
        "unknown device": 104,
        "wrong recipient": 102,
        "forged": 101,
        "other token": 103,
        "replayed": None,
        "counter reused": 300,
    }


async def test_a_gateway_that_restarted_is_shaken_hands_with_anew(world: World, fleet: Any) -> None:
    config = world.config(
        "restart",
        world.coap_device("house-1", "smart-meter", "Wh") + world.coap_device("toll-1", "toll", "passage"),
    )
    run = fleet("run", "--config", str(config))
    await run.until(lambda: status(config).get("uses", 0) >= 1)
    await world.served["gw-1"].restart()
    uses, readings = status(config)["uses"], len(world.engines["gw-1"].per_device[DeviceId("house-1")].standing)
    await run.until(
        lambda: (
            status(config)["uses"] >= uses + 2
            and len(world.engines["gw-1"].per_device[DeviceId("house-1")].standing) >= readings + 2
        )
    )
    (world.folder / "restart-out" / "finish").touch()
    assert await run.ended() == 0
    for device in ("house-1", "toll-1"):
        assert delivered(config, device, "gw-1") == claimed(world, device, "gw-1") > 0


async def test_a_gateway_with_another_key_is_told_nothing(world: World, fleet: Any) -> None:
    config = world.config("impostor", world.coap_device("toll-1", "toll", "passage"))
    config.write_text(config.read_text().replace("edhoc.der", "grant.der"))
    run = fleet("run", "--config", str(config))
    await run.until(lambda: status(config).get("devices", {}).get("toll-1", {}).get("not_sent", 0) >= 3)
    run.process.send_signal(signal.SIGTERM)
    assert await run.ended() == 0
    assert not world.engines["gw-1"].per_device


async def test_a_fleet_stopped_and_started_again_goes_on(world: World, fleet: Any) -> None:
    devices = world.mqtt_device("charge-1", "charger", "Wh", 11_000)
    config = world.config("pause", devices)
    run = fleet("run", "--config", str(config))
    await run.until(lambda: status(config).get("open", 0) == 1 and status(config)["granted"] >= 1)
    run.process.kill()
    await asyncio.to_thread(run.process.wait, 10)
    again = fleet("run", "--config", str(config))
    await again.until(lambda: delivered(config, "charge-1", "gw-1") > 0)
    again.process.send_signal(signal.SIGUSR1)
    assert await again.ended() == 0
    assert delivered(config, "charge-1", "gw-1") == claimed(world, "charge-1", "gw-1") > 0
