"""From an envelope's bytes to one answer: who says this, and may the engine hear it?

Rule 1: rate, then room, then size, then decoding, then the signature: nothing dear is done for what something cheap refuses. Only what
has verified counts against its device.
Rule 2: the channel proved one device, and a statement must be that device's.
Rule 3: what does not verify reaches no engine: it is refused by number, counted and sampled.
Rule 4: a token lives in the envelope and in the arguments of two calls (commitment, HMAC), nowhere else.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

import structlog

from farthing.device.cose import Sign1, VerifyingKey, decode_sign1
from farthing.device.frames import ReadingFrames
from farthing.device.messages import (
    MAX_ENVELOPE_SIZE,
    Answer,
    Envelope,
    Intent,
    MessageError,
    Reading,
    Statement,
    decode_envelope,
    decode_statement,
    encode,
)
from farthing.hsm import HsmBusy, HsmError
from farthing.hsm.thread import when_settled
from farthing.ids import DeviceId, GatewayId, TokenRef, token_commitment
from farthing.refusal import Refusal
from farthing_edge.authorization.commands import DeviceStatement, Shown, TicksArrived
from farthing_edge.config import LimitsSection
from farthing_edge.engine.asked import Waiting
from farthing_edge.ingress.guard import PeerRates, Reminders, RubbishRing
from farthing_edge.ingress.shown import is_carried, is_shown_use, read_shown
from farthing_edge.ingress.ticks import TickDoor
from farthing_edge.log import trace_id
from farthing_edge.metrics import Metrics

_log = structlog.get_logger(__name__)

_MS_NS = 1_000_000
#: Uses whose readings are read the short way: those of a large site; a kilobyte each.
MAX_READINGS_KNOWN = 2_048
#: Quarters of the room that each kind may fill; an end all of it.
_SHARES: dict[type[Statement], int] = {Intent: 2, Reading: 3}


class Engine(Protocol):
    """What ingress asks of the engine: its view of devices and keys, and an answer to what verified."""

    def hear(self, command: DeviceStatement | TicksArrived, waiting: Waiting, /) -> None:
        """Decide ``command``; ``waiting`` gets the answer after the commit, or what stopped the engine."""
        ...

    def answer_refusal(
        self, *, answers: tuple[int, int] | None, refusal: Refusal, retry_after_ms: int | None = None
    ) -> Answer:
        """A no of ingress's own; the status follows from the number."""
        ...

    def statement_key(self, device: DeviceId, /) -> VerifyingKey | None:
        """The key of a device that directives named."""
        ...

    def is_complete(self) -> bool:
        """Whether all directives have once been heard: before, an unknown device may be in what is still to come."""
        ...

    def site_key(self) -> tuple[str, int] | None:
        """Label in the token and epoch of the key that token refs are made with."""
        ...


class Keyed(Protocol):
    """What ingress asks of the gateway's token."""

    def hmac_many(self, label: str, data: Sequence[bytes]) -> Awaitable[list[bytes]]:
        """HMAC-SHA-256 of each under the key ``label``, in order; ``HsmBusy``, ``HsmError``, at once or when awaited."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A statement that its device signed, for this gateway, over its own channel, with the token it commits to."""

    statement: Statement
    envelope: Envelope
    sign1: Sign1
    shown: Shown | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """What did not verify, and which statement it claimed to be, as far as that could be read."""

    refusal: Refusal
    answers: tuple[int, int] | None = None


def verify(
    payload: bytes,
    *,
    peer: str,
    gateway: GatewayId,
    key_of: Callable[[DeviceId], VerifyingKey | None],
    grant_key: VerifyingKey,
    decode: Callable[[bytes], Statement] = decode_statement,
) -> Verified | Rejected:
    """Check ``payload``, which came over ``peer``'s channel; the first rule that fails names the refusal.

    ``grant_key`` is this gateway's own: what it granted before it lost its journal is shown to it again. ``decode`` is ``decode_statement``, or as good.
    """
    if len(payload) > MAX_ENVELOPE_SIZE:
        return Rejected(refusal=Refusal.TOO_LARGE)
    try:
        envelope = decode_envelope(payload)
        sign1 = decode_sign1(envelope.statement)
        statement = decode(sign1.payload)
    except MessageError as err:
        return Rejected(refusal=err.refusal)
    answers = (statement.device_epoch, statement.counter)
    if statement.device != peer:
        return Rejected(refusal=Refusal.CHANNEL_DIFFERS, answers=answers)
    carried = is_carried(envelope, statement, gateway)
    if statement.recipient != gateway and not carried:
        return Rejected(refusal=Refusal.RECIPIENT_DIFFERS, answers=answers)
    key = key_of(statement.device)
    if key is None:
        return Rejected(refusal=Refusal.DEVICE_UNKNOWN, answers=answers)
    if sign1.kid != key.key_id or not key.verify(statement.kind, statement.recipient, sign1.payload, sign1.signature):
        return Rejected(refusal=Refusal.SIGNATURE_INVALID, answers=answers)
    if not _keeps_commitment(statement, envelope):
        return Rejected(refusal=Refusal.COMMITMENT_DIFFERS, answers=answers)
    if envelope.first is None and envelope.grant is None:
        return Verified(statement=statement, envelope=envelope, sign1=sign1)
    shown = read_shown(envelope, statement, device_key=key, grant_key=None if carried else grant_key)
    if isinstance(shown, Refusal):
        return Rejected(refusal=shown, answers=answers)
    return Verified(statement=statement, envelope=envelope, sign1=sign1, shown=shown)


def _keeps_commitment(statement: Statement, envelope: Envelope) -> bool:
    if envelope.token is None or envelope.salt is None:
        # An intent says whose money it wants; what follows names the authorization.
        return envelope.token is envelope.salt and (
            not isinstance(statement, Intent) or is_shown_use(envelope, statement)
        )
    committed = statement.commitment
    return committed is not None and hmac.compare_digest(token_commitment(envelope.token, envelope.salt), committed)


Clock: TypeAlias = Callable[[], int]


class Arrived(NamedTuple):
    """An envelope as it came, who the channel proved it is from, and where its answer goes; exactly one of the two is called, once."""

    payload: bytes
    peer: str
    say: Callable[[bytes], None]
    #: Nothing can be said: the engine has stopped, or there is a fault of ours. The device asks again.
    fail: Callable[[BaseException], None]


class _Answering:
    """A statement between its arrival and its answer, as the engine sees who waits for it."""

    __slots__ = ("_answered", "_arrived", "_began_ns", "_channel", "_door", "verified")

    def __init__(self, door: "StatementDoor", arrived: Arrived, channel: str, began_ns: int) -> None:
        self._door = door
        self._arrived = arrived
        self._channel = channel
        self._began_ns = began_ns
        self._answered = False
        self.verified: Verified | None = None

    def done(self) -> bool:
        return self._answered

    def set_result(self, answer: Answer | None) -> None:
        assert answer is not None, "the engine answers every statement"
        self._answered = True
        self._door.left(self.verified)
        if answer.refusal is not None:
            self._door.refused(self.verified, answer.refusal)
        self.say(answer)

    def set_exception(self, err: BaseException) -> None:
        self._answered = True
        self._door.left(self.verified)
        self._arrived.fail(err)

    def say(self, answer: Answer) -> None:
        """Send ``answer`` on its way, and count it."""
        self._answered = True
        self._door.answered(self._channel, answer, self._began_ns)
        self._arrived.say(encode(answer))

    def later(self, refusal: Refusal = Refusal.OVERLOADED, *, retry_after_ms: int | None = None) -> None:
        """Say "later" to what has verified and cannot be handed on."""
        assert self.verified is not None  # it has verified
        self._door.left(self.verified)
        statement = self.verified.statement
        self.say(
            self._door.later(
                refusal=refusal,
                answers=(statement.device_epoch, statement.counter),
                retry_after_ms=retry_after_ms,
            )
        )


class StatementDoor:
    """Answers envelopes of every channel; holds no state about devices but their rates and budgets."""

    def __init__(
        self,
        *,
        gateway: GatewayId,
        engine: Engine,
        token: Keyed,
        grant_key: VerifyingKey,
        limits: LimitsSection,
        metrics: Metrics,
        rubbish: RubbishRing,
        monotonic_ns: Clock = time.monotonic_ns,
    ) -> None:
        self._gateway = gateway
        self._engine = engine
        self._token = token
        self._grant_key = grant_key
        self._limits = limits
        self._metrics = metrics
        self._rubbish = rubbish
        self._monotonic_ns = monotonic_ns
        #: A peer's budget, over all that it says: statements and ticks.
        self.rates = PeerRates(
            rate_per_s=limits.peer_rate_per_s, burst=limits.peer_burst, peers=limits.peers_remembered
        )
        self._budgets = PeerRates(
            rate_per_s=limits.device_rate_per_s, burst=limits.device_burst, peers=limits.peers_remembered
        )
        self._reminders = Reminders(every_ms=limits.retry_after_ms, peers=limits.peers_remembered)
        #: Where ticks go: they are no statements, and share nothing with them but the guard.
        self.ticks = TickDoor(
            engine=engine, rates=self.rates, metrics=metrics, rubbish=rubbish, monotonic_ns=monotonic_ns
        )
        self._readings = ReadingFrames(most=MAX_READINGS_KNOWN)
        self._in_flight = 0
        # The loop keeps only weak references to what it waits for.
        self._looking_up: set[asyncio.Future[list[bytes]]] = set()
        metrics.in_flight.set_function(lambda: self._in_flight)

    def turn_away(self, peer: str, *, channel: str) -> Answer | None:
        """Before anything is read: None for a message of ``peer``, whom ``channel`` ("mqtt", "coap") proved, that may come in."""
        self._metrics.statements_of(channel).inc()
        # What comes over one channel uses up nothing of another: they prove the same device by different keys.
        wait_ns = self.rates.admit(f"{channel}/{peer}", now_ns=self._monotonic_ns())
        return self.later(retry_after_ms=max(1, wait_ns // _MS_NS)) if wait_ns else None

    def turn_away_quietly(self, peer: str, *, channel: str) -> bytes | None:
        """``turn_away`` for a channel where silence is an answer: None to come in, else what to say; empty where it was said a moment ago."""
        metrics = self._metrics
        metrics.statements_of(channel).inc()
        now_ns = self._monotonic_ns()
        name = f"{channel}/{peer}"
        wait_ns = self.rates.admit(name, now_ns=now_ns)
        if not wait_ns:
            return None
        if not self._reminders.is_due(name, now_ns=now_ns):
            metrics.turned_away.inc()
            return b""
        answer = self.later(retry_after_ms=max(1, wait_ns // _MS_NS))
        self.answered(channel, answer, now_ns)
        return encode(answer)

    async def answer(self, payload: bytes, *, channel: str, peer: str) -> bytes:
        """The encoded answer to ``payload`` from ``peer``, the device that ``channel`` ("mqtt", "coap") proved."""
        away = self.turn_away(peer, channel=channel)
        if away is not None:
            self.answered(channel, away, self._monotonic_ns())
            return encode(away)
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def say(answer: bytes) -> None:
            if not answered.done():
                answered.set_result(answer)

        def fail(err: BaseException) -> None:
            if not answered.done():
                answered.set_exception(err)

        self.take((Arrived(payload, peer, say, fail),), channel=channel)
        return await answered

    def take(self, arrived: Iterable[Arrived], *, channel: str) -> None:
        """Answer each of what came in one turn of the loop and was not turned away; their tokens are looked up together."""
        intents: list[_Answering] = []
        for each in arrived:
            answering = _Answering(self, each, channel, self._monotonic_ns())
            try:
                self._let_in(answering, each, channel, intents)
            except Exception as err:  # noqa: BLE001 -- one message must not end the others; whoever sent it is told, and logs
                each.fail(err)
        if intents:
            self._look_up(intents)

    def _let_in(self, answering: _Answering, arrived: Arrived, channel: str, intents: list[_Answering]) -> None:
        peer, payload = arrived.peer, arrived.payload
        most = self._limits.statements_in_flight
        if self._in_flight >= most:
            answering.say(self.later())
            return
        # Inline: a verification takes some 80 µs, less than handing it to a thread and back would cost the loop.
        checked = verify(
            payload,
            peer=peer,
            gateway=self._gateway,
            key_of=self._engine.statement_key,
            grant_key=self._grant_key,
            decode=self._readings.decode,
        )
        if isinstance(checked, Rejected):
            if checked.refusal is Refusal.DEVICE_UNKNOWN and not self._engine.is_complete():
                # The directives are still to be heard: this device may be in them.
                answering.say(self.later(answers=checked.answers, refusal=Refusal.NOT_AUTHORIZING))
                return
            answering.say(self._reject(checked, payload, channel=channel, peer=peer))
            return
        answering.verified = checked
        self._in_flight += 1
        wait_ns = self._budgets.admit(checked.statement.device, now_ns=self._monotonic_ns())
        if wait_ns:
            answering.later(retry_after_ms=max(1, wait_ns // _MS_NS))
        elif self._in_flight > max(1, most * _SHARES.get(checked.statement.__class__, 4) // 4):
            # Who is served keeps his room: under overload new uses wait first, then readings, ends last.
            answering.later()
        elif isinstance(checked.statement, Intent) and checked.shown is None:
            intents.append(answering)
        else:
            self._hand_on(answering, checked, None, None)

    def _look_up(self, intents: Sequence[_Answering]) -> None:
        """Who pays, by the site's key in the token: one way there and back for all of them."""
        site_key = self._engine.site_key()
        if site_key is None:
            for each in intents:
                self._hand_on(each, _verified(each), None, None)
            return
        label, key_epoch = site_key
        try:
            references = asyncio.ensure_future(self._token.hmac_many(label, [_token_of(each) for each in intents]))
        except HsmError as err:
            self._not_looked_up(intents, label, err)
            return
        self._looking_up.add(references)
        when_settled(references, partial(self._looked_up, intents, label, key_epoch))

    def _looked_up(
        self, intents: Sequence[_Answering], label: str, key_epoch: int, pending: "asyncio.Future[list[bytes]]"
    ) -> None:
        self._looking_up.discard(pending)
        try:
            references = pending.result()
        except HsmError as err:
            self._not_looked_up(intents, label, err)
        except BaseException as err:  # noqa: BLE001 -- nobody else hears of it; whoever sent it is told, and logs
            for each in intents:
                each.set_exception(err)
        else:
            for each, reference in zip(intents, references, strict=True):
                self._hand_on(each, _verified(each), TokenRef(reference), key_epoch)

    def _not_looked_up(self, intents: Sequence[_Answering], label: str, err: HsmError) -> None:
        busy = isinstance(err, HsmBusy)
        if not busy:
            _log.error("token_ref_failed", key=label, exc_info=err)
        for each in intents:
            each.later(Refusal.OVERLOADED if busy else Refusal.NOT_AUTHORIZING)

    def _hand_on(
        self, answering: _Answering, verified: Verified, token_ref: TokenRef | None, key_epoch: int | None
    ) -> None:
        envelope = verified.envelope
        self._engine.hear(
            DeviceStatement(
                statement=verified.statement,
                cose=envelope.statement,
                payload=verified.sign1.payload,
                token_ref=token_ref,
                key_epoch=key_epoch,
                traceparent=envelope.traceparent,
                witness=envelope.witness,
                shown=verified.shown,
            ),
            answering,
        )

    def _reject(self, rejected: Rejected, payload: bytes, *, channel: str, peer: str) -> Answer:
        self._metrics.unverified.labels(channel).inc()
        self._metrics.refusals.labels("ingress", str(int(rejected.refusal))).inc()
        self._rubbish.add(channel=channel, peer=peer, refusal=rejected.refusal, payload=payload)
        return self._engine.answer_refusal(answers=rejected.answers, refusal=rejected.refusal)

    # What a statement on its way tells its door -----------------------------------------------------------------------

    def left(self, verified: Verified | None) -> None:
        """A statement that had been let in is on its way out."""
        if verified is not None:
            self._in_flight -= 1

    def later(
        self,
        *,
        retry_after_ms: int | None = None,
        answers: tuple[int, int] | None = None,
        refusal: Refusal = Refusal.OVERLOADED,
    ) -> Answer:
        """What is said to who is over his rate, or finds no room; real milliseconds."""
        self._metrics.refusals.labels("ingress", str(int(refusal))).inc()
        return self._engine.answer_refusal(
            answers=answers, refusal=refusal, retry_after_ms=retry_after_ms or self._limits.retry_after_ms
        )

    def refused(self, verified: Verified | None, refusal: Refusal) -> None:
        """The engine said no."""
        assert verified is not None  # nothing else reaches the engine
        self._metrics.refusals.labels("engine", str(int(refusal))).inc()
        statement = verified.statement
        _log.info(
            "refused",
            device=statement.device,
            kind=statement.kind,
            counter=statement.counter,
            number=int(refusal),
            reason=refusal.name,
            trace_id=trace_id(verified.envelope.traceparent),
        )

    def answered(self, channel: str, answer: Answer, began_ns: int) -> None:
        """Count an answer, and how long it took."""
        self._metrics.answers_of(channel, answer.status).inc()
        self._metrics.answer_seconds.observe((self._monotonic_ns() - began_ns) / 1e9)


def _verified(answering: _Answering) -> Verified:
    assert answering.verified is not None  # _let_in
    return answering.verified


def _token_of(answering: _Answering) -> bytes:
    token = _verified(answering).envelope.token
    assert token is not None  # verify: an intent says whose money it wants
    return token
