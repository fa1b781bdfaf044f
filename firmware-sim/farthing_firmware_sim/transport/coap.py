"""CoAP (RFC 7252) protected by OSCORE (RFC 8613) with keys from EDHOC (RFC 9528, method 3, suite 2).

The initiator is lakers through aiocoap, the stock of the field: it shares no line with the gateway's responder. One security
context per gateway is kept under a lock (the stock client would shake hands for every request) and dropped when the gateway
does not know it any more: a restarted gateway answers 4.01.
"""

import asyncio
import stat
from pathlib import Path
from typing import Any

import aiocoap
import aiocoap.error
import aiocoap.oscore
import cbor2
import structlog
from aiocoap.edhoc import EdhocCredentials
from aiocoap.message import UndecidedRemote
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key

from farthing.device.messages import MAX_ANSWER_SIZE
from farthing_firmware_sim.transport.link import Connected, Deliver, LinkDown

#: A gateway's answer takes milliseconds, or as long as it waits for a quota; the device's own repetition takes over then.
REQUEST_TIMEOUT_S = 3.0
HANDSHAKE_TIMEOUT_S = 3.0
_METHOD = 3
_SUITE = 2
_KEY_SIZE = 32


class CoapKeyError(ValueError):
    """A Diffie-Hellman key that cannot be used; says what is wrong with the file."""


class CoapEndpoint:
    """One device's UDP socket; several gateways may be reached from it."""

    def __init__(self) -> None:
        self._context: aiocoap.Context | None = None

    async def open(self) -> None:
        """Open the socket."""
        self._context = await aiocoap.Context.create_client_context(transports=["oscore", "udp6"])

    async def close(self) -> None:
        """Close the socket; what is under way fails."""
        if self._context is not None:
            await self._context.shutdown()
            self._context = None

    @property
    def context(self) -> Any:
        """aiocoap's context; only while open."""
        assert self._context is not None
        return self._context


class CoapLink:
    """One device's requests to one gateway."""

    def __init__(
        self,
        *,
        endpoint: CoapEndpoint,
        device: str,
        device_key: ec.EllipticCurvePrivateKey,
        device_kid: bytes,
        gateway: str,
        address: str,
        gateway_key: ec.EllipticCurvePublicKey,
        gateway_kid: bytes,
        deliver: Deliver,
        connected: Connected,
    ) -> None:
        self._endpoint = endpoint
        self._address = address
        self._base = f"coap://{address}"
        self._deliver = deliver
        self._connected = connected
        self._lock = asyncio.Lock()
        self._security: Any = None
        self._credentials = EdhocCredentials(
            suite=_SUITE,
            method=_METHOD,
            own_cred_style="by-key-id",
            own_cred={14: credential(device, device_kid, device_key.public_key())},
            private_key={1: 2, -1: 1, -4: device_key.private_numbers().private_value.to_bytes(_KEY_SIZE, "big")},
            peer_cred={14: credential(gateway, gateway_kid, gateway_key)},
        )
        self._log = structlog.get_logger().bind(device=device, gateway=gateway)

    async def run(self) -> None:
        """A datagram needs no channel kept up."""

    async def send(self, data: bytes) -> None:
        """POST an envelope and deliver the answer; ``LinkDown`` if none came."""
        self._deliver(await self._said("statement", data))

    async def send_tick(self, data: bytes) -> None:
        """POST a tick and deliver what is said to one, if anything is; ``LinkDown`` if it was not taken."""
        answer = await self._said("tick", data)
        if answer:
            self._deliver(answer)

    async def _said(self, where: str, data: bytes) -> bytes:
        for last in (False, True):
            security = await self._ready()
            try:
                return await self._post(where, data)
            except TimeoutError as err:
                # Lost, or the gateway is gone; if it forgot us it would have said so.
                raise LinkDown("no answer in time") from err
            except (aiocoap.error.Error, aiocoap.oscore.ProtectionInvalid, OSError, ValueError) as err:
                self._forget(security)
                if last:
                    raise LinkDown("the gateway does not know the security context") from err
                self._log.info("handshake anew", why=type(err).__name__)
        raise AssertionError("the last try returns or raises")

    async def _post(self, where: str, data: bytes) -> bytes:
        request = aiocoap.Message(code=aiocoap.POST, uri=f"{self._base}/{where}", payload=data)
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            response = await self._endpoint.context.request(request).response
        payload = bytes(response.payload)
        if (not payload and where == "statement") or len(payload) > MAX_ANSWER_SIZE:
            raise LinkDown(f"answered {response.code} without a message")
        return payload

    async def _ready(self) -> object:
        """The security context with this gateway, after a handshake if there is none."""
        async with self._lock:
            if self._security is not None:
                return self._security
            context = self._endpoint.context
            try:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                    security = await self._credentials.establish_context(
                        wire=context,
                        underlying_address=UndecidedRemote("coap", self._address),
                        underlying_proxy_scheme=None,
                        underlying_uri_host=None,
                        logger=context.log.getChild("edhoc"),
                    )
            except TimeoutError as err:
                raise LinkDown("no handshake in time") from err
            except (aiocoap.error.Error, OSError, ValueError, RuntimeError) as err:
                raise LinkDown("no handshake") from err
            self._security = security
            context.client_credentials[f"{self._base}/*"] = security
        self._connected()
        return self._security

    def _forget(self, security: object) -> None:
        if self._security is security:
            self._security = None


def credential(subject: str, kid: bytes, key: ec.EllipticCurvePublicKey) -> dict[int, Any]:
    """The CWT Claims Set by which a party is known in EDHOC: its id, and its key as COSE_Key with ``kid``."""
    numbers = key.public_numbers()
    x, y = (value.to_bytes(_KEY_SIZE, "big") for value in (numbers.x, numbers.y))
    return {2: subject, 8: {1: {1: 2, 2: kid, -1: 1, -2: x, -3: y}}}


def load_static_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """A chip's static Diffie-Hellman key as the peer library takes it: COSE_Key in CBOR, PEM, or 32 bytes; mode 0600."""
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise CoapKeyError(f"{file} can be read by others: chmod 600 it")
        data = file.read_bytes()
    except OSError as err:
        raise CoapKeyError(
            f"cannot read the Diffie-Hellman key {file}; make it with `farthing-hsm-sim ceremony`"
        ) from err
    try:
        if data.startswith(b"-----BEGIN"):
            key = load_pem_private_key(data, password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
                raise CoapKeyError(f"{file} is not a key on P-256")
            return key
        secret = data if len(data) == _KEY_SIZE else cbor2.loads(data)[-4]
        return ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
    except (ValueError, TypeError, KeyError, UnsupportedAlgorithm) as err:
        raise CoapKeyError(f"{file} is not a Diffie-Hellman key on P-256") from err


def load_peer_key(file: Path) -> ec.EllipticCurvePublicKey:
    """A gateway's public Diffie-Hellman key, SubjectPublicKeyInfo in DER."""
    try:
        key = load_der_public_key(file.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as err:
        raise CoapKeyError(f"{file} is not a public key (SubjectPublicKeyInfo, DER)") from err
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CoapKeyError(f"{file} is not a key on P-256")
    return key
