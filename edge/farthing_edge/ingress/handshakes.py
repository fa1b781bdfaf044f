"""EDHOC handshakes and the security contexts they leave: who a CoAP peer is.

Rule 1: a peer is the one credential whose MAC in message_3 was verified; its name comes from a directive, not from the peer.
Rule 2: half-open handshakes are few and short-lived; above a threshold an address first has to return an Echo (RFC 9175).
Rule 3: contexts are bounded: per device, and in all; the longest idle one makes room. None outlives the process: after a
restart a device hears 4.01 and handshakes again.
"""

import copy
import hashlib
import hmac
import io
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import aiocoap.oscore as oscore
import cbor2
from cryptography.hazmat.primitives.asymmetric import ec

from farthing.edhoc import (
    Credential,
    EdhocError,
    Handshake,
    HandshakeFailed,
    MessageMalformed,
    NotAuthentic,
    OutOfTurn,
    Responder,
    StaticKey,
    ccs,
)
from farthing.ids import DeviceId
from farthing_edge.config import CoapSection
from farthing_edge.metrics import Metrics

#: Two bytes leave room for 65,536 identifiers and a client that guesses; three keep choosing by chance short.
C_R_SIZE = 3
#: A device needs one; one more while a new one replaces it, and as many again for retries that crossed.
CONTEXTS_PER_DEVICE = 4
#: Key identifiers are short and chosen by a ceremony: this many devices of a site may share one.
CANDIDATES_PER_KID = 16
#: OSCORE's default (RFC 8613, section 3.2.2).
REPLAY_WINDOW = 32
#: An Echo is good for one to two of these (RFC 9175, section 2.2: fresh, and no state kept for it).
ECHO_PERIOD_S = 10
ECHO_SIZE = 8


class HandshakesFull(Exception):
    """No room for another half-open handshake: ask again in a moment."""


class EchoNeeded(Exception):
    """The address has to show that it hears us before it may cost us an operation; ``echo`` is what to return."""

    def __init__(self, echo: bytes) -> None:
        super().__init__("return the Echo")
        self.echo = echo


class DeviceContext(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]  # aiocoap ships no types
    """The OSCORE context (RFC 8613) of one device, from one handshake."""

    def __init__(self, *, device: DeviceId, handshake: Handshake) -> None:
        self.device = device
        self.authenticated_claims = [device]
        self.id_context = None
        self.alg_aead = oscore.algorithms["AES-CCM-16-64-128"]
        self.hashfun = oscore.hashfunctions["sha256"]
        self.sender_id = handshake.c_i
        self.recipient_id = handshake.c_r
        self.sender_sequence_number = 0
        self.recipient_replay_window = oscore.ReplayWindow(REPLAY_WINDOW, lambda: None)
        self.recipient_replay_window.initialize_empty()
        secret, salt = handshake.oscore_secret()
        self.derive_keys(salt, secret)

    def post_seqnoincrease(self) -> None:
        """Nothing to persist: a context ends with its process."""

    def unprotect(self, protected_message: Any, request_id: Any = None) -> Any:
        """As OSCORE does, after taking off a message_3 that came along (RFC 9668) and was dealt with before."""
        if protected_message.opt.edhoc:
            _, rest = split_message_3(protected_message.payload)
            protected_message = protected_message.copy(edhoc=False, payload=rest)
        return super().unprotect(protected_message, request_id)


def split_message_3(payload: bytes) -> tuple[bytes, bytes]:
    """A combined request's payload as (message_3, OSCORE's ciphertext); raise ``MessageMalformed``."""
    stream = io.BytesIO(payload)
    try:
        cbor2.load(stream)
    except (cbor2.CBORDecodeError, ValueError, OverflowError, MemoryError, RecursionError) as err:
        raise MessageMalformed("no message_3 in front") from err
    return payload[: stream.tell()], payload[stream.tell() :]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKey:
    """What a directive says of a device's static Diffie-Hellman key: x (32 bytes) and key identifier."""

    device: DeviceId
    kid: bytes
    x: bytes


def candidates(keys: Iterable[DeviceKey]) -> tuple[Credential, ...]:
    """The credentials that may stand behind ``keys``: a directive names x, and either y makes a credential of its own."""
    found = []
    for key in keys:
        for sign in (b"\x02", b"\x03"):
            try:
                point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sign + key.x)
            except ValueError:
                continue
            y = point.public_numbers().y.to_bytes(32, "big")
            found.append(Credential(subject=key.device, kid=key.kid, x=key.x, cred=ccs(key.device, key.kid, key.x, y)))
    return tuple(found)


@dataclass(slots=True, kw_only=True)
class _HalfOpen:
    handshake: Handshake
    until_ns: int


class Handshakes:
    """All handshakes and contexts of one listener. aiocoap looks contexts up here (``find_oscore``)."""

    def __init__(
        self,
        *,
        section: CoapSection,
        key: StaticKey,
        credential: Credential,
        keys_with: Callable[[bytes], Iterable[DeviceKey]],
        metrics: Metrics,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._section = section
        self._keys_with = keys_with
        self._metrics = metrics
        self._monotonic_ns = monotonic_ns
        self._random_bytes = random_bytes
        self._echo_key = random_bytes(32)
        self._half_open: OrderedDict[bytes, _HalfOpen] = OrderedDict()
        # Message_1 being answered: they wait for the token, and count as half-open.
        self._opening = 0
        self._contexts: OrderedDict[bytes, DeviceContext] = OrderedDict()
        self._of_device: dict[DeviceId, list[bytes]] = {}
        # Candidates behind a key identifier that the message_3 at hand was tried with.
        self._tried: list[Credential] = []
        self._responder = Responder(key=key, credential=credential, find_credential=self._next_candidate)

    async def open(self, message_1: bytes, *, address: str, echo: bytes | None) -> bytes:
        """message_2. Raises ``EchoNeeded``, ``HandshakesFull``, ``EdhocError``, and what the token raises."""
        self._forget_expired()
        waiting = len(self._half_open) + self._opening
        if waiting >= self._section.echo_above and not self._is_fresh_echo(address, echo):
            self._metrics.handshakes.labels("echo_asked").inc()
            raise EchoNeeded(self._echo(address, self._period()))
        if waiting >= self._section.max_half_open:
            self._metrics.handshakes.labels("full").inc()
            raise HandshakesFull
        self._opening += 1
        try:
            handshake = await self._responder.open(message_1, choose_c_r=self._choose_c_r)
        except EdhocError:
            self._metrics.handshakes.labels("malformed").inc()
            raise
        finally:
            self._opening -= 1
        until_ns = self._monotonic_ns() + int(self._section.half_open_s * 1e9)
        self._half_open[handshake.c_r] = _HalfOpen(handshake=handshake, until_ns=until_ns)
        self._metrics.handshakes.labels("opened").inc()
        self._show()
        return handshake.message_2

    def complete(self, c_r: bytes, message_3: bytes) -> bytes:
        """Verify ``message_3`` and keep the context; message_4. Raise ``EdhocError`` (``OutOfTurn``: nobody waits for it)."""
        self._forget_expired()
        entry = self._half_open.get(c_r)
        if entry is None:
            raise OutOfTurn("no handshake waits for this message_3")
        try:
            handshake = self._verified(entry.handshake, message_3)
        except (NotAuthentic, MessageMalformed):
            self._metrics.handshakes.labels("not_authentic").inc()
            raise
        except HandshakeFailed:
            del self._half_open[c_r]
            self._metrics.handshakes.labels("failed").inc()
            self._show()
            raise
        del self._half_open[c_r]
        assert handshake.established is not None
        self._keep(DeviceContext(device=DeviceId(handshake.established.peer.subject), handshake=handshake))
        self._metrics.handshakes.labels("completed").inc()
        self._show()
        return handshake.established.message_4

    def is_half_open(self, c_r: bytes) -> bool:
        """Whether a handshake waits for its message_3 under this identifier."""
        return c_r in self._half_open

    def find_oscore(self, unprotected: dict[int, bytes]) -> DeviceContext:
        """The context that a protected request names; ``KeyError`` if there is none. aiocoap's interface."""
        if oscore.COSE_KID_CONTEXT in unprotected:
            raise KeyError
        kid = unprotected[oscore.COSE_KID]
        context = self._contexts[kid]
        self._contexts.move_to_end(kid)
        return context

    def __len__(self) -> int:
        return len(self._contexts)

    def _verified(self, handshake: Handshake, message_3: bytes) -> Handshake:
        # A key identifier need not be unique (RFC 9528, section 3.5.3): the peer is whose MAC verifies. Each attempt runs on a copy,
        # because a handshake that failed is over.
        self._tried = []
        failure: HandshakeFailed | None = None
        while True:
            tried = len(self._tried)
            trial = copy.copy(handshake)
            try:
                trial.receive(message_3)
            except HandshakeFailed as err:
                if len(self._tried) == tried:
                    # Nobody else is left to be tried, or it failed before anybody was named.
                    raise failure or err from None
                failure = err
            else:
                return trial

    def _next_candidate(self, kid: bytes) -> Credential | None:
        named: list[DeviceKey] = []
        for key in self._keys_with(kid):
            named.append(key)
            if len(named) == CANDIDATES_PER_KID:
                break
        for credential in candidates(named):
            if credential not in self._tried:
                self._tried.append(credential)
                return credential
        return None

    def _keep(self, context: DeviceContext) -> None:
        self._contexts[context.recipient_id] = context
        own = self._of_device.setdefault(context.device, [])
        own.append(context.recipient_id)
        if len(own) > CONTEXTS_PER_DEVICE:
            self._drop(own[0])
        while len(self._contexts) > self._section.max_contexts:
            self._drop(next(iter(self._contexts)))

    def _drop(self, kid: bytes) -> None:
        context = self._contexts.pop(kid)
        own = self._of_device[context.device]
        own.remove(kid)
        if not own:
            del self._of_device[context.device]

    def _choose_c_r(self, c_i: bytes) -> bytes:
        while True:
            c_r = self._random_bytes(C_R_SIZE)
            if c_r != c_i and c_r not in self._contexts and c_r not in self._half_open:
                return c_r

    def _forget_expired(self) -> None:
        now_ns = self._monotonic_ns()
        while self._half_open:
            c_r, entry = next(iter(self._half_open.items()))
            if entry.until_ns > now_ns:
                break
            del self._half_open[c_r]
            self._metrics.handshakes.labels("expired").inc()
        self._show()

    def _show(self) -> None:
        self._metrics.half_open.set(len(self._half_open))
        self._metrics.contexts.set(len(self._contexts))

    def _period(self) -> int:
        return self._monotonic_ns() // (ECHO_PERIOD_S * 1_000_000_000)

    def _echo(self, address: str, period: int) -> bytes:
        said = f"{period} {address}".encode()
        return hmac.digest(self._echo_key, said, hashlib.sha256)[:ECHO_SIZE]

    def _is_fresh_echo(self, address: str, echo: bytes | None) -> bool:
        if echo is None:
            return False
        now = self._period()
        return any(hmac.compare_digest(echo, self._echo(address, period)) for period in (now, now - 1))
