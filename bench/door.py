"""C2: lines a second from gRPC to receipt, beside the call that posts the same batches in SQL alone, in the same run."""

import asyncio
import time
from typing import Any, Final

import grpc.aio

from bench.ledger import ACCOUNTS, TERMS, WARM_UP, Key, add_gateway, analyze, batches, database
from bench.posting import post_recorded, record
from farthing.clock import real_clock
from farthing.device import cose
from farthing.ids import GatewayId
from farthing.v1 import batch_pb2, gateway_sync_pb2_grpc
from farthing_cloud.callers import Caller
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


async def _pushed(
    stub: gateway_sync_pb2_grpc.GatewaySyncStub, gateway_id: GatewayId, signed: list[batch_pb2.SignedBatch]
) -> float:
    """Send ``signed`` on a stream of its own and take the receipts; when that of the last warm-up batch came (``perf_counter``)."""
    call: Any = stub.PushBatches(metadata=(("who", gateway_id),))  # type: ignore[call-arg]  # the aio stub takes no iterator

    async def send() -> None:
        for batch in signed:
            await call.write(batch)
        await call.done_writing()

    sending = asyncio.create_task(send())
    began = 0.0
    for number in range(len(signed)):
        await call.read()
        if number == WARM_UP - 1:
            began = time.perf_counter()
    await sending
    return began


async def _c2(gateways: int) -> dict[str, object]:
    key, token = Key(), Key()
    before = sum(metrics.collisions().values())
    names = [GatewayId(f"G{number}") for number in range(1, gateways + 1)]
    # First: a server is not started beside the threads of gRPC.
    recorded = await record(names, C2_BATCHES, C2_LINES, ACCOUNTS)
    async with database() as pool:
        # The slowest writer's whole time, as the figure itself is taken.
        slowest_s = max(map(sum, await post_recorded(pool, names, recorded)))
        floor = gateways * (C2_BATCHES - WARM_UP) * C2_LINES / slowest_s
    async with database() as pool:
        store = PostgresStore(pool)
        ledger = Ledger(store, terms=TERMS, receipt_keys=())
        quotas = {name: await add_gateway(ledger, name, key.spki, ACCOUNTS) for name in names}
        await analyze(pool)
        signatures = Signatures(signer=token, keys=PublicKeys(receipt=token.spki, directive=token.spki), store=store)
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
        key_id = cose.key_id(key.spki)
        signed = {
            name: [
                batch_pb2.SignedBatch(
                    batch=raw, signature=key.sign_now(cose.to_be_signed("batch", "cloud", raw)), key_id=key_id
                )
                for raw in batches(quotas[name], C2_BATCHES, C2_LINES, name)
            ]
            for name in names
        }
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = gateway_sync_pb2_grpc.GatewaySyncStub(channel)
            begun = await asyncio.gather(*(_pushed(stub, name, signed[name]) for name in names))
            # From when the first was warm: what the others did to become so is not counted, so this is the least.
            seconds = time.perf_counter() - min(begun)
        await server.stop(None)
    collided = sum(metrics.collisions().values()) - before
    value = gateways * (C2_BATCHES - WARM_UP) * C2_LINES / seconds
    return _figure(
        "C2",
        f"lines/s from gRPC to receipt, {C2_LINES:,} a batch, {gateways} gateway{'s' if gateways > 1 else ''} at once,"
        f" signatures verified and made; {collided} transactions had to be done again",
        value,
        "lines/s",
        floor,
        "the call that posts the same batches and its commit, in SQL alone, as many writers",
        C2_BUDGET,
    )


async def _each(counts: tuple[int, ...]) -> list[dict[str, object]]:
    return [await _c2(count) for count in counts]


def c2() -> list[dict[str, object]]:
    """Lines a second through the door: one gateway, and several that wait for each other's rows."""
    # As the daemon does.
    set_interpreter()
    return asyncio.run(_each(C2_GATEWAYS))


def _figure(
    name: str, what: str, value: float, unit: str, floor: float, floor_what: str, budget: int
) -> dict[str, object]:
    return {
        "id": name,
        "what": what,
        "value": round(value),
        "unit": unit,
        "floor": round(floor),
        "floor_what": floor_what,
        "ratio": round(value / floor, 3),
        "budget": budget,
        "met": value >= budget,
    }
