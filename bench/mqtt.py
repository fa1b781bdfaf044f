"""E1: authorize over MQTT, signed and durable, 500 a second, with broker and load on the same cores.

One gateway as it is run in the field, 40 toll transponders that ask and use in one step, one account, one quota. The load sends statements
signed beforehand, at fixed times, and measures from the planned time of sending to the answer: what waits in a queue counts.

The floor is measured first, on the same broker with the same load: an echo in the gateway's place, then the parts an authorization
cannot do without: one verification, one signature in the token, one fdatasync of a page.
"""

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiomqtt

from bench.devices import Load, send
from bench.pictures import Mark, histogram
from bench.processes import cpu_s, resident_mb
from bench.site import GATEWAY, MS, UNLIMITED, Prepared, Site, SoftElement, disk, prepared, quantile
from farthing.device.cose import VerifyingKey
from farthing.device.messages import AnswerStatus, decode_answer

DEVICES = 40
RATE_PER_S = 500
WARM_UP_S = 2
MEASURED_S = 10
P99_BUDGET_MS = 10.0
P50_BUDGET_RATIO = 2.0
#: What a passage counts that was told to come later: a gateway that cannot keep up must not look fast.
LATE_S = 15.0


def e1() -> list[dict[str, object]]:
    """p50 and p99 of an authorization, and what it takes of processor and memory."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir=disk()) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[dict[str, object]]:
    elements = [SoftElement(f"toll-{n}") for n in range(DEVICES)]
    total = RATE_PER_S * (WARM_UP_S + MEASURED_S)
    passages = [elements[n % DEVICES].passage(n // DEVICES + 1) for n in range(total)]
    # A load that catches up after a hiccup of this machine's is no flood.
    async with prepared(folder, elements, limits=UNLIMITED) as ready:
        floor = await _floor(ready, passages)
        async with ready.running() as process:
            before_s = cpu_s(process.pid)
            latencies = await load(ready, passages, rate_per_s=RATE_PER_S, warm_up_s=WARM_UP_S)
            used_s = cpu_s(process.pid) - before_s
            memory_mb = resident_mb(process.pid)
    return _rows(floor, latencies, cpu_s_each=used_s / total, memory_mb=memory_mb)


async def load(
    ready: Prepared,
    passages: Sequence[bytes],
    *,
    rate_per_s: int,
    warm_up_s: int = 0,
    devices: int = DEVICES,
    first_number: int = 0,
    check: bool = True,
) -> list[float]:
    """Seconds from the planned time of sending to the answer, of every passage after the warm-up; ``LATE_S`` where none was given.

    Passage n is device n modulo ``devices``'s, number n divided by it, after ``first_number``; ``check``: answers are grants, else they are echoes.
    """
    outcome = await asyncio.to_thread(
        send,
        Load(
            port=ready.site.broker_port,
            seats=ready.seats(devices),
            messages=passages,
            rate_per_s=rate_per_s,
        ),
    )
    answered: dict[int, float] = {}
    refused: dict[str, int] = {}
    echoes = [0] * devices
    for at_s, device, message in outcome.answers:
        if not check:
            answered[device + echoes[device] * devices] = at_s
            echoes[device] += 1
            continue
        answer = decode_answer(message)
        if answer.status is AnswerStatus.GRANTED and answer.answers is not None:
            answered[device + (answer.answers[1] - 1 - first_number) * devices] = at_s
        elif answer.status is not AnswerStatus.LATER:
            what = f"{answer.status.name} {answer.refusal}"
            refused[what] = refused.get(what, 0) + 1
    if refused:
        raise RuntimeError(f"E1 measures grants, and some were none: {refused}")
    warm = rate_per_s * warm_up_s
    return [answered[n] - due_s if n in answered else LATE_S for n, due_s in enumerate(outcome.due_s)][warm:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Seconds: the echo at this load, and each part by itself."""

    echo_s: list[float]
    verify_s: float
    sign_s: float
    sync_s: float
    sync_99_s: float

    @property
    def parts_s(self) -> float:
        return self.verify_s + self.sign_s + self.sync_s


async def _floor(ready: Prepared, passages: Sequence[bytes]) -> Floor:
    with _echo_process(ready.site) as process:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        echo_s = await load(ready, passages, rate_per_s=RATE_PER_S, warm_up_s=WARM_UP_S, check=False)
    verify_s = _verify_s(ready.elements[0], passages[0])
    signing = []
    for _ in range(300):
        began = time.perf_counter()
        await ready.token.sign("grant", b"x" * 300)
        signing.append(time.perf_counter() - began)
    syncing = _sync_s(ready.site.folder / "page")
    return Floor(
        echo_s=echo_s,
        verify_s=verify_s,
        sign_s=statistics.median(signing),
        sync_s=quantile(syncing, 0.5),
        sync_99_s=quantile(syncing, 0.99),
    )


@contextlib.contextmanager
def _echo_process(site: Site) -> "Iterator[subprocess.Popen[bytes]]":
    """In the gateway's place and by its way: through the broker's Unix socket."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.mqtt", "echo", str(site.way_in)],
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def _verify_s(element: SoftElement, passage: bytes) -> float:
    from farthing.device.cose import decode_sign1
    from farthing.device.messages import decode_envelope

    sign1 = decode_sign1(decode_envelope(passage).statement)
    key = VerifyingKey.from_spki(element.spki)
    took = []
    for _ in range(300):
        began = time.perf_counter()
        assert key.verify("intent", GATEWAY, sign1.payload, sign1.signature)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def _sync_s(file: Path) -> list[float]:
    """One page appended and made durable, as a group commit does: a thousand times."""
    took = []
    with file.open("wb", buffering=0) as opened:
        for _ in range(1_000):
            opened.write(bytes(4_096))
            began = time.perf_counter()
            os.fdatasync(opened.fileno())
            took.append(time.perf_counter() - began)
    return took


async def _echo(way_in: str) -> None:
    async with aiomqtt.Client(way_in, 1, transport="unix", max_inflight_messages=1_000) as client:
        await client.subscribe("farthing/+/up", qos=1)
        print("ready", flush=True)
        async for message in client.messages:
            topic = message.topic.value.removesuffix("/up") + "/down"
            # paho's own: a task that waits for each PUBACK would make the floor dearer than an echo has to be.
            client._client.publish(topic, message.payload, qos=1)  # noqa: SLF001 no public way


def _rows(floor: Floor, latencies: list[float], *, cpu_s_each: float, memory_mb: float) -> list[dict[str, object]]:
    what = f"authorize over MQTT, signed, durable, {RATE_PER_S}/s"
    parts = f"+ verify {floor.verify_s * MS:.2f} + sign {floor.sign_s * MS:.2f} + fdatasync {floor.sync_s * MS:.2f} ms"
    p50, p99 = quantile(latencies, 0.5) * MS, quantile(latencies, 0.99) * MS
    floor_50 = (quantile(floor.echo_s, 0.5) + floor.parts_s) * MS
    # What the machine itself does to one in a hundred: on the way to the broker and back, or at the disk.
    floor_99 = (quantile(floor.echo_s, 0.99) + floor.parts_s - floor.sync_s + floor.sync_99_s) * MS
    histogram(
        "E1",
        f"E1: {what}",
        {"authorize": latencies, "echo in the gateway's place": floor.echo_s},
        marks=(Mark("budget p99", P99_BUDGET_MS), Mark("p50", p50), Mark("p99", p99)),
    )
    return [
        {
            "id": "E1 p50",
            "what": what,
            "value": p50,
            "unit": "ms",
            "floor": floor_50,
            "floor_what": f"MQTT echo p50 {parts}",
            "ratio": p50 / floor_50,
            "budget": "≤ 2 × floor",
            "met": p50 <= P50_BUDGET_RATIO * floor_50,
        },
        {
            "id": "E1 p99",
            "what": what,
            "value": p99,
            "unit": "ms",
            "floor": floor_99,
            "floor_what": f"MQTT echo p99 + verify + sign + fdatasync p99 {floor.sync_99_s * MS:.2f} ms",
            "ratio": p99 / floor_99,
            "budget": "≤ 10 ms",
            "met": p99 <= P99_BUDGET_MS,
        },
        {
            "id": "E1 cpu",
            "what": "processor time of farthing-edge per authorization, all threads",
            "value": cpu_s_each * MS,
            "unit": "ms",
            "floor": (floor.verify_s + floor.sign_s) * MS,
            "floor_what": "one verify + one sign",
            "ratio": cpu_s_each / (floor.verify_s + floor.sign_s),
            "budget": "",
            "met": None,
        },
        {
            "id": "E1 memory",
            "what": f"resident memory of farthing-edge after {RATE_PER_S * (WARM_UP_S + MEASURED_S)} authorizations",
            "value": memory_mb,
            "unit": "MB",
            "floor": None,
            "floor_what": "",
            "ratio": None,
            "budget": "≤ 120 MB (E5: with 1,000 devices)",
            "met": memory_mb <= 120,
        },
    ]


if __name__ == "__main__" and sys.argv[1:2] == ["echo"]:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_echo(sys.argv[2]))
