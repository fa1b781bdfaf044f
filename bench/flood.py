"""A flood from one device: what 20 others hear of it.

The others ask at 100 a second together; the flood comes from a process of its own, through its own certificate, as fast as the broker takes it: rubbish,
its own statements again and again, and statements of the others that it overheard, sent in their names.
The floor is the same load without the flood, a moment before.
"""

import asyncio
import contextlib
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiomqtt

from bench.mqtt import load
from bench.pictures import Mark, histogram
from bench.processes import cpu_s
from bench.site import MS, Prepared, SoftElement, disk, metric, prepared, quantile, status
from farthing.refusal import Refusal

OTHERS = 20
RATE_PER_S = 100
MEASURED_S = 6
#: Far above any rate that a device is allowed, and what one more process on these cores can send.
FLOOD_PER_S = 1_500
BUDGET_RATIO = 2.0


def flood() -> list[dict[str, object]]:
    """Latency of the others with the flood beside without."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir=disk()) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[dict[str, object]]:
    # The last one is the flood.
    elements = [SoftElement(f"toll-{n}") for n in range(OTHERS + 1)]
    count = RATE_PER_S * MEASURED_S

    def passages(first: int) -> list[bytes]:
        return [elements[n % OTHERS].passage(n // OTHERS + 1) for n in range(first, first + count)]

    async with prepared(folder, elements) as ready, ready.running() as process:
        began_s = cpu_s(process.pid)
        quiet = await load(ready, passages(0), rate_per_s=RATE_PER_S, devices=OTHERS)
        quiet_s = cpu_s(process.pid) - began_s
        overheard = folder / "overheard"
        overheard.write_bytes(elements[0].passage(10_000))
        with _flooding(ready, overheard) as flooding:
            assert flooding.stdout is not None
            await asyncio.to_thread(flooding.stdout.readline)
            flooded = await load(
                ready, passages(count), rate_per_s=RATE_PER_S, devices=OTHERS, first_number=count // OTHERS
            )
        flooded_s = cpu_s(process.pid) - began_s - quiet_s
        page, turned_away = await status(ready.site), await metric(ready.site, "farthing_edge_turned_away_total")
    sent = {number: times for number, times in page["refusals"].items() if int(number) != Refusal.OVERLOADED}
    histogram(
        "flood",
        f"{RATE_PER_S} authorizations/s of {OTHERS} devices beside another one's flood",
        {"with the flood": flooded, "without": quiet},
        marks=(Mark("p99 without", quantile(quiet, 0.99) * MS), Mark("p99 with", quantile(flooded, 0.99) * MS)),
    )
    rows: list[dict[str, object]] = []
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        value, floor = quantile(flooded, share) * MS, quantile(quiet, share) * MS
        rows.append(
            {
                "id": f"flood {name}",
                "what": f"others' authorizations beside a flood of {FLOOD_PER_S:,}/s (what it sent was refused: {sent})",
                "value": value,
                "unit": "ms",
                "floor": floor,
                "floor_what": "the same load without the flood",
                "ratio": value / floor,
                "budget": f"≤ {BUDGET_RATIO:g} × floor",
                "met": value <= BUDGET_RATIO * floor,
            }
        )
    rows.append(
        {
            "id": "flood cpu",
            "what": f"processor of farthing-edge for each message of the flood ({turned_away:,.0f} dropped unread)",
            "value": (flooded_s - quiet_s) / max(1.0, turned_away) * MS,
            "unit": "ms",
            "floor": quiet_s / count * MS,
            "floor_what": "for each authorization, without the flood",
            "ratio": (flooded_s - quiet_s) / max(1.0, turned_away) / (quiet_s / count),
            "budget": "",
            "met": None,
        }
    )
    return rows


@contextlib.contextmanager
def _flooding(ready: Prepared, overheard: Path) -> "Iterator[subprocess.Popen[bytes]]":
    key, element = ready.keys[OTHERS], ready.elements[OTHERS]
    own = overheard.with_name("own")
    own.write_bytes(element.passage(1))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.flood", element.name, str(ready.site.broker_port)),
            *map(str, (key.ca_file, key.certificate_file, key.key_file, own, overheard)),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


async def _flood(name: str, port: int, roots: str, certificate: str, key: str, own: bytes, overheard: bytes) -> None:
    context = ssl.create_default_context(cafile=roots)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    async with aiomqtt.Client("127.0.0.1", port, tls_context=context) as client:
        print("ready", flush=True)
        began, sent = loop.time(), 0
        while True:
            due = int((loop.time() - began) * FLOOD_PER_S)
            for n in range(sent, due):
                # Its own topic, and one that the broker's rules deny it.
                client._client.publish(f"farthing/{name}/up", (b"rubbish", own, overheard)[n % 3], qos=0)  # noqa: SLF001 no public way
                if n % 10 == 0:
                    client._client.publish("farthing/toll-0/up", overheard, qos=0)  # noqa: SLF001 no public way
            sent = max(sent, due)
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            _flood(
                sys.argv[1],
                int(sys.argv[2]),
                sys.argv[3],
                sys.argv[4],
                sys.argv[5],
                *(Path(file).read_bytes() for file in sys.argv[6:8]),
            )
        )
