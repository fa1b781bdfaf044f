"""MQTT: envelopes on ``farthing/<device>/up``, answers on ``farthing/<device>/down``, QoS 1.

Rule 1: the broker let a client write only to the topic of its certificate's name, so the topic is the device.
Rule 2: PUBACK says nothing to anybody: it is not tied to a disk, and comes for what the broker throws away. The answer is
ours, and a device asks again until it has one. So messages are taken off the wire at once, and each is answered by a task of
its own; how many there may be is bounded, and above it the answer is "later".
Rule 3: without a broker the daemon runs on: it says so, and tries again for ever, less and less often.
"""

import asyncio
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
        context.sslsocket_class = _ReadAhead
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(str(key.certificate_file), str(key.key_file))
        return context

    def _connected(self, *, up: bool) -> None:
        self._metrics.broker_up.set(int(up))
        self._on_change(up)


class _ReadAhead(ssl.SSLSocket):
    """A TLS socket that reads what there is and hands it out in the pieces that are asked for."""

    _ahead = b""

    def recv(self, buflen: int = READ_AHEAD, flags: int = 0) -> bytes:
        """As a socket does."""
        ahead = self._ahead or super().recv(READ_AHEAD, flags)
        taken, self._ahead = ahead[:buflen], ahead[buflen:]
        return taken

    def pending(self) -> int:
        """Bytes that a read gives without waiting."""
        return len(self._ahead) or super().pending()


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
