"""Build a device's links from its configuration."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial

from farthing.configuration import ConfigError
from farthing.hsm import Party
from farthing.ids import GatewayId
from farthing_firmware_sim.config import Config, Device, Transport
from farthing_firmware_sim.transport.coap import CoapEndpoint, CoapLink, load_peer_key, load_static_key
from farthing_firmware_sim.transport.link import Link
from farthing_firmware_sim.transport.mqtt import MqttLink


async def links_of(
    device: Device,
    config: Config,
    party: Party,
    *,
    deliver: Callable[[GatewayId, bytes], None],
    connected: Callable[[GatewayId], None],
    stack: AsyncExitStack,
) -> Mapping[GatewayId, Link]:
    """A link to each gateway of ``device``; sockets are closed by ``stack``. ``CoapKeyError``, ``ConfigError`` for keys that are none."""
    links: dict[GatewayId, Link] = {}
    if device.transport is Transport.MQTT:
        for name, key in device.mqtt.items():
            gateway = config.gateway(name)
            assert gateway.mqtt is not None
            assert gateway.ca_file is not None
            for file in (gateway.ca_file, key.certificate_file, key.key_file):
                if not file.is_file():
                    raise ConfigError(
                        f"device {device.id} cannot speak to {name}: {file} is missing;"
                        " `farthing-edge client-certificate` makes a device's transport key, for one day"
                    )
            links[GatewayId(name)] = MqttLink(
                device=device.id,
                address=gateway.mqtt,
                ca_file=gateway.ca_file,
                certificate_file=key.certificate_file,
                key_file=key.key_file,
                deliver=partial(deliver, GatewayId(name)),
                connected=partial(connected, GatewayId(name)),
            )
        return links
    endpoint = CoapEndpoint()
    await endpoint.open()
    stack.push_async_callback(endpoint.close)
    assert device.dh_key_file is not None
    device_key = load_static_key(device.dh_key_file)
    for name in device.gateways:
        gateway = config.gateway(name)
        assert gateway.coap is not None
        assert gateway.edhoc_key_file is not None
        assert gateway.edhoc_kid is not None
        links[GatewayId(name)] = CoapLink(
            endpoint=endpoint,
            device=device.id,
            device_key=device_key,
            device_kid=party.kid,
            gateway=name,
            address=gateway.coap,
            gateway_key=load_peer_key(gateway.edhoc_key_file),
            gateway_kid=bytes.fromhex(gateway.edhoc_kid),
            deliver=partial(deliver, GatewayId(name)),
            connected=partial(connected, GatewayId(name)),
        )
    return links
