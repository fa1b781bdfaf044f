"""E2: usage messages a second, durable, over MQTT with QoS 1: signed readings of 20 chargers, each with an open session.

The readings are signed beforehand and sent, by a process of their own, so many ahead of their answers that the gateway is never idle.
Two floors in the same run: a bare aiomqtt client that takes the same bytes over the gateway's own way to the broker and does nothing with them, and
one core's signature verifications. A usage message cannot be cheaper than the dearer of the two.

Of a charger that sends a dozen readings while one commit is written, the gateway answers all with one grant. Chargers in the field send one a minute: how many there are
of each in a group is part of what is said, and so is the processor time of a reading.
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

from bench.devices import Load, Outcome, send
from bench.edge import verifications_a_second
from bench.pictures import bars
from bench.processes import cpu_s
from bench.site import MS, UNLIMITED, Prepared, Site, SoftElement, disk, prepared
from farthing.device.messages import AnswerStatus, decode_answer

DEVICES = 20
READINGS = 6_000
#: Sent and not yet answered, over all devices: eight times what the gateway commits in one group.
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
        async with ready.running() as process:
            opened = await _answered(ready, intents, AnswerStatus.GRANTED)
            assert opened > 0
            before_s = cpu_s(process.pid)
            readings_a_second = await _answered(ready, readings, AnswerStatus.RECORDED)
            cpu_s_each = (cpu_s(process.pid) - before_s) / READINGS
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
            "what": f"signed readings/s, durable, MQTT QoS 1; {DEVICES} chargers, {AHEAD // DEVICES} readings of each under way",
            "value": readings_a_second,
            "unit": "1/s",
            "floor": floor,
            "floor_what": f"the slower of a bare aiomqtt receive loop {bare:,.0f}/s and one core's verifications {verifications:,.0f}/s",
            "ratio": readings_a_second / floor,
            "budget": f"≥ {BUDGET_SHARE} × floor",
            "met": readings_a_second >= BUDGET_SHARE * floor,
        },
        {
            "id": "E2 cpu",
            "what": "processor time of farthing-edge per reading, all threads",
            "value": cpu_s_each * MS,
            "unit": "ms",
            "floor": MS / verifications,
            "floor_what": "one verification",
            "ratio": cpu_s_each * verifications,
            "budget": "",
            "met": None,
        },
    ]


async def _answered(ready: Prepared, envelopes: Sequence[bytes], expected: AnswerStatus) -> float:
    """Envelopes answered a second; envelope n is device n modulo ``DEVICES``'s."""
    outcome = await _sent(ready, envelopes, answers=True)
    odd: dict[str, int] = {}
    for _, _, message in outcome.answers:
        answer = decode_answer(message)
        if answer.status is not expected:
            odd[f"{answer.status.name} {answer.refusal}"] = odd.get(f"{answer.status.name} {answer.refusal}", 0) + 1
    if odd or len(outcome.answers) < len(envelopes):
        raise RuntimeError(f"E2 measures {expected.name}; {len(outcome.answers)} of {len(envelopes)} answered, {odd}")
    return len(envelopes) / (outcome.ended_s - outcome.began_s)


async def _sent(ready: Prepared, envelopes: Sequence[bytes], *, answers: bool) -> Outcome:
    load = Load(
        port=ready.site.broker_port, seats=ready.seats(DEVICES), messages=envelopes, ahead=AHEAD, answers=answers
    )
    return await asyncio.to_thread(send, load)


async def _bare(ready: Prepared, envelopes: Sequence[bytes]) -> float:
    """Messages a second that a bare client takes over the gateway's way to the broker, while the same devices send."""
    with _receiving(ready.site, len(envelopes)) as process:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        await _sent(ready, envelopes, answers=False)
        return float(await asyncio.to_thread(process.stdout.readline))


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
