"""Our CoAP ingress against aiocoap's own client, which speaks EDHOC through lakers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiocoap
import cbor2
import pytest
from aiocoap import oscore
from aiocoap.credentials import CredentialsMap
from aiocoap.edhoc import CoseKeyForEdhoc, EdhocCredentials
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from recording_engine import RecordingEngine

from farthing.clock import Instant
from farthing.device.cose import VerifyingKey, encode_sign1, key_id, to_be_signed
from farthing.device.messages import (
    AnswerStatus,
    Envelope,
    Reading,
    RegisterValue,
    TariffVersion,
    Witness,
    decode_answer,
    encode,
)
from farthing.edhoc import MemoryKey, credential
from farthing.ids import DeviceId, GatewayId, RegisterId, StartId, TariffId
from farthing.refusal import Refusal
from farthing_edge.config import CoapSection, LimitsSection
from farthing_edge.ingress.coap import CoapIngress, ListenError
from farthing_edge.ingress.guard import RubbishRing
from farthing_edge.ingress.handshakes import DeviceKey, Handshakes
from farthing_edge.ingress.statements import StatementDoor
from farthing_edge.metrics import Metrics

GATEWAY = GatewayId("gw-1")
METER = DeviceId("smart-1")
WITNESS = Witness(incarnation=1, start_id=StartId(bytes(16)), position=7)


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@dataclass(kw_only=True)
class Recorder(RecordingEngine):
    """It has no site key: nobody here presents a token."""

    gateway: GatewayId = GATEWAY
    witness: Witness = WITNESS

    async def hmac_many(self, label: str, data: Sequence[bytes]) -> list[bytes]:  # noqa: ARG002 the interface's
        raise AssertionError("no intent, no token")


@dataclass
class Site:
    """A gateway's CoAP door, and what a meter needs to go through it."""

    ingress: CoapIngress
    door: StatementDoor
    engine: Recorder
    metrics: Metrics
    handshakes: Handshakes
    statement_key: ec.EllipticCurvePrivateKey
    static_key: ec.EllipticCurvePrivateKey
    kid: bytes
    gateway_cred: dict[Any, Any]

    def url(self, path: str = "/statement") -> str:
        return f"coap://{self.ingress.address}{path}"

    def credentials(self) -> CredentialsMap:
        private = self.static_key.private_numbers().private_value.to_bytes(32, "big")
        own = cbor2.loads(credential(METER, self.kid, spki(self.static_key)).cred)
        found = CredentialsMap()
        found[f"coap://{self.ingress.address}/*"] = EdhocCredentials(
            suite=2,
            method=3,
            own_cred_style="by-key-id",
            own_cred={14: own},
            peer_cred={14: self.gateway_cred},
            private_key=CoseKeyForEdhoc.from_map({1: 2, -1: 1, -4: private}).secret_to_map(),
        )
        return found

    def envelope(self, counter: int, *, device: DeviceId = METER) -> bytes:
        reading = Reading(
            recipient=GATEWAY,
            device=device,
            device_epoch=1,
            counter=counter,
            at=Instant(1_000_000),
            register=RegisterValue(register_id=RegisterId("main"), register_epoch=1, value=counter * 10),
            tariff=TariffVersion(tariff_id=TariffId("flat-1"), version=1),
        )
        payload = encode(reading)
        signature = sign(self.statement_key, to_be_signed("reading", GATEWAY, payload))
        return encode(Envelope(statement=encode_sign1(key_id(spki(self.statement_key)), payload, signature)))

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def static_key_with(*, odd: bool) -> ec.EllipticCurvePrivateKey:
    while True:
        key = ec.generate_private_key(ec.SECP256R1())
        if bool(key.public_key().public_numbers().y & 1) == odd:
            return key


async def open_site(*, odd: bool = False, kid: bytes = b"\x07", **limits: Any) -> Site:
    gateway_static = ec.generate_private_key(ec.SECP256R1())
    own = credential(GATEWAY, b"\x01", spki(gateway_static))
    device_static, statement_key = static_key_with(odd=odd), ec.generate_private_key(ec.SECP256R1())
    x = device_static.public_key().public_numbers().x.to_bytes(32, "big")
    metrics = Metrics()
    engine = Recorder(keys={METER: VerifyingKey.from_spki(spki(statement_key))})
    section = CoapSection(listen="127.0.0.1:0", **limits)
    # Somebody else has the same key identifier: it names candidates, not a peer.
    other = DeviceKey(device=DeviceId("other-1"), kid=kid, x=own.x)
    directory = {kid: [other, DeviceKey(device=METER, kid=kid, x=x)]}
    handshakes = Handshakes(
        section=section,
        key=MemoryKey(gateway_static),
        credential=own,
        keys_with=lambda wanted: directory.get(wanted, ()),
        metrics=metrics,
    )
    door = StatementDoor(
        gateway=GATEWAY,
        engine=engine,
        token=engine,
        grant_key=VerifyingKey.from_spki(
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ),
        limits=LimitsSection(),
        metrics=metrics,
        rubbish=RubbishRing(samples=8),
    )
    ingress = CoapIngress(section=section, door=door, handshakes=handshakes, metrics=metrics)
    await ingress.start()
    return Site(
        ingress=ingress,
        door=door,
        engine=engine,
        metrics=metrics,
        handshakes=handshakes,
        statement_key=statement_key,
        static_key=device_static,
        kid=kid,
        gateway_cred=cbor2.loads(own.cred),
    )


@pytest.fixture
async def serve() -> AsyncIterator[Any]:
    running: list[asyncio.Task[None]] = []
    clients: list[aiocoap.Context] = []

    async def start(**limits: Any) -> tuple[Site, aiocoap.Context]:
        site = await open_site(**limits)
        running.append(asyncio.create_task(site.ingress.run()))
        client = await aiocoap.Context.create_client_context(transports=["oscore", "simple6"])
        clients.append(client)
        return site, client

    yield start
    for client in clients:
        await client.shutdown()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def post(client: aiocoap.Context, url: str, payload: bytes) -> aiocoap.Message:
    request = aiocoap.Message(code=aiocoap.POST, uri=url, payload=payload)
    return await asyncio.wait_for(client.request(request).response, 20)


@pytest.mark.parametrize("odd", [False, True])
async def test_a_statement_through_edhoc_and_oscore_is_answered(serve: Any, odd: bool) -> None:
    site, client = await serve(odd=odd)
    client.client_credentials = site.credentials()

    response = await post(client, site.url(), site.envelope(1))

    assert response.code == aiocoap.CHANGED
    assert decode_answer(response.payload).status is AnswerStatus.RECORDED
    assert [heard.statement.counter for heard in site.engine.heard] == [1]
    assert site.value("farthing_edge_edhoc_handshakes_total", outcome="completed") == 1


async def test_a_key_identifier_of_eight_bytes_is_taken(serve: Any) -> None:
    site, client = await serve(kid=bytes.fromhex("0badcafe01020304"))
    client.client_credentials = site.credentials()

    response = await post(client, site.url(), site.envelope(1))

    assert decode_answer(response.payload).status is AnswerStatus.RECORDED


async def test_an_unprotected_statement_is_refused_and_not_heard(serve: Any) -> None:
    site, client = await serve()

    for path in ("/statement", "/.well-known/core", "/"):
        assert (await post(client, site.url(path), site.envelope(1))).code == aiocoap.UNAUTHORIZED

    assert site.engine.heard == []


async def test_a_statement_of_another_device_is_refused_by_number(serve: Any) -> None:
    site, client = await serve()
    client.client_credentials = site.credentials()

    response = await post(client, site.url(), site.envelope(1, device=DeviceId("smart-2")))

    answer = decode_answer(response.payload)
    assert (answer.status, answer.refusal) == (AnswerStatus.REFUSED, Refusal.CHANNEL_DIFFERS)
    assert site.engine.heard == []


async def test_a_peer_that_does_not_hold_the_key_gets_no_context(serve: Any) -> None:
    site, client = await serve()
    site.static_key = static_key_with(odd=False)
    client.client_credentials = site.credentials()

    with pytest.raises(oscore.NotAProtectedMessage) as refused:
        await post(client, site.url(), site.envelope(1))

    assert refused.value.plain_message.code == aiocoap.BAD_REQUEST
    assert (len(site.handshakes), site.engine.heard) == (0, [])
    assert site.value("farthing_edge_edhoc_handshakes_total", outcome="failed") == 1


async def test_above_the_threshold_an_address_returns_an_echo_first(serve: Any) -> None:
    site, client = await serve(echo_above=0)
    opening = cbor2.dumps(True) + bytes.fromhex(
        "0382060258208af6f430ebe18d34184017a9a11bf511c8dff8f834730b96c1b7c8dbca2fc3b637"
    )
    request = aiocoap.Message(code=aiocoap.POST, uri=site.url("/.well-known/edhoc"), payload=opening)

    asked = await asyncio.wait_for(client.request(request).response, 20)
    assert (asked.code, len(asked.opt.echo)) == (aiocoap.UNAUTHORIZED, 8)
    assert site.value("farthing_edge_edhoc_handshakes_total", outcome="opened") == 0

    again = aiocoap.Message(code=aiocoap.POST, uri=site.url("/.well-known/edhoc"), payload=opening, echo=asked.opt.echo)
    answered = await asyncio.wait_for(client.request(again).response, 20)
    # What follows the Echo is EDHOC's business: this message_1 proposes suites 6 and 2, and is answered or refused by it.
    assert answered.code in (aiocoap.CHANGED, aiocoap.BAD_REQUEST)


async def test_half_open_handshakes_are_bounded(serve: Any) -> None:
    site, client = await serve(max_half_open=2, echo_above=100)
    import lakers

    codes = []
    for c_i in range(4):
        message_1 = lakers.EdhocInitiator().prepare_message_1(bytes([c_i]), None)
        response = await post(client, site.url("/.well-known/edhoc"), cbor2.dumps(True) + message_1)
        codes.append(response.code)

    assert codes == [aiocoap.CHANGED] * 2 + [aiocoap.SERVICE_UNAVAILABLE] * 2


async def test_after_a_restart_the_device_hears_so(serve: Any) -> None:
    first, client = await serve()
    client.client_credentials = first.credentials()
    await post(client, first.url(), first.envelope(1))
    first.handshakes._contexts.clear()  # what a restart forgets

    # aiocoap's client handshakes for every request; a device that caches its context would see this code:
    request = aiocoap.Message(code=aiocoap.POST, uri=first.url(), payload=bytes(16), oscore=b"\x09\x00abc")
    client.client_credentials = CredentialsMap()
    response = await asyncio.wait_for(client.request(request).response, 20)
    assert response.code == aiocoap.UNAUTHORIZED


async def test_a_taken_port_is_said(serve: Any) -> None:
    site, _ = await serve()
    section = CoapSection(listen=site.ingress.address)
    second = CoapIngress(section=section, door=site.door, handshakes=site.handshakes, metrics=Metrics())

    with pytest.raises(ListenError, match="stop what uses it"):
        await second.start()
