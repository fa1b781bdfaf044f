"""A broker's connection in few, large pieces, under aiomqtt: what is read ahead is handed out, what a turn of the loop says is written as one.

Rule 1: no MQTT here. paho speaks it; this stands between it and its socket, and between it and its selector.
Rule 2: bytes go out in the order they came; what could not be written waits, up to a bound, and then paho is told to wait.
Rule 3: a message goes straight from paho to who takes it, in the turn that read it.

A system call, a TLS record or a wake-up for a few bytes is most of what a small message costs.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Protocol

import aiomqtt
import paho.mqtt.client as paho

#: Ten envelopes at once; paho would ask for a packet in four reads, a byte first. Not more: of the smallest rubbish it is a hundred packets, some 10 ms
#: in which nobody else is served.
READ_AHEAD = 4_096
#: Written as one piece; what is more waits its turn.
WRITE_BEHIND = 65_536


class Stream(Protocol):
    """What a socket has that does not block, over TLS or not."""

    def recv(self, size: int, /) -> bytes:
        """What there is, up to ``size``; ``BlockingIOError`` or ``ssl.SSLWantReadError`` where there is nothing."""
        ...

    def send(self, data: bytes, /) -> int:
        """How much of ``data`` went; ``BlockingIOError`` or ``ssl.SSLWantWriteError`` where nothing did."""
        ...

    def fileno(self) -> int:
        """For a selector; negative when closed."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Pieces:
    """A stream that reads what there is and hands it out in the pieces that are asked for, and gathers what is written until ``flush``."""

    __slots__ = ("_ahead", "_at", "_behind", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._ahead = b""
        self._at = 0
        self._behind = b""

    def recv(self, size: int) -> bytes:
        """As a socket does."""
        at = self._at
        if at == len(self._ahead):
            self._ahead = self._stream.recv(READ_AHEAD)
            at = 0
        taken = self._ahead[at : at + size]
        self._at = at + len(taken)
        return taken

    def pending(self) -> int:
        """Bytes that a read gives without waiting."""
        ahead = len(self._ahead) - self._at
        if not ahead and isinstance(self._stream, ssl.SSLSocket):
            return self._stream.pending()
        return ahead

    def send(self, data: bytes) -> int:
        """Take ``data`` to be written by ``flush``; as a socket that is full when too much waits."""
        if len(self._behind) > WRITE_BEHIND:
            raise BlockingIOError("too much is gathered already")
        self._behind += data
        return len(data)

    def flush(self) -> bool:
        """Write what was gathered; whether all of it went."""
        try:
            while self._behind:
                # Over TLS, one that could not be written has to be tried again with the same bytes, and may have more behind them.
                self._behind = self._behind[self._stream.send(self._behind) :]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return False
        return True

    def fileno(self) -> int:
        """As a socket does."""
        return self._stream.fileno()

    def close(self) -> None:
        """Write what still can be, then close."""
        with contextlib.suppress(OSError, ValueError):
            self.flush()
        self._stream.close()


def straight_to(client: aiomqtt.Client, take: Callable[[paho.MQTTMessage], None]) -> None:
    """Before it connects: hand each message to ``take`` in the turn of the loop that read it; ``client.messages`` stays empty.

    PUBACKs, which aiomqtt would match with who waits for them, are nobody's business, and paho does not say what it does.
    """
    mqtt = client._client  # noqa: SLF001 no public way

    def on_message(_: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
        take(message)

    mqtt.on_message = on_message
    mqtt.on_publish = None
    mqtt.disable_logger()


def in_pieces(client: aiomqtt.Client) -> None:
    """Once it is connected: read and write in pieces.

    aiomqtt has the selector say when the socket can be written to, which costs four system calls and a turn for each time.
    """
    mqtt = client._client  # noqa: SLF001 no public way
    loop = asyncio.get_running_loop()
    stream = mqtt.socket()
    before_closing = mqtt.on_socket_close
    assert stream is not None  # connected
    assert before_closing is not None  # aiomqtt's
    pieces = Pieces(stream)
    mqtt._sock = pieces  # type: ignore[assignment]  # noqa: SLF001  # what paho uses of a socket, pieces have
    is_waiting = False

    def write() -> None:
        nonlocal is_waiting
        is_waiting = False
        if pieces.fileno() < 0:
            return
        try:
            # What paho could not hand over when there was too much comes after what it could.
            went = pieces.flush()
            if went:
                mqtt.loop_write()
                went = pieces.flush()
        except OSError:
            # The read side sees the same end of the connection, and names it.
            loop.remove_writer(pieces.fileno())
            return
        if pieces.fileno() < 0:
            return
        if went and not mqtt.want_write():
            loop.remove_writer(pieces.fileno())
        else:
            loop.add_writer(pieces.fileno(), write)

    def has_something(*_: object) -> None:
        nonlocal is_waiting
        if not is_waiting:
            is_waiting = True
            loop.call_soon(write)

    def has_nothing(*_: object) -> None:
        pass  # write() has seen it

    def closing(closed: paho.Client, userdata: Any, _: object) -> None:
        loop.remove_writer(pieces.fileno())
        before_closing(closed, userdata, pieces)  # type: ignore[arg-type]  # it asks for its file number only

    mqtt.on_socket_register_write = has_something
    mqtt.on_socket_unregister_write = has_nothing
    mqtt.on_socket_close = closing
