"""MQTT: envelopes on ``farthing/<device>/up``, ticks on ``farthing/<device>/tick``, answers on ``farthing/<device>/down``, QoS 1.

Rule 1: the broker let a client write only to the topic of its certificate's name, so the topic is the device.
Rule 2: PUBACK says nothing to anybody: it is not tied to a disk, and comes for what the broker throws away. The answer is
ours, and a device asks again until it has one. So messages are acknowledged as they are read, those of one turn of the loop go
through the door together, and none waits for another's answer; what is not read yet waits with the broker.
Rule 3: a broker on this host is spoken to through its Unix socket, where ``edge.toml`` names one: whoever may enter its folder is
the gateway, and there is no key to keep. Everybody else comes over TLS.
Rule 4: without a broker the daemon runs on: it says so, and tries again for ever, less and less often.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import aiomqtt
import structlog

from farthing.configuration import split_address
from farthing.hsm import HsmError
from farthing.hsm.transport import TransportKey
from farthing.ids import IdError, parse_id
from farthing_edge.backoff import Backoff
from farthing_edge.broker import BrokerError, check_private
from farthing_edge.config import GATEWAY_USER, MqttSection
from farthing_edge.ingress.pieces import Straight
from farthing_edge.ingress.statements import Arrived, StatementDoor
from farthing_edge.metrics import Metrics

_log = structlog.get_logger(__name__)

UP, TICK = "up", "tick"
QOS = 1
#: Answers that wait for their PUBACK, eight seconds of them; beyond it an answer is dropped and counted, and the device asks again.
MAX_UNACKNOWLEDGED = 4_096
#: A key with less time left is not used for a new connection: a day's key is renewed well within its day.
RENEW_BEFORE = timedelta(hours=2)
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
        arrived: list[Arrived] = []

        def take(topic: bytes, payload: bytes, is_retained: bool) -> None:  # how packets say it
            place = _place_of(topic)
            if place is None or is_retained:
                # No device may write there: a broker that is not set up as ours.
                self._metrics.unverified.labels("mqtt").inc()
                return
            device, what, answers = place
            if what == TICK:
                self._door.ticks.take(payload, channel="mqtt", peer=device, say=self._say_to(straight, answers))
                return
            away = self._door.turn_away_quietly(device, channel="mqtt")
            if away is None:
                arrived.append(self._from(straight, device, answers, payload))
            elif away:
                self._say(straight, answers, away)

        def taken() -> None:
            if arrived:
                some = tuple(arrived)
                arrived.clear()
                self._door.take(some, channel="mqtt")

        client = await self._client()
        straight = Straight(client, take, taken, max_unacknowledged=MAX_UNACKNOWLEDGED)
        async with client:
            await client.subscribe([(f"farthing/+/{UP}", QOS), (f"farthing/+/{TICK}", QOS)])
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
        )

    def _say_to(self, straight: Straight, topic: str) -> Callable[[bytes], None]:
        return lambda answer: self._say(straight, topic, answer)

    def _from(self, straight: Straight, device: str, topic: str, payload: bytes) -> Arrived:
        def fail(err: BaseException) -> None:
            self._metrics.answers_lost.inc()
            _log.error("statement_failed", device=device, exc_info=err)

        return Arrived(payload, device, self._say_to(straight, topic), fail)

    def _say(self, straight: Straight, topic: str, answer: bytes) -> None:
        # Nobody waits for its PUBACK, which says nothing to us (rule 2).
        if not straight.publish(topic, answer):
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


@lru_cache(
    maxsize=8_192
)  # a site's devices, each with two topics; what names nobody is no device's and finds its way out
def _place_of(topic: bytes) -> tuple[str, str, str] | None:
    """(device, ``UP`` or ``TICK``, the topic of its answers); None where ``topic`` names no device."""
    try:
        parts = topic.decode().split("/")
    except UnicodeDecodeError:
        return None
    if len(parts) != 3 or parts[0] != "farthing" or parts[2] not in (UP, TICK):
        return None
    try:
        device = parse_id(parts[1])
    except IdError:
        return None
    return device, parts[2], f"farthing/{device}/down"


def _reason(err: BaseException) -> str:
    cause: Any = err
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {cause}"
