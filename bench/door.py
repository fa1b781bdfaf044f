"""C2: lines a second from gRPC to receipt, beside the call that posts the same batches in SQL alone, in the same run."""

import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc.aio

from bench.ledger import ACCOUNTS, TERMS, WARM_UP, Key, add_gateway, analyze, batches, database
from bench.posting import post_recorded, record
from bench.processes import cpu_s
from bench.pushing import write
from farthing.clock import real_clock
from farthing.ids import GatewayId
from farthing.v1 import gateway_sync_pb2_grpc
from farthing_cloud.callers import Caller
from farthing_cloud.database import Pool
from farthing_cloud.interpreter import set_interpreter
from farthing_cloud.ledger import metrics
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.door import GatewaySyncServicer
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.signing import PublicKeys, Signatures
from farthing_cloud.ledger.store.postgres import PostgresStore

C2_LINES, C2_BATCHES = 1_000, 40
C2_GATEWAYS: Final = (1, 2)
C2_BUDGET: Final = 25_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pushed:
    """What one gateway saw: when its warm-up and when all of it was receipted, and what it used; seconds."""

    warm: float
    ended: float
    cpu_s: float


class _Pushing:
    """A gateway's own process, that waits to be told the port."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    @classmethod
    async def start(cls, name: GatewayId, file: Path) -> "_Pushing":
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "bench.pushing", name, str(file), str(WARM_UP)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        pushing = cls(child)
        if await pushing._says() != "ready":
            raise RuntimeError(f"the gateway {name} of the bench did not start")
        return pushing

    async def push(self, port: int) -> _Pushed:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{port}\n".encode())
        await self._child.stdin.drain()
        warm, ended, cpu_s = map(float, (await self._says()).split())
        await self._child.wait()
        return _Pushed(warm=warm, ended=ended, cpu_s=cpu_s)

    async def _says(self) -> str:
        assert self._child.stdout is not None
        return (await self._child.stdout.readline()).decode().strip()


async def _postgres_cpu_s(pool: Pool) -> float:
    """Seconds of processor that the server's processes have used."""
    async with pool.connection() as connection:
        rows = await (await connection.execute(b"SELECT pid FROM pg_stat_activity")).fetchall()
    return sum(cpu_s(row[0]) for row in rows)


async def _c2(gateways: int) -> list[dict[str, object]]:
    key, token = Key(), Key()
    before = sum(metrics.collisions().values())
    names = [GatewayId(f"G{number}") for number in range(1, gateways + 1)]
    lines = gateways * (C2_BATCHES - WARM_UP) * C2_LINES
    # First: a server is not started beside the threads of gRPC, nor a gateway.
    recorded = await record(names, C2_BATCHES, C2_LINES, ACCOUNTS)
    async with database() as pool:
        # The slowest writer's whole time, as the figure itself is taken.
        floor = lines / max(map(sum, await post_recorded(pool, names, recorded)))
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir="/tmp") as folder:
        async with database() as pool:
            store = PostgresStore(pool)
            ledger = Ledger(store, terms=TERMS, receipt_keys=())
            pushing = []
            for name in names:
                quotas = await add_gateway(ledger, name, key.spki, ACCOUNTS)
                file = Path(folder, name)
                write(file, (key.seal(raw) for raw in batches(quotas, C2_BATCHES, C2_LINES, name)))
                pushing.append(await _Pushing.start(name, file))
            await analyze(pool)
            signatures = Signatures(
                signer=token, keys=PublicKeys(receipt=token.spki, directive=token.spki), store=store
            )
            server = grpc.aio.server()
            gateway_sync_pb2_grpc.add_GatewaySyncServicer_to_server(
                GatewaySyncServicer(
                    ledger=ledger,
                    signatures=signatures,
                    clock=real_clock(),
                    caller=lambda context: Caller(kind="gateway", id=dict(context.invocation_metadata())["who"]),
                    events=Bell(),
                    head_interval_s=60,
                ),
                server,
            )
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            ours_s, theirs_s = time.process_time(), await _postgres_cpu_s(pool)
            pushed = await asyncio.gather(*(each.push(port) for each in pushing))
            ours_s, theirs_s = time.process_time() - ours_s, await _postgres_cpu_s(pool) - theirs_s
            await server.stop(None)
    # From when the first was warm: what the others did to become so is not counted, so this is the least.
    value = lines / (max(each.ended for each in pushed) - min(each.warm for each in pushed))
    collided = sum(metrics.collisions().values()) - before
    who = f"{gateways} gateway{'s' if gateways > 1 else ''} at once, each a process of its own"
    every = gateways * C2_BATCHES * C2_LINES
    return [
        _figure(
            "C2",
            f"lines/s from gRPC to receipt, {C2_LINES:,} a batch, {who}, signatures verified and made;"
            f" {collided} transactions had to be done again",
            value,
            "lines/s",
            floor,
            "the call that posts the same batches and its commit, in SQL alone, as many writers",
            C2_BUDGET,
        ),
        *(
            _figure("C2-cpu", f"processor time of a line, {who}: {what}", seconds * 1e6 / every, "µs/line")
            for what, seconds in (
                ("the service", ours_s),
                ("PostgreSQL", theirs_s),
                ("the gateways", sum(each.cpu_s for each in pushed)),
            )
        ),
    ]


async def _each(counts: tuple[int, ...]) -> list[dict[str, object]]:
    return [figure for count in counts for figure in await _c2(count)]


def c2() -> list[dict[str, object]]:
    """Lines a second through the door: one gateway, and several that wait for each other's rows."""
    # As the daemon does.
    set_interpreter()
    return asyncio.run(_each(C2_GATEWAYS))


def _figure(
    name: str,
    what: str,
    value: float,
    unit: str,
    floor: float | None = None,
    floor_what: str = "",
    budget: int | None = None,
) -> dict[str, object]:
    return {
        "id": name,
        "what": what,
        "value": round(value),
        "unit": unit,
        "floor": None if floor is None else round(floor),
        "floor_what": floor_what,
        "ratio": None if floor is None else round(value / floor, 3),
        "budget": "" if budget is None else budget,
        "met": None if budget is None else value >= budget,
    }
