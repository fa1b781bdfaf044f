"""A broker's connection in few, large pieces, under aiomqtt: what there is is read and cut at once, what a turn of the loop says is written as one.

Rule 1: paho speaks MQTT; this stands between it and its socket, and between it and its selector. Only messages and their acknowledgements, nearly all
that comes and goes, pass it by (``packets``).
Rule 2: bytes go out in the order they came; what could not be written waits, up to a bound, and then who writes is told to wait.
Rule 3: a message goes straight to who takes it, in the turn that read it.

A system call, a TLS record or a wake-up for a few bytes is most of what a small message costs; and of what is left, paho's way of a message in and an answer
out most.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from typing import Any, Protocol

import aiomqtt
import paho.mqtt.client as paho

from farthing.hsm.thread import ToLoop
from farthing_edge.ingress import packets

#: Ten envelopes at once. Not more: of the smallest rubbish it is a hundred packets, some 3 ms in which nobody else is served.
READ_AHEAD = 4_096
#: Written as one piece; what is more waits its turn.
WRITE_BEHIND = 65_536
#: A TLS record holds more than is read at once; so many reads of it before anybody else has his turn.
_READS_IN_ONE_TURN = 4


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
    """A stream that is read by ``read``, gives paho what was put aside for it, and gathers what is written until ``flush``."""

    __slots__ = ("_aside", "_behind", "_fault", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._aside = b""
        self._behind = bytearray()
        self._fault: OSError | None = None

    def read(self) -> bytes:
        """What there is, up to ``READ_AHEAD``; empty where there is nothing yet, or nothing ever again, which ``recv`` tells."""
        try:
            data = self._stream.recv(READ_AHEAD)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        except OSError as err:
            self._fault = err
            return b""
        if not data:
            self._fault = ConnectionResetError("the broker closed the connection")
        return data

    @property
    def is_over(self) -> bool:
        """Whether nothing will ever be read again."""
        return self._fault is not None

    def put_aside(self, data: bytes) -> None:
        """For ``recv``, behind what is there."""
        self._aside += data

    def recv(self, size: int) -> bytes:
        """What was put aside, as a socket gives it."""
        if not self._aside:
            raise self._fault or BlockingIOError("nothing was put aside")
        taken, self._aside = self._aside[:size], self._aside[size:]
        return taken

    def pending(self) -> int:
        """Bytes that a ``recv`` gives without waiting."""
        return len(self._aside)

    def more(self) -> bool:
        """Whether a ``read`` finds something that no selector tells of: TLS decrypts a record at a time."""
        return isinstance(self._stream, ssl.SSLSocket) and self._stream.pending() > 0

    def send(self, data: bytes) -> int:
        """Take ``data`` to be written by ``flush``; as a socket that is full when too much waits."""
        if len(self._behind) > WRITE_BEHIND:
            raise BlockingIOError("too much is gathered already")
        self._behind += data
        return len(data)

    def send_at_any_rate(self, data: bytes) -> None:
        """``send`` of what is bounded elsewhere."""
        self._behind += data

    def flush(self) -> bool:
        """Write what was gathered; whether all of it went."""
        try:
            while self._behind:
                # Over TLS, one that could not be written has to be tried again with the same bytes, and may have more behind them.
                del self._behind[: self._stream.send(bytes(self._behind[:WRITE_BEHIND]))]
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


class Straight:
    """Messages of one client, in and out, past paho. To be made before it connects.

    ``take`` gets topic, payload and whether it was retained, in the turn of the loop that read it; ``taken`` is called once after each turn's last.
    aiomqtt's ``client.messages`` stays empty, and ends when the connection does.
    """

    def __init__(
        self,
        client: aiomqtt.Client,
        take: Callable[[bytes, bytes, bool], None],
        taken: Callable[[], None],
        *,
        max_unacknowledged: int,
    ) -> None:
        self._client = client
        self._mqtt = client._client  # noqa: SLF001 no public way
        self._loop = asyncio.get_running_loop()
        self._to_loop = ToLoop.of(self._loop)
        self._thread = threading.get_ident()
        self._taken = taken
        self._max_unacknowledged = max_unacknowledged
        self._unacknowledged = 0
        self._packet_id = packets.OURS - 1
        self._pieces: Pieces | None = None
        self._is_waiting = False
        #: The selector is asked to tell when there is room to write.
        self._wants_room = False
        self._packets = packets.Packets(published=take, acknowledged=self._acknowledged, other=self._hand_to_paho)
        self._before_opening, self._before_closing = self._mqtt.on_socket_open, self._mqtt.on_socket_close
        self._mqtt.on_socket_open = self._opened
        self._mqtt.on_socket_register_write = self._has_something
        # write() sees it by itself.
        self._mqtt.on_socket_unregister_write = lambda *_: None
        self._mqtt.on_socket_close = self._closing
        # It does not say what it does: PUBACKs and messages are not its business.
        self._mqtt.disable_logger()

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send ``payload`` with QoS 1; False where there is no connection, or no room in it."""
        pieces = self._pieces
        if pieces is None or self._unacknowledged >= self._max_unacknowledged:
            return False
        self._packet_id = packet_id = packets.OURS if self._packet_id == packets.LAST else self._packet_id + 1
        # The answers of one group are more than one piece; what bounds them is how many are not acknowledged.
        pieces.send_at_any_rate(packets.publish(topic, packet_id, payload))
        self._unacknowledged += 1
        self._has_something()
        return True

    # What paho tells of its socket: from the thread that connects, then from the loop's -------------------------------

    def _opened(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        self._pieces, self._wants_room = Pieces(sock), False
        # What paho uses of a socket, pieces have.
        client._sock = self._pieces  # type: ignore[assignment]  # noqa: SLF001 no public way
        assert self._before_opening is not None  # aiomqtt's
        self._before_opening(client, userdata, sock)
        # In place of aiomqtt's reader, which that has just asked for.
        self._loop.call_soon_threadsafe(self._loop.add_reader, sock.fileno(), self._read)

    def _has_something(self, *_: object) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            if threading.get_ident() == self._thread:
                # Before anything else is decided: who has his answer does not wait for others' decisions.
                self._to_loop.soon(self._write, first=True)
            else:
                self._loop.call_soon_threadsafe(self._write)

    def _closing(self, client: paho.Client, userdata: Any, _: object) -> None:
        pieces, self._pieces = self._pieces, None
        assert pieces is not None  # it was opened
        assert self._before_closing is not None  # aiomqtt's
        if pieces.fileno() >= 0:
            self._want_room(pieces, wanted=False)
        self._before_closing(client, userdata, pieces)  # type: ignore[arg-type]  # it asks for its file number only

    # What the selector tells ------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._to_loop.in_one_turn(self._read_and_name_the_end)

    def _read_and_name_the_end(self) -> None:
        try:
            self._read_some()
        except Exception as err:  # noqa: BLE001  # as aiomqtt does: whatever it is, the connection is over
            disconnected = self._client._disconnected  # noqa: SLF001 no public way
            if not disconnected.done():
                disconnected.set_exception(err)

    def _read_some(self) -> None:
        for _ in range(_READS_IN_ONE_TURN):
            pieces = self._pieces
            if pieces is None:
                return
            data = pieces.read()
            if data:
                acknowledgements = self._packets.feed(data)
                if acknowledgements:
                    # The broker stops by itself at what it was not told that we have.
                    pieces.send_at_any_rate(acknowledgements)
                    self._has_something()
                self._taken()
            elif pieces.is_over:
                self._mqtt.loop_read()
                return
            if not pieces.more():
                return
        # The rest of the record, after everybody else.
        self._loop.call_soon(self._read)

    def _hand_to_paho(self, packet: bytes) -> None:
        pieces = self._pieces
        assert pieces is not None  # it was read from them
        pieces.put_aside(packet)
        while pieces.pending() and self._pieces is pieces:
            self._mqtt.loop_read()

    def _acknowledged(self) -> None:
        self._unacknowledged = max(0, self._unacknowledged - 1)

    def _write(self) -> None:
        self._is_waiting = False
        pieces = self._pieces
        if pieces is None or pieces.fileno() < 0:
            return
        mqtt = self._mqtt
        try:
            # What paho could not hand over when there was too much comes after what it could.
            went = pieces.flush()
            if went and mqtt.want_write():
                mqtt.loop_write()
                went = pieces.flush()
        except OSError:
            # The read side sees the same end of the connection, and names it.
            self._want_room(pieces, wanted=False)
            return
        if pieces.fileno() < 0:
            return
        self._want_room(pieces, wanted=not went or mqtt.want_write())

    def _want_room(self, pieces: Pieces, *, wanted: bool) -> None:
        if wanted == self._wants_room:
            return
        self._wants_room = wanted
        if wanted:
            self._loop.add_writer(pieces.fileno(), self._write)
        else:
            self._loop.remove_writer(pieces.fileno())
