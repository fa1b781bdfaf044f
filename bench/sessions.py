"""1,000 devices in session: E5, the gateway's resident memory then; and the soak, mixed load from all of them over minutes.

Every device is a charger with a certificate and a TLS connection of its own. ``python -m bench soak`` (or ``make bench SOAK=1``) keeps them connected for
``SOAK_S`` seconds (300 unless told otherwise): readings, and sessions that end and begin again, from whichever device is idle longest.
"""

import asyncio
import contextlib
import os
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiomqtt

from bench.pictures import Mark, bars, histogram, over_time
from bench.processes import cpu_s, resident_mb
from bench.site import MS, Prepared, SoftElement, disk, prepared, quantile
from farthing.device.messages import AnswerStatus, decode_answer

DEVICES = 1_000
#: Handshakes at once: a site's devices do not all come back in one second.
CONNECTING = 20
E5_BUDGET_MB = 120.0
SOAK_S = int(os.environ.get("SOAK_S", "300"))
#: A site of 1,000 chargers that report every seven seconds, and ten sessions a second that end and begin.
READINGS_PER_S = 140
SESSIONS_PER_S = 10
#: Nothing above what a device waits before it asks again.
LATE_S = 15.0


def e5() -> list[dict[str, object]]:
    """Resident memory with all devices in session, beside the same daemon that nobody has spoken to."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir=disk()) as folder:
        return asyncio.run(_e5(Path(folder)))


def soak() -> list[dict[str, object]]:
    """Latency of a mixed load, memory and processor over its time."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir=disk()) as folder:
        return asyncio.run(_soak(Path(folder)))


class Charger:
    """One device that asks one thing at a time, and hears its answer."""

    def __init__(self, ready: Prepared, number: int) -> None:
        self.element = ready.elements[number]
        self._client = ready.client(number)
        self._answered: asyncio.Future[AnswerStatus] | None = None

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """While it is, it hears answers."""
        name = self.element.name
        async with self._client as client:
            await client.subscribe(f"farthing/{name}/down", qos=1)
            listening = asyncio.create_task(self._listen(client))
            try:
                yield
            finally:
                listening.cancel()

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            if self._answered is not None and not self._answered.done():
                self._answered.set_result(decode_answer(bytes(message.payload)).status)

    async def ask(self, envelope: bytes) -> float:
        """Seconds to the answer, which is a yes; ``LATE_S`` when it says later, or nothing."""
        loop = asyncio.get_running_loop()
        self._answered = loop.create_future()
        began = loop.time()
        # paho's own: a task that waits for each PUBACK would take processor from what is measured.
        self._client._client.publish(f"farthing/{self.element.name}/up", envelope, qos=1)  # noqa: SLF001 no public way
        try:
            status = await asyncio.wait_for(self._answered, LATE_S)
        except TimeoutError:
            return LATE_S
        if status is AnswerStatus.LATER:
            return LATE_S
        if status not in (AnswerStatus.GRANTED, AnswerStatus.RECORDED):
            raise RuntimeError(f"{self.element.name} heard {status.name}")
        return loop.time() - began


def _elements() -> list[SoftElement]:
    return [SoftElement(f"chg-{n}", sessions=True) for n in range(DEVICES)]


async def _in_session(chargers: Sequence[Charger], stack: contextlib.AsyncExitStack | None) -> None:
    """Open a session of each; with ``stack`` they stay connected."""
    turn = asyncio.Semaphore(CONNECTING)

    async def one(charger: Charger) -> None:
        async with turn:
            if stack is not None:
                await stack.enter_async_context(charger.connected())
                await charger.ask(charger.element.intent())
                return
            async with charger.connected():
                await charger.ask(charger.element.intent())

    async with asyncio.TaskGroup() as tasks:
        for charger in chargers:
            tasks.create_task(one(charger))


async def _e5(folder: Path) -> list[dict[str, object]]:
    async with prepared(folder, _elements()) as ready, ready.running() as process:
        floor = resident_mb(process.pid)
        await _in_session([Charger(ready, n) for n in range(DEVICES)], None)
        value = resident_mb(process.pid)
    bars(
        "E5",
        f"E5: resident memory of farthing-edge with {DEVICES:,} devices in session",
        {f"{DEVICES:,} in session": value, "none (told of all of them)": floor},
        unit="MB",
        budget=E5_BUDGET_MB,
    )
    return [
        {
            "id": "E5",
            "what": f"resident memory with {DEVICES:,} devices in session",
            "value": value,
            "unit": "MB",
            "floor": floor,
            "floor_what": "the same daemon, told of all devices, before any of them spoke",
            "ratio": value / floor,
            "budget": f"≤ {E5_BUDGET_MB:g} MB",
            "met": value <= E5_BUDGET_MB,
        }
    ]


class _Soak:
    """What is measured, second by second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.latencies_s: dict[str, list[float]] = {"readings": [], "intents": [], "ends": []}
        self.memory_mb: list[tuple[float, float]] = []
        self.processor: list[tuple[float, float]] = []

    async def watch(self) -> None:
        """Look once a second, until cancelled."""
        loop = asyncio.get_running_loop()
        began = last = loop.time()
        used_s = cpu_s(self._pid)
        while True:
            await asyncio.sleep(1)
            now, used_now_s = loop.time(), cpu_s(self._pid)
            self.memory_mb.append((now - began, resident_mb(self._pid)))
            self.processor.append((now - began, 100 * (used_now_s - used_s) / (now - last)))
            last, used_s = now, used_now_s

    async def reading(self, charger: Charger, idle: deque[Charger]) -> None:
        """One more watt-hour."""
        self.latencies_s["readings"].append(await charger.ask(charger.element.reading()))
        idle.append(charger)

    async def session(self, charger: Charger, idle: deque[Charger]) -> None:
        """One session ends, the next begins."""
        self.latencies_s["ends"].append(await charger.ask(charger.element.end()))
        self.latencies_s["intents"].append(await charger.ask(charger.element.intent()))
        idle.append(charger)


async def _soak(folder: Path) -> list[dict[str, object]]:
    async with prepared(folder, _elements()) as ready, ready.running() as process:
        chargers = [Charger(ready, n) for n in range(DEVICES)]
        async with contextlib.AsyncExitStack() as stack:
            await _in_session(chargers, stack)
            soaked = _Soak(process.pid)
            watching = asyncio.create_task(soaked.watch())
            skipped = await _mixed(soaked, deque(chargers))
            watching.cancel()
    return _rows(soaked, skipped)


async def _mixed(soaked: _Soak, idle: deque[Charger]) -> int:
    """The load; how often no device was idle when one was due."""
    loop = asyncio.get_running_loop()
    began, skipped = loop.time(), 0
    per_s = READINGS_PER_S + SESSIONS_PER_S
    async with asyncio.TaskGroup() as tasks:
        for n in range(per_s * SOAK_S):
            wait_s = began + n / per_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if not idle:
                skipped += 1
                continue
            say = soaked.session if n % per_s < SESSIONS_PER_S else soaked.reading
            tasks.create_task(say(idle.popleft(), idle))
    return skipped


def _rows(soaked: _Soak, skipped: int) -> list[dict[str, object]]:
    every = [latency for latencies in soaked.latencies_s.values() for latency in latencies]
    p50, p99 = quantile(every, 0.5) * MS, quantile(every, 0.99) * MS
    what = f"{DEVICES:,} devices in session, {READINGS_PER_S} readings and {SESSIONS_PER_S} sessions a second for {SOAK_S} s"
    histogram("soak-latency", what, soaked.latencies_s, marks=(Mark("p50", p50), Mark("p99", p99)))
    over_time("soak-memory", what, {"farthing-edge": soaked.memory_mb}, unit="MB resident", budget=E5_BUDGET_MB)
    over_time("soak-processor", what, {"farthing-edge": soaked.processor}, unit="% of one core")
    first = quantile([value for _, value in soaked.memory_mb[:10]], 0.5)
    last = quantile([value for _, value in soaked.memory_mb[-10:]], 0.5)
    late = sum(latency >= LATE_S for latency in every)
    rows: list[dict[str, object]] = [
        _row("soak p50", f"{what}; {late} late, {skipped} skipped", p50, "ms"),
        _row("soak p99", what, p99, "ms"),
        _row("soak processor", what, quantile([value for _, value in soaked.processor], 0.5), "% of one core"),
    ]
    return [
        *rows,
        {
            **_row("soak memory", f"resident at the end; {len(every):,} statements later", last, "MB"),
            "floor": first,
            "floor_what": "in the first ten seconds",
            "ratio": last / first,
            "budget": f"≤ {E5_BUDGET_MB:g} MB",
            "met": last <= E5_BUDGET_MB,
        },
    ]


def _row(name: str, what: str, value: float, unit: str) -> dict[str, object]:
    return {
        "id": name,
        "what": what,
        "value": value,
        "unit": unit,
        "floor": None,
        "floor_what": "",
        "ratio": None,
        "budget": "",
        "met": None,
    }
