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

import aiomqtt
import httpx

from bench.processes import cpu_s
from bench.site import UNLIMITED, Prepared, SoftElement, disk, prepared
from farthing.device.messages import AnswerStatus, ChainTick, decode_answer, encode_tick
from farthing.evidence import payword
from farthing.ids import AuthorizationId

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
TAKEN_S = 60.0
LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticker:
    """A device with its channel, and the chain that it will show."""

    element: SoftElement
    client: aiomqtt.Client
    chain: list[bytes]

    def topic(self, what: str) -> str:
        """Where it writes envelopes or ticks, and hears."""
        return f"farthing/{self.element.name}/{what}"

    async def ask(self, envelope: bytes, expected: AnswerStatus) -> None:
        """Say a statement and wait for what is said to it; answers to ticks are passed over."""
        counter = self.element.counter
        await self.client.publish(self.topic("up"), envelope, qos=1)
        async with asyncio.timeout(TAKEN_S):
            async for message in self.client.messages:
                assert isinstance(message.payload, bytes)
                answer = decode_answer(message.payload)
                if answer.answers == (1, counter) and answer.ticked is None:
                    if answer.status is not expected:
                        raise RuntimeError(f"{self.element.name} was told {answer.status.name} {answer.refusal}")
                    return

    async def show(self, authorization: bytes) -> None:
        """All ticks, as fast as the broker takes them."""
        ticks = [
            encode_tick(
                ChainTick(authorization=AuthorizationId(authorization), index=index, preimage=self.chain[index])
            )
            for index in range(1, TICKS_EACH + 1)
        ]
        for first in range(0, len(ticks), WINDOW):
            await asyncio.gather(
                *(
                    self.client.publish(self.topic("tick"), tick, qos=1, timeout=TAKEN_S)
                    for tick in ticks[first : first + WINDOW]
                )
            )


def e2_ticks() -> list[dict[str, object]]:
    """Ticks a second over MQTT, QoS 1, durable."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir=disk()) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[dict[str, object]]:
    elements = [SoftElement(f"pump-{n}", sessions=True) for n in range(DEVICES)]
    total = DEVICES * TICKS_EACH
    async with prepared(folder, elements, limits=UNLIMITED) as site:
        floor = total / await _bare(site, total)
        async with site.running() as process:
            before_s = cpu_s(process.pid)
            rate = total / await _through_the_gateway(site, total)
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


@contextlib.asynccontextmanager
async def _tickers(site: Prepared) -> AsyncIterator[list[Ticker]]:
    """Every device on its channel, with a chain made beforehand."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number, element in enumerate(site.elements):
            client = await stack.enter_async_context(site.client(number))
            await client.subscribe(f"farthing/{element.name}/down", qos=1)
            chain = payword.words(hashlib.sha256(element.name.encode()).digest(), TICKS_EACH)
            found.append(Ticker(element=element, client=client, chain=chain))
        yield found


async def _bare(site: Prepared, total: int) -> float:
    """Seconds until a loop that does nothing else has received every tick."""
    process = subprocess.Popen(  # noqa: ASYNC220  # started once, before anything is measured
        [sys.executable, "-m", "bench.ticks", str(site.site.way_in), str(total)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        async with _tickers(site) as tickers:
            await asyncio.to_thread(process.stdout.readline)
            start = time.perf_counter()
            await asyncio.gather(*(each.show(bytes(16)) for each in tickers))
            await asyncio.to_thread(process.stdout.readline)
            return time.perf_counter() - start
    finally:
        process.kill()
        process.wait(10)


async def _receive(way_in: str, total: int) -> None:
    async with aiomqtt.Client(way_in, 1, transport="unix", identifier="/gateway") as client:
        await client.subscribe("farthing/+/tick", qos=1)
        print("ready", flush=True)
        received = 0
        async for _ in client.messages:
            received += 1
            if received == total:
                break
        print("received", flush=True)


async def _through_the_gateway(site: Prepared, total: int) -> float:
    """Seconds until the gateway has taken every tick; then every use ends where its ticks had brought it."""
    async with _tickers(site) as tickers:
        for each in tickers:
            await each.ask(each.element.intent(), AnswerStatus.GRANTED)
            await each.ask(each.element.chain(each.chain[0], TICKS_EACH), AnswerStatus.RECORDED)
        start = time.perf_counter()
        taken = asyncio.create_task(_until_taken(site, total))
        await asyncio.gather(*(each.show(each.element.authorization) for each in tickers))
        await taken
        took_s = time.perf_counter() - start
        for each in tickers:
            each.element.value += TICKS_EACH
            await each.ask(each.element.end(), AnswerStatus.RECORDED)
        return took_s


async def _until_taken(site: Prepared, total: int) -> None:
    run_file = site.site.folder / "state" / "run.json"
    address = json.loads(run_file.read_text())["addresses"]["http"]  # once, before anything is measured
    wanted = f'farthing_edge_ticks_total{{channel="mqtt"}} {float(total)}'
    async with asyncio.timeout(TAKEN_S), httpx.AsyncClient() as http:
        while wanted not in (await http.get(f"http://{address}/metrics")).text:  # noqa: ASYNC110  # another process
            await asyncio.sleep(LOOK_S)


if __name__ == "__main__":
    asyncio.run(_receive(sys.argv[1], int(sys.argv[2])))
