"""From an envelope's bytes to one answer: who says this, and may the engine hear it?

Rule 1: size, then rate, then room, then decoding, then the signature: nothing dear is done for what something cheap refuses.
Rule 2: the channel proved one device, and a statement must be that device's.
Rule 3: what does not verify reaches no engine: it is refused by number, counted and sampled.
Rule 4: a token lives in the envelope and in the arguments of two calls (commitment, HMAC), nowhere else.
"""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog

from farthing.device.cose import Sign1, VerifyingKey, decode_sign1
from farthing.device.messages import (
    MAX_ENVELOPE_SIZE,
    Answer,
    Envelope,
    Intent,
    MessageError,
    Statement,
    decode_envelope,
    decode_statement,
    encode,
)
from farthing.hsm import HsmBusy, HsmError
from farthing.ids import DeviceId, GatewayId, TokenRef, token_commitment
from farthing.refusal import Refusal
from farthing_edge.authorization.commands import DeviceStatement
from farthing_edge.config import LimitsSection
from farthing_edge.ingress.guard import PeerRates, RubbishRing
from farthing_edge.log import trace_id
from farthing_edge.metrics import Metrics

_log = structlog.get_logger(__name__)

_MS_NS = 1_000_000


class Engine(Protocol):
    """What ingress asks of the engine: its view of devices and keys, and an answer to what verified."""

    async def submit(self, command: DeviceStatement, /) -> Answer | None:
        """The answer, after the commit."""
        ...

    def answer_refusal(
        self, *, answers: tuple[int, int] | None, refusal: Refusal, retry_after_ms: int | None = None
    ) -> Answer:
        """A no of ingress's own; the status follows from the number."""
        ...

    def statement_key(self, device: DeviceId, /) -> VerifyingKey | None:
        """The key of a device that directives named."""
        ...

    def site_key(self) -> tuple[str, int] | None:
        """Label in the token and epoch of the key that token refs are made with."""
        ...


class Keyed(Protocol):
    """What ingress asks of the gateway's token."""

    async def hmac(self, label: str, data: bytes) -> bytes:
        """HMAC-SHA-256 under the key ``label``; ``HsmBusy``, ``HsmError``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A statement that its device signed, for this gateway, over its own channel, with the token it commits to."""

    statement: Statement
    envelope: Envelope
    sign1: Sign1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """What did not verify, and which statement it claimed to be, as far as that could be read."""

    refusal: Refusal
    answers: tuple[int, int] | None = None


def verify(
    payload: bytes, *, peer: str, gateway: GatewayId, key_of: Callable[[DeviceId], VerifyingKey | None]
) -> Verified | Rejected:
    """Check ``payload``, which came over ``peer``'s channel; the first rule that fails names the refusal."""
    if len(payload) > MAX_ENVELOPE_SIZE:
        return Rejected(refusal=Refusal.TOO_LARGE)
    try:
        envelope = decode_envelope(payload)
        sign1 = decode_sign1(envelope.statement)
        statement = decode_statement(sign1.payload)
    except MessageError as err:
        return Rejected(refusal=err.refusal)
    answers = (statement.device_epoch, statement.counter)
    if statement.device != peer:
        return Rejected(refusal=Refusal.CHANNEL_DIFFERS, answers=answers)
    if statement.recipient != gateway:
        return Rejected(refusal=Refusal.RECIPIENT_DIFFERS, answers=answers)
    key = key_of(statement.device)
    if key is None:
        return Rejected(refusal=Refusal.DEVICE_UNKNOWN, answers=answers)
    if sign1.kid != key.key_id or not key.verify(statement.kind, gateway, sign1.payload, sign1.signature):
        return Rejected(refusal=Refusal.SIGNATURE_INVALID, answers=answers)
    if not _keeps_commitment(statement, envelope):
        return Rejected(refusal=Refusal.COMMITMENT_DIFFERS, answers=answers)
    return Verified(statement=statement, envelope=envelope, sign1=sign1)


def _keeps_commitment(statement: Statement, envelope: Envelope) -> bool:
    if envelope.token is None or envelope.salt is None:
        # An intent says whose money it wants; what follows names the authorization.
        return envelope.token is envelope.salt and not isinstance(statement, Intent)
    committed = statement.commitment
    return committed is not None and hmac.compare_digest(token_commitment(envelope.token, envelope.salt), committed)


Clock: TypeAlias = Callable[[], int]


class StatementDoor:
    """Answers envelopes of every channel; holds no state about devices but their rates."""

    def __init__(
        self,
        *,
        gateway: GatewayId,
        engine: Engine,
        token: Keyed,
        limits: LimitsSection,
        metrics: Metrics,
        rubbish: RubbishRing,
        monotonic_ns: Clock = time.monotonic_ns,
    ) -> None:
        self._gateway = gateway
        self._engine = engine
        self._token = token
        self._limits = limits
        self._metrics = metrics
        self._rubbish = rubbish
        self._monotonic_ns = monotonic_ns
        self._rates = PeerRates(
            rate_per_s=limits.peer_rate_per_s, burst=limits.peer_burst, peers=limits.peers_remembered
        )
        self._in_flight = 0
        metrics.in_flight.set_function(lambda: self._in_flight)

    async def answer(self, payload: bytes, *, channel: str, peer: str) -> bytes:
        """The encoded answer to ``payload`` from ``peer``, the device that ``channel`` ("mqtt", "coap") proved."""
        metrics = self._metrics
        metrics.statements_of(channel).inc()
        began_ns = self._monotonic_ns()
        wait_ns = self._rates.admit(peer, now_ns=began_ns)
        if wait_ns:
            answer = self._later(retry_after_ms=max(1, wait_ns // _MS_NS))
        elif self._in_flight >= self._limits.statements_in_flight:
            answer = self._later(retry_after_ms=self._limits.retry_after_ms)
        else:
            self._in_flight += 1
            try:
                answer = await self._decide(payload, channel=channel, peer=peer)
            finally:
                self._in_flight -= 1
        metrics.answers_of(channel, answer.status).inc()
        metrics.answer_seconds.observe((self._monotonic_ns() - began_ns) / 1e9)
        return encode(answer)

    async def _decide(self, payload: bytes, *, channel: str, peer: str) -> Answer:
        # Inline: a verification takes some 80 µs, less than handing it to a thread and back would cost the loop.
        checked = verify(payload, peer=peer, gateway=self._gateway, key_of=self._engine.statement_key)
        if isinstance(checked, Rejected):
            return self._reject(checked, payload, channel=channel, peer=peer)
        envelope, statement = checked.envelope, checked.statement
        token_ref, key_epoch = None, None
        if isinstance(statement, Intent):
            assert envelope.token is not None
            site_key = self._engine.site_key()
            if site_key is not None:
                label, key_epoch = site_key
                try:
                    token_ref = TokenRef(await self._token.hmac(label, envelope.token))
                except HsmBusy:
                    return self._later(
                        retry_after_ms=self._limits.retry_after_ms,
                        answers=(statement.device_epoch, statement.counter),
                    )
                except HsmError:
                    _log.exception("token_ref_failed", key=label)
                    return self._later(
                        retry_after_ms=self._limits.retry_after_ms,
                        answers=(statement.device_epoch, statement.counter),
                        refusal=Refusal.NOT_AUTHORIZING,
                    )
        answer = await self._engine.submit(
            DeviceStatement(
                statement=statement,
                cose=envelope.statement,
                payload=checked.sign1.payload,
                token_ref=token_ref,
                key_epoch=key_epoch,
                traceparent=envelope.traceparent,
                witness=envelope.witness,
            )
        )
        assert answer is not None, "the engine answers every statement"
        if answer.refusal is not None:
            self._metrics.refusals.labels("engine", str(int(answer.refusal))).inc()
            _log.info(
                "refused",
                device=statement.device,
                kind=statement.kind,
                counter=statement.counter,
                number=int(answer.refusal),
                reason=answer.refusal.name,
                trace_id=trace_id(envelope.traceparent),
            )
        else:
            _log.debug(
                "answered",
                device=statement.device,
                kind=statement.kind,
                counter=statement.counter,
                status=answer.status.name,
                trace_id=trace_id(envelope.traceparent),
            )
        return answer

    def _reject(self, rejected: Rejected, payload: bytes, *, channel: str, peer: str) -> Answer:
        self._metrics.unverified.labels(channel).inc()
        self._metrics.refusals.labels("ingress", str(int(rejected.refusal))).inc()
        self._rubbish.add(channel=channel, peer=peer, refusal=rejected.refusal, payload=payload)
        return self._engine.answer_refusal(answers=rejected.answers, refusal=rejected.refusal)

    def _later(
        self,
        *,
        retry_after_ms: int,
        answers: tuple[int, int] | None = None,
        refusal: Refusal = Refusal.OVERLOADED,
    ) -> Answer:
        self._metrics.refusals.labels("ingress", str(int(refusal))).inc()
        return self._engine.answer_refusal(answers=answers, refusal=refusal, retry_after_ms=retry_after_ms)
