"""E2, its ticks: a second over MQTT, durable, beside a bare loop that receives them. E4: verified a second, beside a bare loop of the hash.

E2: one gateway as it is run in the field, told what it needs as in E1, and devices that show the ticks of a chain each as fast as the broker takes them
(QoS 1, TLS). Measured until the gateway has taken the last one; then each device ends its use, which is answered "closed" at the value that its
ticks proved: all of them were there, and durable. The floor is a bare ``async for`` over aiomqtt's messages in the gateway's
place, with the same ticks from the same devices.

E4: ticks as they come in, index and preimage, a few lost and a few twice, in groups of as many as one commit takes with it. Every step of the chain
is hashed once, whether its tick came or not, so both loops hash as often.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import httpx

from bench.mqtt import (
    CARD,
    GATEWAY,
    SALT,
    CloudOfOne,
    Site,
    SoftElement,
    _broker,
    _disk,
    _gateway,
    _serve,
    _site,
    _tell,
    _until_told,
)
from bench.processes import cpu_s
from farthing.clock import Instant
from farthing.device.messages import (
    AnswerStatus,
    Chain,
    ChainTick,
    End,
    Envelope,
    Intent,
    RegisterValue,
    Statement,
    TariffVersion,
    decode_answer,
    encode,
    encode_tick,
)
from farthing.evidence import payword
from farthing.hsm import Hsm
from farthing.hsm.transport import TransportKey
from farthing.ids import AuthorizationId, GatewayId, RegisterId, TariffId, authorization_id, token_commitment
from farthing.v1 import directive_pb2
from farthing_edge.broker import device_key
from farthing_hsm_sim.ceremony import hold
from farthing_hsm_sim.plan import Plan

E4_BUDGET = 300_000
LENGTH, ROUNDS, GROUP = 50_000, 7, 32
#: Of a hundred ticks: one is lost, one comes twice.
LOST = TWICE = 0.01


def _shown(chain: list[bytes]) -> list[list[tuple[int, bytes]]]:
    rng = random.Random(4)  # the same ticks in every run
    arrived: list[tuple[int, bytes]] = []
    for index in range(1, LENGTH + 1):
        if index < LENGTH and rng.random() < LOST:
            continue
        arrived.append((index, chain[index]))
        if rng.random() < TWICE:
            arrived.append((index, chain[index]))
    return [arrived[first : first + GROUP] for first in range(0, len(arrived), GROUP)]


def e4() -> list[dict[str, object]]:
    """Ticks verified a second; the floor hashes the same number of words, and does nothing else."""
    chain = payword.words(hashlib.sha256(b"bench").digest(), LENGTH)
    groups = _shown(chain)
    ticks = sum(len(group) for group in groups)
    verified, floor = 0.0, 0.0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        index, word = 0, chain[0]
        for group in groups:
            index, word = payword.highest(index, word, group)
        verified = max(verified, ticks / (time.perf_counter() - start))
        assert (index, word) == (LENGTH, chain[LENGTH])
        start = time.perf_counter()
        for preimage in chain[1:]:
            hashlib.sha256(preimage).digest()
        floor = max(floor, LENGTH / (time.perf_counter() - start))
    return [
        {
            "id": "E4",
            "what": "ticks verified",
            "value": verified,
            "unit": "1/s",
            "floor": floor,
            "floor_what": "hashlib.sha256 of 32 bytes, in a loop that does nothing else",
            "ratio": verified / floor,
            "budget": f"≥ {E4_BUDGET:,}/s",
            "met": verified >= E4_BUDGET,
        }
    ]


# E2 -------------------------------------------------------------------------------------------------------------------

E2_RATIO = 0.7
DEVICES, TICKS_EACH = 10, 3_000
#: A device's ticks on their way to the broker: as many as it acknowledges in a round trip.
WINDOW = 50
#: Rated so that what comes at once is believed: a hundred units a second, held for ten minutes ahead.
RATED_PER_HOUR, REPORT_INTERVAL_S = 360_000, 600
TAKEN_S = 60.0
LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticker:
    """A device with its channel, and the ticks that it will show."""

    element: SoftElement
    client: aiomqtt.Client
    authorization: AuthorizationId
    anchor: bytes
    ticks: tuple[bytes, ...]

    def topic(self, what: str) -> str:
        return f"farthing/{self.element.name}/{what}"

    async def ask(self, statement: Statement, *, token: bytes | None = None, salt: bytes | None = None) -> AnswerStatus:
        """Say ``statement`` and wait for what is said to it; answers to ticks are passed over."""
        envelope = encode(Envelope(statement=self.element.sign(statement), token=token, salt=salt))
        await self.client.publish(self.topic("up"), envelope, qos=1)
        async with asyncio.timeout(TAKEN_S):
            async for message in self.client.messages:
                assert isinstance(message.payload, bytes)
                answer = decode_answer(message.payload)
                if answer.answers == (1, statement.counter) and answer.ticked is None:
                    return answer.status
        raise RuntimeError("the channel ended")

    async def show(self) -> None:
        """All ticks, as fast as the broker takes them."""
        for first in range(0, len(self.ticks), WINDOW):
            await asyncio.gather(
                *(
                    self.client.publish(self.topic("tick"), tick, qos=1, timeout=TAKEN_S)
                    for tick in self.ticks[first : first + WINDOW]
                )
            )


def e2_ticks() -> list[dict[str, object]]:
    """Ticks a second over MQTT, QoS 1, durable."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir=_disk()) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[dict[str, object]]:
    parties = await asyncio.to_thread(hold, Plan(gateways=(GATEWAY,), shared_tokens=True), folder / "parties")
    elements = [SoftElement(f"pump-{n}") for n in range(DEVICES)]
    total = DEVICES * TICKS_EACH
    with Hsm.of(parties.cloud) as hsm:
        token, gateway_token = hsm.attach(parties.cloud), hsm.attach(parties.gateways[GATEWAY])
        cloud = CloudOfOne(token, parties)
        await _tell(cloud, token, parties, elements)
        for element in elements:
            cloud.direct(device=_pump(element))
        async with _serve(cloud, token, parties, folder) as cloud_port:
            site = _site(folder, parties, cloud_port)
            with site.config.open("a") as config:
                # What a device may send is not what is measured.
                config.write("[limits]\npeer_rate_per_s = 100000\npeer_burst = 100000\n")
            keys = [
                device_key(gateway_token, parties.gateways[GATEWAY], each.name, directory=folder / each.name)
                for each in elements
            ]
            with _broker(site):
                floor = total / await _bare(site, elements, keys, total)
                with _gateway(site) as process:
                    await _until_told(site, len(cloud.chain), process)
                    before_s = cpu_s(process.pid)
                    rate = total / await _through_the_gateway(site, elements, keys, total)
                    used_s = cpu_s(process.pid) - before_s
    return [
        {
            "id": "E2 ticks",
            "what": f"ticks over MQTT, QoS 1, TLS, durable; {used_s / total * 1e6:,.0f} µs of the gateway's processor each",
            "value": rate,
            "unit": "1/s",
            "floor": floor,
            "floor_what": "a bare aiomqtt receive loop in the gateway's place, same ticks, same broker",
            "ratio": rate / floor,
            "budget": f"≥ {E2_RATIO} × the loop",
            "met": rate >= E2_RATIO * floor,
        }
    ]


def _pump(element: SoftElement) -> directive_pb2.DeviceRecord:
    return directive_pb2.DeviceRecord(
        device_id=element.name,
        status=directive_pb2.DEVICE_STATUS_ACTIVE,
        device_epoch=1,
        profile=directive_pb2.DEVICE_PROFILE_SESSION,
        statement_key=element.spki,
        registers=[
            directive_pb2.RegisterRecord(
                register_id="lane",
                register_epoch=1,
                unit="passage",
                modulus=2**40,
                rated_per_hour=RATED_PER_HOUR,
            )
        ],
        tariff_id="toll-1",
        tariff_version=1,
        report_interval_s=REPORT_INTERVAL_S,
        stoppable=True,
    )


@contextlib.asynccontextmanager
async def _tickers(site: Site, elements: list[SoftElement], keys: list[TransportKey]) -> AsyncIterator[list[Ticker]]:
    """Every device on its channel, with a chain made beforehand."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for element, key in zip(elements, keys, strict=True):
            client = await stack.enter_async_context(
                aiomqtt.Client(
                    "127.0.0.1",
                    site.broker_port,
                    identifier=element.name,
                    tls_params=aiomqtt.TLSParameters(
                        ca_certs=str(key.ca_file), certfile=str(key.certificate_file), keyfile=str(key.key_file)
                    ),
                    max_inflight_messages=WINDOW,
                )
            )
            # Each of a window is under way on purpose.
            client.pending_calls_threshold = WINDOW + 1
            await client.subscribe(f"farthing/{element.name}/down", qos=1)
            chain = payword.words(hashlib.sha256(element.name.encode()).digest(), TICKS_EACH)
            name = authorization_id(element.name, 1, 1, GatewayId(GATEWAY))
            found.append(
                Ticker(
                    element=element,
                    client=client,
                    authorization=name,
                    anchor=chain[0],
                    ticks=tuple(
                        encode_tick(ChainTick(authorization=name, index=index, preimage=chain[index]))
                        for index in range(1, TICKS_EACH + 1)
                    ),
                )
            )
        yield found


async def _bare(site: Site, elements: list[SoftElement], keys: list[TransportKey], total: int) -> float:
    """Seconds until a loop that does nothing else has received every tick."""
    process = subprocess.Popen(  # noqa: ASYNC220  # started once, before anything is measured
        [sys.executable, "-m", "bench.ticks", str(site.way_in), str(total)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        async with _tickers(site, elements, keys) as tickers:
            await asyncio.to_thread(process.stdout.readline)
            start = time.perf_counter()
            await asyncio.gather(*(each.show() for each in tickers))
            await asyncio.to_thread(process.stdout.readline)
            return time.perf_counter() - start
    finally:
        process.kill()
        process.wait(10)


async def _receive(way_in: str, total: int) -> None:
    async with aiomqtt.Client(
        way_in, 1, transport="unix", identifier="/gateway", max_queued_incoming_messages=0
    ) as client:
        await client.subscribe("farthing/+/tick", qos=1)
        print("ready", flush=True)
        received = 0
        async for _ in client.messages:
            received += 1
            if received == total:
                break
        print("received", flush=True)


async def _through_the_gateway(site: Site, elements: list[SoftElement], keys: list[TransportKey], total: int) -> float:
    """Seconds until the gateway has taken every tick; then every use ends where its ticks had brought it."""
    async with _tickers(site, elements, keys) as tickers:
        for each in tickers:
            head: dict[str, Any] = {
                "recipient": GatewayId(GATEWAY),
                "device": each.element.name,
                "device_epoch": 1,
                "commitment": token_commitment(CARD, SALT),
            }
            tariff = TariffVersion(tariff_id=TariffId("toll-1"), version=1)
            intent = Intent(**head, counter=1, at=_now(), register=_value(0), incarnation=1)
            if await each.ask(intent, token=CARD, salt=SALT) is not AnswerStatus.GRANTED:
                raise RuntimeError("a device was told no")
            chain = Chain(
                **head,
                counter=2,
                at=_now(),
                register=_value(0),
                authorization=each.authorization,
                tariff=tariff,
                unit_per_tick=1,
                length=TICKS_EACH,
                anchor=each.anchor,
            )
            if await each.ask(chain) is not AnswerStatus.RECORDED:
                raise RuntimeError("a chain was told no")
        start = time.perf_counter()
        taken = asyncio.create_task(_until_taken(site, total))
        await asyncio.gather(*(each.show() for each in tickers))
        await taken
        took_s = time.perf_counter() - start
        for each in tickers:
            end = End(
                recipient=GatewayId(GATEWAY),
                device=each.element.name,
                device_epoch=1,
                commitment=token_commitment(CARD, SALT),
                counter=3,
                at=_now(),
                register=_value(TICKS_EACH),
                authorization=each.authorization,
                tariff=tariff,
            )
            if await each.ask(end) is not AnswerStatus.RECORDED:
                raise RuntimeError("an end was told no")
        return took_s


async def _until_taken(site: Site, total: int) -> None:
    address = json.loads((site.folder / "state" / "run.json").read_text())["addresses"]["http"]
    wanted = f'farthing_edge_ticks_total{{channel="mqtt"}} {float(total)}'
    async with asyncio.timeout(TAKEN_S), httpx.AsyncClient() as http:
        while wanted not in (await http.get(f"http://{address}/metrics")).text:  # noqa: ASYNC110  # another process
            await asyncio.sleep(LOOK_S)


def _now() -> Instant:
    return Instant(time.time_ns() // 1_000)


def _value(value: int) -> RegisterValue:
    return RegisterValue(register_id=RegisterId("lane"), register_epoch=1, value=value)


if __name__ == "__main__":
    asyncio.run(_receive(sys.argv[1], int(sys.argv[2])))
