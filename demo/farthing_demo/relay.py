"""The wire that is cut: a TCP relay between a gateway and the cloud.

It can pass, refuse (the port is closed: connections are reset) or swallow (connections stay, nothing comes through:
what a mobile network does when it loses you).
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from enum import Enum

#: One read of a relayed connection, in bytes.
CHUNK_SIZE = 65_536


class Wire(Enum):
    """What the relay does with what it is given."""

    PASSING = "passing"
    REFUSING = "refusing"
    SWALLOWING = "swallowing"


@dataclass(slots=True, kw_only=True)
class Relay:
    """One relayed port on loopback; ``target`` is (host, port)."""

    target: tuple[str, int]
    wire: Wire = Wire.PASSING
    port: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.Task[None]] = field(default_factory=set)
    _passing: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        self._passing.set()
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def set_wire(self, wire: Wire) -> None:
        """Pass, refuse or swallow from now on."""
        self.wire = wire
        if wire is Wire.PASSING:
            # What was swallowed is gone for good: a connection that lost bytes must end, not go on with a hole in it.
            for task in list(self._open):
                task.cancel()
            self._passing.set()
            if self._server is None:
                await self.start()
        elif wire is Wire.REFUSING:
            await self.stop()
        else:
            self._passing.clear()
            if self._server is None:
                await self.start()
                self._passing.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self.wire is Wire.SWALLOWING:
                while await reader.read(CHUNK_SIZE):
                    pass
                return
            back, upstream = await asyncio.open_connection(*self.target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream))
                group.create_task(self._pump(back, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # either end went away, or the wire was cut: so does this connection
        finally:
            self._open.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_SIZE):
            if self.wire is Wire.SWALLOWING:
                continue
            writer.write(chunk)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
