"""Bad input, one kind after the other, over a real channel: what does the gateway say, by number?

A catalogue: each attack says what it sends and which numbers are a right answer. Every statement that is signed takes a counter
of the device's own store, so an honest run afterwards is not disturbed. What is granted on the way is ended without width.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

from farthing.clock import Instant
from farthing.device.messages import (
    MAX_ENVELOPE_SIZE,
    SALT_SIZE,
    Answer,
    AnswerStatus,
    End,
    Envelope,
    Intent,
    MessageError,
    RegisterValue,
    Statement,
    decode_answer,
    encode,
)
from farthing.ids import DeviceId, GatewayId, RegisterId, authorization_id, token_commitment
from farthing.refusal import Refusal
from farthing_firmware_sim.config import Device, token_bytes
from farthing_firmware_sim.device.state import new_state
from farthing_firmware_sim.device.stored import dump, load
from farthing_firmware_sim.device.values import FIRST_INCARNATION, Moment, Nameplate
from farthing_firmware_sim.element import Element
from farthing_firmware_sim.runner import real_us
from farthing_firmware_sim.store import Store, Unsigned
from farthing_firmware_sim.transport.link import Deliver, Link, LinkDown

#: Longer than the longest the gateway waits for a quota before it says something.
ANSWER_TIMEOUT_S = 4.0
#: Tries of an honest statement before the catalogue gives up.
HONEST_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one attack brought."""

    attack: str
    sent: str
    status: str | None
    refusal: int | None
    refusal_name: str | None
    #: Whether this is one of the right answers.
    right: bool


class Attacker:
    """Speaks as ``device`` to ``gateway``, wrongly."""

    def __init__(
        self,
        *,
        device: Device,
        nameplate: Nameplate,
        gateway: GatewayId,
        element: Element,
        store: Store,
        now: Callable[[], Instant],
    ) -> None:
        self._plate = nameplate
        self._gateway = gateway
        self._element = element
        self._store = store
        self._now = now
        self._token = token_bytes(device.tokens[0])
        self._answers: asyncio.Queue[bytes] = asyncio.Queue(64)
        self._link: Link | None = None
        self._incarnation = FIRST_INCARNATION
        stored = store.device(device.id)
        self._state = (
            new_state(
                nameplate,
                register_value=device.meter.starts_at,
                now=Moment(business_us=now(), real_us=real_us()),
            )
            if stored is None
            else load(stored.state)
        )

    @property
    def deliver(self) -> Deliver:
        """Where the link brings what comes."""
        return self._came

    def use(self, link: Link) -> None:
        """Speak over ``link``."""
        self._link = link

    async def run(self) -> list[Observed]:
        """Every attack of the catalogue in turn."""
        return [await attack(self) for attack in CATALOGUE]

    # The attacks ------------------------------------------------------------------------------------------------------

    async def garbage(self) -> Observed:
        answer = await self._exchange(secrets.token_bytes(200))
        return self._observed("garbage", "200 random bytes", answer, Refusal.MALFORMED)

    async def oversize(self) -> Observed:
        answer = await self._exchange(bytes(MAX_ENVELOPE_SIZE + 1))
        return self._observed(
            "oversize", f"{MAX_ENVELOPE_SIZE + 1} bytes", answer, Refusal.TOO_LARGE, silence_is_right=True
        )

    async def unknown_device(self) -> Observed:
        statement = replace(self._intent(), device=DeviceId("nobody-1"))
        return self._observed(
            "unknown device",
            "an intent of nobody-1",
            await self._say(statement),
            Refusal.DEVICE_UNKNOWN,
            Refusal.CHANNEL_DIFFERS,
        )

    async def wrong_recipient(self) -> Observed:
        statement = replace(self._intent(), recipient=GatewayId("another-gateway"))
        return self._observed(
            "wrong recipient", "an intent for another gateway", await self._say(statement), Refusal.RECIPIENT_DIFFERS
        )

    async def forged(self) -> Observed:
        cose = bytearray(await self._signed(self._intent()))
        cose[-1] ^= 1
        answer = await self._exchange(self._envelope(bytes(cose)))
        return self._observed("forged", "one bit of a signature flipped", answer, Refusal.SIGNATURE_INVALID)

    async def other_token(self) -> Observed:
        cose = await self._signed(self._intent())
        answer = await self._exchange(encode(Envelope(statement=cose, token=b"stolen", salt=self._salt)))
        return self._observed(
            "other token", "a token the intent does not commit to", answer, Refusal.COMMITMENT_DIFFERS
        )

    async def replayed(self) -> Observed:
        """The same bytes twice: the first answer again, nothing new."""
        intent = self._intent()
        cose = await self._signed(intent)
        first = await self._honest(self._envelope(cose))
        second = await self._exchange(self._envelope(cose))
        same = (
            first is not None
            and second is not None
            and (first.status, first.refusal, first.answers) == (second.status, second.refusal, second.answers)
        )
        await self._end(intent)
        observed = self._observed("replayed", "an answered intent, the same bytes", second)
        return replace(observed, right=same)

    async def counter_reused(self) -> Observed:
        """One counter, two contents: what only a copied or broken element does."""
        first = self._intent()
        await self._honest(self._envelope(await self._signed(first)))
        other = replace(first, at=Instant(first.at + 1))
        # Past the store on purpose: it refuses to sign this.
        cose = await self._element.sign("intent", other.recipient, encode(other))
        answer = await self._exchange(self._envelope(cose))
        await self._end(first)
        return self._observed("counter reused", "another content under a used counter", answer, Refusal.COUNTER_REUSED)

    # Speaking ---------------------------------------------------------------------------------------------------------

    def _intent(self) -> Intent:
        self._salt = secrets.token_bytes(SALT_SIZE)
        return Intent(
            recipient=self._gateway,
            device=self._plate.device,
            device_epoch=self._plate.device_epoch,
            counter=self._take_counter(),
            at=self._now(),
            register=self._register(),
            commitment=token_commitment(self._token, self._salt),
            incarnation=self._incarnation,
        )

    def _register(self) -> RegisterValue:
        return RegisterValue(
            register_id=RegisterId(self._plate.register_id),
            register_epoch=self._plate.register_epoch,
            value=self._state.register_value,
        )

    def _take_counter(self) -> int:
        counter = self._state.next_counter
        self._state = replace(self._state, next_counter=counter + 1)
        return counter

    async def _signed(self, statement: Statement) -> bytes:
        payload = encode(statement)
        self._store.commit(
            self._plate.device,
            device_epoch=self._plate.device_epoch,
            next_counter=self._state.next_counter,
            state=dump(self._state, self._plate.profile),
            unsigned=(Unsigned(counter=statement.counter, recipient=statement.recipient, payload=payload),),
        )
        return await self._element.sign(statement.kind, statement.recipient, payload)

    def _envelope(self, cose: bytes) -> bytes:
        return encode(Envelope(statement=cose, token=self._token, salt=self._salt))

    async def _say(self, statement: Intent) -> Answer | None:
        return await self._exchange(self._envelope(await self._signed(statement)))

    async def _end(self, intent: Intent) -> None:
        """Take back an intent, whatever became of it, so that nothing stays held."""
        end = End(
            recipient=intent.recipient,
            device=intent.device,
            device_epoch=intent.device_epoch,
            counter=self._take_counter(),
            at=self._now(),
            register=self._register(),
            commitment=intent.commitment,
            authorization=authorization_id(intent.device, intent.device_epoch, intent.counter, intent.recipient),
        )
        await self._honest(encode(Envelope(statement=await self._signed(end))))

    async def _honest(self, envelope: bytes) -> Answer | None:
        """Repeat until there is a final answer."""
        for _ in range(HONEST_TRIES):
            answer = await self._exchange(envelope)
            if answer is not None and answer.status is not AnswerStatus.LATER:
                return answer
        return None

    async def _exchange(self, data: bytes) -> Answer | None:
        assert self._link is not None
        while not self._answers.empty():
            self._answers.get_nowait()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._link.send(data)
                answer = decode_answer(await self._answers.get())
        except (TimeoutError, LinkDown, MessageError):
            return None
        self._incarnation = answer.witness.incarnation
        return answer

    def _came(self, data: bytes) -> None:
        if not self._answers.full():
            self._answers.put_nowait(data)

    @staticmethod
    def _observed(
        attack: str, sent: str, answer: Answer | None, *right: Refusal, silence_is_right: bool = False
    ) -> Observed:
        refusal = None if answer is None else answer.refusal
        return Observed(
            attack=attack,
            sent=sent,
            status=None if answer is None else answer.status.name,
            refusal=None if refusal is None else int(refusal),
            refusal_name=None if refusal is None else refusal.name,
            right=silence_is_right if answer is None else refusal in right,
        )


Attack: TypeAlias = Callable[[Attacker], Awaitable[Observed]]

#: In order; the two that need an honest intent come last.
CATALOGUE: Sequence[Attack] = (
    Attacker.garbage,
    Attacker.oversize,
    Attacker.unknown_device,
    Attacker.wrong_recipient,
    Attacker.forged,
    Attacker.other_token,
    Attacker.replayed,
    Attacker.counter_reused,
)


@asynccontextmanager
async def kept_up(link: Link) -> AsyncIterator[None]:
    """Keep ``link`` up while the attacks run."""
    running = asyncio.create_task(link.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
