"""MQTT over TLS with a client certificate: ``farthing/<device>/up`` and ``…/down``, QoS 1 (RFC of the field: MQTT 3.1.1).

PUBACK says that the broker has it, nothing more: only an answer on ``down`` counts.
"""

import asyncio
import ssl
from pathlib import Path

import aiomqtt
import structlog

from farthing.device.messages import MAX_ANSWER_SIZE
from farthing_firmware_sim.transport.link import Connected, Deliver, LinkDown

#: Mosquitto is on the same site; a second without PUBACK means it is not there.
PUBLISH_TIMEOUT_S = 2.0
FIRST_RECONNECT_S = 0.1
#: A broker that came back is found within this.
MOST_RECONNECT_S = 2.0
KEEPALIVE_S = 15
#: Answers that wait for a busy device; the gateway answers repetitions again.
MAX_INCOMING = 64


class MqttLink:
    """One device's client at one site's broker."""

    def __init__(
        self,
        *,
        device: str,
        address: str,
        ca_file: Path,
        certificate_file: Path,
        key_file: Path,
        deliver: Deliver,
        connected: Connected,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._device = device
        self._host = host
        self._port = int(port)
        self._files = (ca_file, certificate_file, key_file)
        self._deliver = deliver
        self._connected = connected
        self._client: aiomqtt.Client | None = None
        self._log = structlog.get_logger().bind(device=device, broker=address)

    async def run(self) -> None:
        """Connect, listen, and connect again whenever it breaks."""
        wait_s = FIRST_RECONNECT_S
        said: str | None = None
        while True:
            try:
                async with aiomqtt.Client(
                    self._host,
                    self._port,
                    identifier=self._device,
                    protocol=aiomqtt.ProtocolVersion.V311,
                    clean_session=True,
                    tls_context=self._tls(),
                    keepalive=KEEPALIVE_S,
                    timeout=PUBLISH_TIMEOUT_S,
                    max_queued_incoming_messages=MAX_INCOMING,
                    max_queued_outgoing_messages=MAX_INCOMING,
                ) as client:
                    await client.subscribe(f"farthing/{self._device}/down", qos=1)
                    self._client = client
                    wait_s = FIRST_RECONNECT_S
                    said = None
                    self._connected()
                    async for message in client.messages:
                        if len(message.payload) <= MAX_ANSWER_SIZE:
                            self._deliver(message.payload)
            except (aiomqtt.MqttError, OSError) as err:
                # Once per outage and cause, not once per attempt.
                if str(err) != said:
                    said = str(err)
                    self._log.info("mqtt channel is down", why=said)
            finally:
                self._client = None
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MOST_RECONNECT_S)

    async def send(self, data: bytes) -> None:
        """Publish an envelope; ``LinkDown`` without connection or PUBACK."""
        await self._publish("up", data)

    async def send_tick(self, data: bytes) -> None:
        """Publish a tick; ``LinkDown`` without connection or PUBACK."""
        await self._publish("tick", data)

    async def _publish(self, what: str, data: bytes) -> None:
        client = self._client
        if client is None:
            raise LinkDown("not connected")
        try:
            await client.publish(f"farthing/{self._device}/{what}", data, qos=1, timeout=PUBLISH_TIMEOUT_S)
        except (aiomqtt.MqttError, OSError, ValueError) as err:
            raise LinkDown("not published") from err

    def _tls(self) -> ssl.SSLContext:
        ca_file, certificate_file, key_file = self._files
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate_file, key_file)
        return context
