"""A gateway of the bench as a process of its own, as in the field: it pushes batches that are signed already and takes the receipts.

``python -m bench.pushing NAME FILE WARM_UP``: FILE holds SignedBatch messages, each after its length (four bytes, big endian). It says ``ready``, reads the
door's port from its input, and says when the receipt of the last warm-up batch came, when the last of all did (both ``time.monotonic``, which all
processes of a machine share), and how many seconds of processor it used.
"""

import asyncio
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import grpc.aio

from farthing.v1 import batch_pb2, gateway_sync_pb2_grpc

_LENGTH: Final = 4


def write(path: Path, signed: Iterable[batch_pb2.SignedBatch]) -> None:
    """Write ``signed`` as this program reads it."""
    with path.open("wb") as file:
        for batch in signed:
            raw = batch.SerializeToString()
            file.write(len(raw).to_bytes(_LENGTH, "big") + raw)


def _read(path: Path) -> list[batch_pb2.SignedBatch]:
    raw, signed, place = path.read_bytes(), [], 0
    while place < len(raw):
        begins = place + _LENGTH
        place = begins + int.from_bytes(raw[place:begins], "big")
        signed.append(batch_pb2.SignedBatch.FromString(raw[begins:place]))
    return signed


async def _push(port: str, name: str, signed: list[batch_pb2.SignedBatch], warm_up: int) -> float:
    """Push all on one stream; when the receipt of the last warm-up batch came."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = gateway_sync_pb2_grpc.GatewaySyncStub(channel)
        call: Any = stub.PushBatches(metadata=(("who", name),))  # type: ignore[call-arg]  # the aio stub takes no iterator

        async def send() -> None:
            for batch in signed:
                await call.write(batch)
            await call.done_writing()

        sending = asyncio.create_task(send())
        warm = 0.0
        for number in range(len(signed)):
            receipt = await call.read()
            assert isinstance(receipt, batch_pb2.SignedReceipt), f"the door ended the stream: {await call.details()}"
            if number == warm_up - 1:
                warm = time.monotonic()
        await sending
        return warm


def main() -> None:
    name, path, warm_up = sys.argv[1:]
    signed = _read(Path(path))
    print("ready", flush=True)
    port = sys.stdin.readline().strip()
    used = time.process_time()
    warm = asyncio.run(_push(port, name, signed, int(warm_up)))
    print(warm, time.monotonic(), time.process_time() - used, flush=True)


if __name__ == "__main__":
    main()
