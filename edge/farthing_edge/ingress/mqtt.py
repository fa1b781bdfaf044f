"""MQTT: envelopes on ``farthing/<device>/up``, ticks on ``farthing/<device>/tick``, answers on ``farthing/<device>/down``, QoS 1.

Rule 1: the broker let a client write only to the topic of its certificate's name, so the topic is the device.
Rule 2: PUBACK says nothing to anybody: it is not tied to a disk, and comes for what the broker throws away. The answer is
ours, and a device asks again until it has one. So messages are taken off the wire at once, those of one turn of the loop go
through the door together, and none waits for another's answer; how many there may be is bounded.
Rule 3: a broker on this host is spoken to through its Unix socket, where ``edge.toml`` names one: whoever may enter its folder is
the gateway, and there is no key to keep. Everybody else comes over TLS.
Rule 4: without a broker the daemon runs on: it says so, and tries again for ever, less and less often.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import structlog

from farthing.configuration import split_address
from farthing.device.messages import MAX_ENVELOPE_SIZE, MAX_TICK_SIZE
from farthing.hsm import HsmError
from farthing.hsm.transport import TransportKey
from farthing.ids import IdError, parse_id
from farthing_edge.backoff import Backoff
from farthing_edge.broker import BrokerError, check_private
from farthing_edge.config import GATEWAY_USER, MqttSection
from farthing_edge.ingress.pieces import in_pieces, straight_to
from farthing_edge.ingress.statements import Arrived, StatementDoor
from farthing_edge.metrics import Metrics

_log = structlog.get_logger(__name__)

UP = "farthing/+/up"
TICK = "farthing/+/tick"
QOS = 1
#: Answers on their way to the broker; beyond it an answer is dropped and counted, and the device asks again.
MAX_UNSENT = 4_096
#: PUBACKs we wait for at once.
MAX_UNACKNOWLEDGED = 1_000
#: A key with less time left is not used for a new connection: a day's key is renewed well within its day.
RENEW_BEFORE = timedelta(hours=2)
#: Read and not yet looked at: half a second of what one core can verify.
MAX_ARRIVED = 4_096
#: Statements verified before the loop does anything else: some 2 ms.
ANSWERED_IN_ONE_TURN = 16
#: The client id of a gateway that comes through the socket: no certificate's name is one, so none can take its session over.
BESIDE_ALL_NAMES = "/gateway"
#: paho wants one even where there is none.
UNUSED_PORT = 1


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
                except (aiomqtt.MqttError, BrokerError, OSError, HsmError) as err:
                    # One line per outage and cause, not one per attempt.
                    reason = _reason(err)
                    if reason != said:
                        _log.warning(
                            "broker_unreachable",
                            address=section.place,
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
        arrived: deque[Arrived] = deque()
        loop = asyncio.get_running_loop()

        def take(message: paho.MQTTMessage) -> None:
            device, what = _device_of(message)
            if device is not None and what == "tick" and not message.retain:
                self._door.ticks.take(
                    bytes(message.payload[: MAX_TICK_SIZE + 1]),
                    channel="mqtt",
                    peer=device,
                    say=self._say_to(client, device),
                )
            elif device is None or message.retain:
                # No device may write there: a broker that is not set up as ours.
                self._metrics.unverified.labels("mqtt").inc()
                return
            away = self._door.turn_away_quietly(device, channel="mqtt")
            if away is not None:
                if away:
                    self._say(client, device, away)
            elif len(arrived) >= MAX_ARRIVED:
                # Not even "later" has room: the device asks again.
                self._metrics.answers_lost.inc()
            else:
                if not arrived:
                    loop.call_soon(answer)
                arrived.append(self._from(client, device, bytes(message.payload[: MAX_ENVELOPE_SIZE + 1])))

        def answer() -> None:
            some = [arrived.popleft() for _ in range(min(len(arrived), ANSWERED_IN_ONE_TURN))]
            if arrived:
                loop.call_soon(answer)
            self._door.take(some, channel="mqtt")

        client = await self._client()
        straight_to(client, take)
        async with client:
            in_pieces(client)
            await client.subscribe([(UP, QOS), (TICK, QOS)])
            backoff.reset()
            self._connected(up=True)
            _log.info("broker_connected", address=section.place)
            try:
                # Messages take the straight way; this ends when the connection does.
                async for _ in client.messages:
                    raise AssertionError("messages take the straight way")
            finally:
                self._connected(up=False)

    async def _client(self) -> aiomqtt.Client:
        section = self._section
        if section.socket is not None:
            check_private(section.socket)
            with socket.socket(socket.AF_UNIX) as probe:
                # paho leaves a socket lying that nobody listens on.
                probe.connect(str(section.socket))
            host, port, context = str(section.socket), 0, None
        else:
            host, port = split_address(section.address)
            context = await asyncio.to_thread(self._tls)
        return aiomqtt.Client(
            host,
            port or UNUSED_PORT,
            transport="tcp" if section.socket is None else "unix",
            # The broker names a client of TLS by its certificate; a session with a name of ours is kept while we are away.
            identifier=GATEWAY_USER if section.socket is None else BESIDE_ALL_NAMES,
            clean_session=False,
            tls_context=context,
            keepalive=section.keepalive_s,
            timeout=section.timeout_s,
            max_queued_outgoing_messages=MAX_UNSENT,
            max_inflight_messages=MAX_UNACKNOWLEDGED,
        )

    def _say_to(self, client: aiomqtt.Client, device: str) -> Callable[[bytes], None]:
        def say(answer: bytes) -> None:
            self._say(client, device, answer)

        return say

    def _from(self, client: aiomqtt.Client, device: str, payload: bytes) -> Arrived:
        def fail(err: BaseException) -> None:
            self._metrics.answers_lost.inc()
            _log.error("statement_failed", device=device, exc_info=err)

        return Arrived(payload, device, self._say_to(client, device), fail)

    def _say(self, client: aiomqtt.Client, device: str, answer: bytes) -> None:
        # paho's own publish: aiomqtt's waits for a PUBACK, which says nothing to us (rule 2).
        sent = client._client.publish(f"farthing/{device}/down", answer, qos=QOS)  # noqa: SLF001 no public way
        if sent.rc != paho.MQTT_ERR_SUCCESS:
            self._metrics.answers_lost.inc()

    def _tls(self) -> ssl.SSLContext:
        key = self._key
        if key is None or key.not_after - datetime.now(UTC) < RENEW_BEFORE:
            key = self._key = self._make_key()
        context = ssl.create_default_context(cafile=str(key.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(str(key.certificate_file), str(key.key_file))
        return context

    def _connected(self, *, up: bool) -> None:
        self._metrics.broker_up.set(int(up))
        self._on_change(up)


def _device_of(message: paho.MQTTMessage) -> tuple[str | None, str]:
    """Who says it, None where the topic names nobody; and what: "up" or "tick"."""
    try:
        parts = message.topic.split("/")
    except UnicodeDecodeError:
        return None, ""
    if len(parts) != 3 or parts[0] != "farthing" or parts[2] not in ("up", "tick"):
        return None, ""
    try:
        return parse_id(parts[1]), parts[2]
    except IdError:
        return None, ""


def _reason(err: BaseException) -> str:
    cause: Any = err
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {cause}"
