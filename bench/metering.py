"""E2: usage messages a second, durable, over MQTT with QoS 1: signed readings of 20 chargers, each with an open session.

The readings are signed beforehand and sent as fast as the broker takes them, so many ahead of their answers that the gateway is never idle.
Two floors in the same run: a bare aiomqtt client that takes the same bytes over the gateway's own way to the broker and does nothing with them, and
one core's signature verifications. A usage message cannot be cheaper than the dearer of the two.
"""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiomqtt

from bench.edge import verifications_a_second
from bench.pictures import bars
from bench.site import STARTED_S, UNLIMITED, Prepared, Site, SoftElement, disk, prepared
from farthing.device.messages import AnswerStatus, decode_answer

DEVICES = 20
READINGS = 6_000
#: Sent and not yet answered, over all devices: twice what the gateway commits in one group.
AHEAD = 512
BUDGET_SHARE = 0.7


def e2() -> list[dict[str, object]]:
    """Signed readings a second, and what bounds them."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir=disk()) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[dict[str, object]]:
    elements = [SoftElement(f"chg-{n}", sessions=True) for n in range(DEVICES)]
    async with prepared(folder, elements, limits=UNLIMITED) as ready:
        intents = [each.intent() for each in elements]
        readings = [elements[n % DEVICES].reading() for n in range(READINGS)]
        bare = await _bare(ready, readings)
        async with ready.running():
            opened = await _answered(ready, intents, AnswerStatus.GRANTED)
            assert opened > 0
            readings_a_second = await _answered(ready, readings, AnswerStatus.RECORDED)
    verifications = verifications_a_second()
    floor = min(bare, verifications)
    bars(
        "E2",
        "E2: signed usage messages a second, durable, MQTT QoS 1",
        {"signed readings": readings_a_second, "bare receive loop": bare, "verifications, one core": verifications},
        unit="1/s",
        budget=BUDGET_SHARE * floor,
    )
    return [
        {
            "id": "E2 readings",
            "what": "signed readings/s, durable, MQTT QoS 1",
            "value": readings_a_second,
            "unit": "1/s",
            "floor": floor,
            "floor_what": f"the slower of a bare aiomqtt receive loop {bare:,.0f}/s and one core's verifications {verifications:,.0f}/s",
            "ratio": readings_a_second / floor,
            "budget": f"≥ {BUDGET_SHARE} × floor",
            "met": readings_a_second >= BUDGET_SHARE * floor,
        }
    ]


async def _answered(ready: Prepared, envelopes: Sequence[bytes], expected: AnswerStatus) -> float:
    """Envelopes answered a second; envelope n is device n modulo ``DEVICES``'s."""
    room = asyncio.Semaphore(AHEAD)
    answered = 0
    odd: dict[str, int] = {}
    all_here = asyncio.Event()

    async def listen(client: aiomqtt.Client) -> None:
        nonlocal answered
        async for message in client.messages:
            answer = decode_answer(bytes(message.payload))
            if answer.status is not expected:
                odd[f"{answer.status.name} {answer.refusal}"] = odd.get(f"{answer.status.name} {answer.refusal}", 0) + 1
            answered += 1
            room.release()
            if answered == len(envelopes):
                all_here.set()

    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        clients = [await stack.enter_async_context(ready.client(n)) for n in range(DEVICES)]
        for client, element in zip(clients, ready.elements, strict=True):
            await client.subscribe(f"farthing/{element.name}/down", qos=1)
        listeners = [tasks.create_task(listen(client)) for client in clients]
        began = time.perf_counter()
        for n, envelope in enumerate(envelopes):
            await room.acquire()
            # paho's own: a task that waits for each PUBACK would take processor from what is measured.
            clients[n % DEVICES]._client.publish(f"farthing/{ready.elements[n % DEVICES].name}/up", envelope, qos=1)  # noqa: SLF001 no public way
        async with asyncio.timeout(STARTED_S):
            await all_here.wait()
        took_s = time.perf_counter() - began
        for listener in listeners:
            listener.cancel()
    if odd:
        raise RuntimeError(f"E2 measures {expected.name}, and some were not: {odd}")
    return len(envelopes) / took_s


async def _bare(ready: Prepared, envelopes: Sequence[bytes]) -> float:
    """Messages a second that a bare client takes over the gateway's way to the broker, while the same devices send."""
    with _receiving(ready.site, len(envelopes)) as process:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(ready.client(n)) for n in range(DEVICES)]
            for n, envelope in enumerate(envelopes):
                clients[n % DEVICES]._client.publish(f"farthing/{ready.elements[n % DEVICES].name}/up", envelope, qos=1)  # noqa: SLF001 no public way
                if n % AHEAD == 0:
                    await asyncio.sleep(0)
            line = await asyncio.to_thread(process.stdout.readline)
    return float(line)


@contextlib.contextmanager
def _receiving(site: Site, count: int) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.metering", "receive", str(site.way_in), str(count)], stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


async def _receive(way_in: str, count: int) -> None:
    """Take ``count`` messages, say how many a second: from the first to the last."""
    async with aiomqtt.Client(way_in, 1, transport="unix") as client:
        await client.subscribe("farthing/+/up", qos=1)
        print("ready", flush=True)
        received = 0
        began = 0.0
        async for _ in client.messages:
            began = began or time.perf_counter()
            received += 1
            if received == count:
                print(count / (time.perf_counter() - began), flush=True)
                return


if __name__ == "__main__" and sys.argv[1:2] == ["receive"]:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_receive(sys.argv[2], int(sys.argv[3])))
