"""MQTT: envelopes on ``farthing/<device>/up``, answers on ``farthing/<device>/down``, QoS 1.

Rule 1: the broker let a client write only to the topic of its certificate's name, so the topic is the device.
Rule 2: PUBACK says nothing to anybody: it is not tied to a disk, and comes for what the broker throws away. The answer is
ours, and a device asks again until it has one. So messages are taken off the wire at once, and each is answered by a task of
its own; how many there may be is bounded, and above it the answer is "later".
Rule 3: without a broker the daemon runs on: it says so, and tries again for ever, less and less often.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import structlog

from farthing.configuration import split_address
from farthing.device.messages import MAX_ENVELOPE_SIZE
from farthing.hsm import HsmError
from farthing.hsm.transport import TransportKey
from farthing.ids import IdError, parse_id
from farthing_edge.backoff import Backoff
from farthing_edge.config import MqttSection
from farthing_edge.ingress.statements import StatementDoor
from farthing_edge.metrics import Metrics

_log = structlog.get_logger(__name__)

UP = "farthing/+/up"
QOS = 1
#: One TLS record; paho would ask for a packet in four reads, a byte first.
READ_AHEAD = 16_384
#: Written as one piece; what is more waits its turn.
WRITE_BEHIND = 65_536
#: Answers on their way to the broker; beyond it an answer is dropped and counted, and the device asks again.
MAX_UNSENT = 4_096
#: PUBACKs we wait for at once.
MAX_UNACKNOWLEDGED = 1_000
#: A key with less time left is not used for a new connection: a day's key is renewed well within its day.
RENEW_BEFORE = timedelta(hours=2)
#: What may be under way in tasks: answers that wait for a quota or for the group commit, and "later"s.
MAX_TASKS = 8_192


class MqttIngress:
    """Serves one broker for as long as it runs; reconnects by itself."""

    def __init__(
        self,
        *,
        section: MqttSection,
        door: StatementDoor,
        metrics: Metrics,
        make_key: Callable[[], TransportKey],
        on_change: Callable[[bool], None],
    ) -> None:
        self._section = section
        self._door = door
        self._metrics = metrics
        self._make_key = make_key
        self._on_change = on_change
        self._key: TransportKey | None = None

    async def run(self) -> None:
        """Connect, serve, and connect again, until cancelled."""
        section = self._section
        backoff = Backoff(least_s=section.min_backoff_s, most_s=section.max_backoff_s)
        said: str | None = None
        try:
            while True:
                try:
                    await self._serve(backoff)
                except (aiomqtt.MqttError, OSError, HsmError) as err:
                    # One line per outage and cause, not one per attempt.
                    reason = _reason(err)
                    if reason != said:
                        _log.warning(
                            "broker_unreachable",
                            address=section.address,
                            reason=reason,
                            do="start Mosquitto as `farthing-edge broker` prints; the gateway keeps trying",
                        )
                        said = reason
                else:
                    said = None
                await asyncio.sleep(backoff.next_s())
        finally:
            if self._key is not None:
                self._key.remove()

    async def _serve(self, backoff: Backoff) -> None:
        section = self._section
        host, port = split_address(section.address)
        tasks: set[asyncio.Task[None]] = set()

        def take(message: aiomqtt.Message) -> None:
            if len(tasks) >= MAX_TASKS:
                # Not even "later" has room: the device asks again.
                self._metrics.answers_lost.inc()
                return
            task = asyncio.create_task(self._answer(client, message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async with aiomqtt.Client(
            host,
            port,
            # The broker names the client by its certificate; a session with a name of ours is kept while we are away.
            identifier="gateway",
            clean_session=False,
            tls_context=await asyncio.to_thread(self._tls),
            keepalive=section.keepalive_s,
            timeout=section.timeout_s,
            queue_type=_straight_to(take),
            max_queued_outgoing_messages=MAX_UNSENT,
            max_inflight_messages=MAX_UNACKNOWLEDGED,
        ) as client:
            await client.subscribe(UP, qos=QOS)
            _write_at_once(client._client)  # noqa: SLF001 no public way
            backoff.reset()
            self._connected(up=True)
            _log.info("broker_connected", address=section.address)
            try:
                # Messages take the straight way; this ends when the connection does.
                async for _ in client.messages:
                    raise AssertionError("messages take the straight way")
            finally:
                self._connected(up=False)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        device = _device_of(message.topic.value)
        payload = message.payload
        if device is None or message.retain:
            # No device may write there: a broker that is not set up as ours.
            self._metrics.unverified.labels("mqtt").inc()
            return
        try:
            answer = await self._door.answer(payload[: MAX_ENVELOPE_SIZE + 1], channel="mqtt", peer=device)
            # paho's own publish: aiomqtt's waits for a PUBACK, which says nothing to us (rule 2).
            sent = client._client.publish(f"farthing/{device}/down", answer, qos=QOS)  # noqa: SLF001 no public way
            if sent.rc != paho.MQTT_ERR_SUCCESS:
                self._metrics.answers_lost.inc()
        except Exception:  # noqa: BLE001 -- one message must not end the others; it is logged, and its device asks again
            self._metrics.answers_lost.inc()
            _log.exception("statement_failed", device=device)

    def _tls(self) -> ssl.SSLContext:
        key = self._key
        if key is None or key.not_after - datetime.now(UTC) < RENEW_BEFORE:
            key = self._key = self._make_key()
        context = ssl.create_default_context(cafile=str(key.ca_file))
        context.sslsocket_class = _Records
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(str(key.certificate_file), str(key.key_file))
        return context

    def _connected(self, *, up: bool) -> None:
        self._metrics.broker_up.set(int(up))
        self._on_change(up)


class _Records(ssl.SSLSocket):
    """A TLS socket that reads what there is and hands it out in the pieces that are asked for, and, while it gathers, writes many pieces
    as one: a record each, and a system call, is the dearest way to say a few bytes."""

    _ahead = b""
    _behind = b""
    gathers = False

    def recv(self, buflen: int = READ_AHEAD, flags: int = 0) -> bytes:
        """As a socket does."""
        ahead = self._ahead or super().recv(READ_AHEAD, flags)
        taken, self._ahead = ahead[:buflen], ahead[buflen:]
        return taken

    def pending(self) -> int:
        """Bytes that a read gives without waiting."""
        return len(self._ahead) or super().pending()

    def send(self, data: Any, flags: int = 0) -> int:
        """As a socket does; what is gathered is written by ``flush``."""
        if not self.gathers:
            return super().send(data, flags)
        if len(self._behind) > WRITE_BEHIND:
            raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "too much is gathered already")
        self._behind += data
        return len(data)

    def flush(self) -> bool:
        """Write what was gathered; whether all of it went."""
        try:
            while self._behind:
                # One that could not be written has to be tried again with the same bytes, and may have more behind them.
                self._behind = self._behind[super().send(self._behind) :]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return False
        return True

    def close(self) -> None:
        """Write what still can be, then close."""
        with contextlib.suppress(OSError, ValueError):
            self.flush()
        super().close()


def _write_at_once(client: paho.Client) -> None:
    """Write what ``client`` queues at the end of the turn that queued it, as one piece.

    aiomqtt has the selector say when the socket can be written to, which costs four system calls and a turn for each time.
    """
    loop = asyncio.get_running_loop()
    socket = client.socket()
    assert isinstance(socket, _Records)  # _tls
    socket.gathers = True

    before_closing = client.on_socket_close
    assert before_closing is not None  # aiomqtt's

    def write() -> None:
        if socket.fileno() < 0:
            return
        try:
            went = socket.flush()
            if went:
                client.loop_write()
                went = socket.flush()
        except OSError:
            # The read side sees the same end of the connection, and names it.
            loop.remove_writer(socket)
            return
        if socket.fileno() < 0:
            return
        if went and not client.want_write():
            loop.remove_writer(socket)
        else:
            loop.add_writer(socket, write)

    def has_something(*_: object) -> None:
        loop.call_soon(write)

    def has_nothing(*_: object) -> None:
        pass  # write() has seen it

    def closing(mqtt: paho.Client, userdata: Any, _: object) -> None:
        loop.remove_writer(socket)
        before_closing(mqtt, userdata, socket)

    client.on_socket_register_write = has_something
    client.on_socket_unregister_write = has_nothing
    client.on_socket_close = closing


def _straight_to(take: Callable[[aiomqtt.Message], None]) -> type[asyncio.Queue[aiomqtt.Message]]:
    """A queue for aiomqtt that keeps nothing: each message goes on in the turn of the loop that read it."""

    class Straight(asyncio.Queue[aiomqtt.Message]):
        def put_nowait(self, item: aiomqtt.Message) -> None:
            take(item)

    return Straight


def _device_of(topic: str) -> str | None:
    parts = topic.split("/")
    if len(parts) != 3 or parts[0] != "farthing" or parts[2] != "up":
        return None
    try:
        return parse_id(parts[1])
    except IdError:
        return None


def _reason(err: BaseException) -> str:
    cause: Any = err
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {cause}"
