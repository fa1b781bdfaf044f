"""A gateway's engine and journal as a process of its own, spoken to over a socket.

Started with the path of a socket, it listens there and forks a life for each connection: what a life needs is imported once. The first
frame says which life: [path of the journal, epoch, rate, crash point]; the answer is its process id, and any frame lets it begin.

Frames are four bytes of length and a CBOR array [id, operation, arguments]; answers [id, result]. The crash point ("before-commit:3", "after-commit:3", "before-signature:1", "after-signature:1") kills the process from within at the n-th
passage of that point.
"""

import asyncio
import hashlib
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import cbor2
import structlog

from farthing.clock import BusinessClock, Instant
from farthing.device.messages import decode_statement, encode
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.state import CoreSettings
from farthing_edge.engine import Engine, EngineLimits
from farthing_edge.journal import Journal


class CrashPoint:
    """Dies at the n-th passage of one point."""

    def __init__(self, text: str) -> None:
        self.name, _, count = text.partition(":")
        self.left = int(count or 0)

    def pass_by(self, name: str) -> None:
        if name == self.name:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class CrashingJournal(Journal):
    """The real journal; only the moments around its writes can be deadly."""

    def __init__(self, path: Path, point: CrashPoint) -> None:
        super().__init__(path, mark_directory=path.parent, keep_ballast=False)
        self.point = point

    def commit(self, group) -> None:
        self.point.pass_by("before-commit")
        super().commit(group)
        self.point.pass_by("after-commit")

    def sign(self, incarnation, sequence, signature, key_id) -> None:
        self.point.pass_by("before-signature")
        super().sign(incarnation, sequence, signature, key_id)
        self.point.pass_by("after-signature")


class CountingSigner:
    """Another signature every time, like the real thing."""

    kid = b"kid-kid-"

    async def sign(self, to_be_signed: bytes) -> bytes:
        return hashlib.sha256(to_be_signed).digest() + os.urandom(32)

    async def sign_many(self, to_be_signed: list[bytes]) -> list[bytes]:
        return [await self.sign(each) for each in to_be_signed]


class Wire:
    """Frames on pipes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read(self):
        try:
            (size,) = struct.unpack(">I", await self.reader.readexactly(4))
            return cbor2.loads(await self.reader.readexactly(size))
        except asyncio.IncompleteReadError:
            return None

    def write(self, frame) -> None:
        data = cbor2.dumps(frame)
        self.writer.write(struct.pack(">I", len(data)) + data)


async def handle(engine: Engine, wire: Wire, number: int, operation: str, arguments: list) -> None:
    result: object = None
    if operation == "say":
        cose, payload, token_ref = arguments
        answer = await engine.submit(
            commands.DeviceStatement(
                statement=decode_statement(payload),
                cose=cose,
                payload=payload,
                token_ref=token_ref,
                key_epoch=None if token_ref is None else 1,
            )
        )
        result = encode(answer)
    elif operation == "directive":
        (raw,) = arguments
        body = directive_pb2.Directive.FromString(raw)
        await engine.submit(commands.DirectiveArrived(body=body, raw=raw, signature=bytes(64), key_id=bytes(8)))
        result = engine.view.directive_version
    elif operation == "head":
        version, at = arguments
        await engine.submit(commands.HeadArrived(version=version, at=Instant(at)))
    elif operation == "receipt":
        (raw,) = arguments
        await engine.submit(commands.ReceiptArrived(receipt=batch_pb2.Receipt.FromString(raw), raw=raw))
    elif operation == "batches":
        (after,) = arguments
        result = [[row.sequence, row.batch, row.signature] for row in engine.record.batches_to_send(after, 1_000)]
    elif operation == "status":
        view = engine.view
        result = [view.directive_version, view.sealed_sequence, view.counts()]
    elif operation == "detail":
        (sequence,) = arguments
        result = await engine.detail(sequence)
    wire.write([number, result])


async def main(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=2**26)
    wire = Wire(reader, writer)
    path, epoch_us, rate, crash_point = await wire.read()
    wire.write([0, os.getpid()])
    await wire.read()  # the parent holds on to this process now, however soon it dies
    clock = BusinessClock(
        epoch_us=epoch_us,
        real_epoch_us=0,
        rate=rate,
        anchor_real_us=0,
        anchor_monotonic_ns=time.monotonic_ns(),
        monotonic_ns=time.monotonic_ns,
    )
    engine = Engine(
        journal=CrashingJournal(Path(path), CrashPoint(crash_point)),
        settings=CoreSettings(gateway_id="G1", clock_epoch_us=epoch_us, clock_real_epoch_us=0, clock_rate=rate),
        grant_signer=CountingSigner(),
        batch_signer=CountingSigner(),
        clock=clock,
        limits=EngineLimits(tick_ms=20, group=8),
    )
    await engine.start()
    running = asyncio.create_task(engine.run())
    # As the daemon: an engine that cannot go on is the end of its process.
    running.add_done_callback(lambda task: os._exit(1) if task.exception() else None)
    wire.write([1, "ready"])
    tasks = set()
    while (frame := await wire.read()) is not None:
        task = asyncio.create_task(handle(engine, wire, *frame))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await engine.stop()
    await running


def serve(place: str) -> None:
    """Fork a life for each connection, until killed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
        listening.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                asyncio.run(main(connection))
                os._exit(0)
            connection.close()


if __name__ == "__main__":
    # Standard error is nobody's.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    serve(sys.argv[1])
