"""One device alive: feeds the core with time and answers, stores before it signs, signs before it sends."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import structlog

from farthing.clock import BusinessClock, Instant
from farthing.device.cose import VerifyingKey
from farthing.device.messages import Envelope, MessageError, decode_answer, encode, encode_tick
from farthing.hsm import HsmError
from farthing.ids import GatewayId
from farthing_firmware_sim.device.due import next_due_us
from farthing_firmware_sim.device.state import can_serve, is_finished, is_out_of_reach, new_state, restored, served_at
from farthing_firmware_sim.device.step import step, traceparent
from farthing_firmware_sim.device.stored import dump, load
from farthing_firmware_sim.device.values import (
    AnswerDistrusted,
    Answered,
    ArrivalTurnedAway,
    Arrive,
    Disclaimed,
    Draw,
    EndAnswered,
    EndHandedOver,
    Event,
    Finish,
    Finished,
    Granted,
    GrantLapsed,
    Input,
    Kept,
    Kind,
    Moment,
    Nameplate,
    Outgoing,
    Plan,
    Receipted,
    Reconnected,
    RefusedIntent,
    Send,
    State,
    StatementRefused,
    Tick,
)
from farthing_firmware_sim.element import Element, GrantError, open_grant
from farthing_firmware_sim.pace import FileClock
from farthing_firmware_sim.record import refused_row, standing_row, use_row
from farthing_firmware_sim.store import Row, Store, Unsigned
from farthing_firmware_sim.traffic.schedule import Load, Payers
from farthing_firmware_sim.transport.air import Air
from farthing_firmware_sim.transport.link import Link, LinkDown

T = TypeVar("T")

#: How often a device looks at its clock, real time: at 900 × this is 18 business seconds.
TICK_S = 0.02
#: Answers waiting for the device's one loop; more are repetitions, and are lost like any other message.
MAX_INBOX = 256


def real_us() -> int:
    """Real monotonic time in µs: for retries only."""
    return time.monotonic_ns() // 1_000


@dataclass(kw_only=True)
class Counts:
    """What a device did, for the status."""

    uses: int = 0
    granted: int = 0
    granted_on_floor: int = 0
    cancelled: int = 0
    delivered: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    statements_refused: Counter[int] = field(default_factory=Counter)
    ends_closed: int = 0
    distrusted: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0
    #: Yeses that came too late for their use to begin.
    lapsed: int = 0
    handed_over: int = 0
    disclaimed: int = 0
    receipted: int = 0
    sent: int = 0
    ticks: int = 0
    not_sent: int = 0


class Runner:
    """One device: its core, its memory, its element, its air."""

    def __init__(
        self,
        *,
        nameplate: Nameplate,
        clock: BusinessClock | FileClock,
        store: Store,
        store_thread: Executor,
        element: Element,
        grant_keys: Mapping[GatewayId, VerifyingKey],
        payers: Payers | None,
        household: Load | None,
    ) -> None:
        self.nameplate = nameplate
        self.counts = Counts()
        self._clock = clock
        self._store = store
        self._store_thread = store_thread
        self._element = element
        self._grant_keys = grant_keys
        self._payers = payers
        self._household = household
        self._links: dict[GatewayId, tuple[Link, Air]] = {}
        self._inbox: asyncio.Queue[Input] = asyncio.Queue(MAX_INBOX)
        self._cose: dict[int, bytes] = {}
        self._state: State | None = None
        self._watchers: list[Callable[[Event], None]] = []
        self._log = structlog.get_logger().bind(device=nameplate.device)

    def connect(self, gateway: GatewayId, link: Link, air: Air) -> None:
        """Give the device a way to a gateway."""
        self._links[gateway] = (link, air)

    def watch(self, watcher: Callable[[Event], None]) -> None:
        """Call ``watcher`` with everything that happens, once it is durable."""
        self._watchers.append(watcher)

    @property
    def state(self) -> State:
        """What the device knows now; only after ``load``."""
        assert self._state is not None
        return self._state

    @property
    def gateways(self) -> frozenset[GatewayId]:
        """Whom it can speak to."""
        return frozenset(self._links)

    @property
    def payers(self) -> Payers | None:
        """Who comes to it."""
        return self._payers

    @property
    def household(self) -> Load | None:
        """What is drawn behind it."""
        return self._household

    async def load(self, *, register_value: int) -> None:
        """Find the device's memory, or begin with a new one."""
        stored = await self._stored(partial(self._store.device, self.nameplate.device))
        if stored is None or stored.device_epoch != self.nameplate.device_epoch:
            self._state = new_state(self.nameplate, register_value=register_value, now=self._now())
            return
        state = load(stored.state)
        if isinstance(self._clock, FileClock):
            self._clock.set_forward(state.metered_at_us)
        self._state = restored(state, now=self._now())

    async def run(self) -> None:
        """Live until cancelled."""
        while True:
            if self._waits_for_nobody():
                given: Input = Tick()
                # Nothing here waits for time: others must get their turn.
                await asyncio.sleep(0)
            else:
                given = await self._next_input()
            await self._take(given)
            for more in self._environment():
                await self._take(more)

    async def _next_input(self) -> Input:
        try:
            async with asyncio.timeout(TICK_S):
                return await self._inbox.get()
        except TimeoutError:
            return Tick()

    def _waits_for_nobody(self) -> bool:
        """Whether time could pass at once, and has: only on a file's clock, and not while a statement is unanswered."""
        clock, state = self._clock, self.state
        if not isinstance(clock, FileClock) or state.outgoing or state.finishing or not self._inbox.empty():
            return False
        due = [next_due_us(self.nameplate, state), self._next_from_outside()]
        known = [each for each in due if each is not None]
        if not known or min(known) <= clock.now():
            return False
        clock.set_forward(min(known))
        return True

    def _next_from_outside(self) -> Instant | None:
        if self._household is not None:
            return self._household.next_due_us()
        return None if self._payers is None or self.state.use is not None else self._payers.next_due_us()

    @property
    def exhausted(self) -> bool:
        """Nobody will come any more, and nothing changes what is drawn."""
        return self.state.use is None and self._next_from_outside() is None

    def deliver(self, gateway: GatewayId, data: bytes) -> None:
        """Bytes came over the channel of ``gateway``: the air may still lose, double or delay them."""
        _, air = self._links[gateway]
        air.carry(partial(self._arrived, gateway, data))

    def connected(self, gateway: GatewayId) -> None:
        """The channel is there again."""
        self._put(Reconnected(gateway=gateway))

    def finish(self) -> None:
        """No new use, say what is left to say."""
        self._put(Finish())

    def arrive(self, plan: Plan) -> str | None:
        """Serve ``plan`` out of turn; returns why not if the device cannot."""
        now = self._now()
        first, *_ = served_at(self.state, plan.gateways, now)
        why = can_serve(self.nameplate, self.state, first, now)
        if why is None:
            self._put(Arrive(plan=plan))
        return why

    @property
    def finished(self) -> bool:
        """All said, answered, receipted."""
        return is_finished(self.state)

    async def record_standing(self) -> None:
        """Write what a standing device delivered to the run's record."""
        row = standing_row(self.nameplate, self.state)
        if row is not None:
            await self._commit((), (row,))

    # Inside -----------------------------------------------------------------------------------------------------------

    def _environment(self) -> Sequence[Input]:
        now_us = self._clock.now()
        state = self.state
        if state.finishing:
            return ()
        if self._household is not None:
            return (Draw(rate_per_hour=self._household.take(now_us)),) if self._household.due(now_us) else ()
        payers = self._payers
        if payers is None or not payers.due(now_us):
            return ()
        # Whoever comes while the last end is unanswered waits: the register has one authorization at a time.
        now = self._now()
        busy = [gateway for gateway in self._links if can_serve(self.nameplate, state, gateway, now) is not None]
        if len(busy) == len(self._links) or any(not is_out_of_reach(state, gateway, now) for gateway in busy):
            return ()
        return (Arrive(plan=payers.take(now_us)),)

    async def _take(self, given: Input) -> None:
        before = self.state
        outcome = step(self.nameplate, before, given, now=self._now())
        self._state = outcome.state
        new = tuple(
            Unsigned(counter=each.counter, recipient=each.gateway, payload=each.payload)
            for each in _statements(outcome.state).values()
            if each.counter >= before.next_counter
        )
        rows = []
        for event in outcome.events:
            if isinstance(event, Finished):
                rows.append(use_row(event))
            elif isinstance(event, RefusedIntent):
                rows.append(refused_row(event))
        if outcome.durable:
            await self._commit(new, rows)
        for event in outcome.events:
            self._count(event)
            for watcher in self._watchers:
                watcher(event)
        for send in outcome.sends:
            await self._send(send)
        for shown in outcome.ticks:
            link, air = self._links[shown.gateway]
            air.carry(partial(self._pass_tick, link, encode_tick(shown.tick)))

    async def _commit(self, unsigned: Sequence[Unsigned], rows: Sequence[Row]) -> None:
        state = self.state
        await self._stored(
            partial(
                self._store.commit,
                self.nameplate.device,
                device_epoch=self.nameplate.device_epoch,
                next_counter=state.next_counter,
                state=dump(state, self.nameplate.profile),
                unsigned=unsigned,
                rows=rows,
            )
        )
        needed = _statements(state).keys()
        self._cose = {counter: cose for counter, cose in self._cose.items() if counter in needed}

    async def _send(self, send: Send) -> None:
        try:
            cose = await self._signed(send.kind, send.recipient, send.counter, send.payload)
            showing = send.showing
            first = (
                None
                if showing is None
                else await self._signed(showing.kind, showing.gateway, showing.counter, showing.payload)
            )
        except HsmError as err:
            self._log.error("the element does not sign", why=str(err))  # one line, no trace: it is repeated
            self.counts.not_sent += 1
            return
        envelope = encode(
            Envelope(
                statement=cose,
                token=send.token,
                salt=send.salt,
                traceparent=traceparent(send.trace_id, send.counter),
                witness=send.witness,
                grant=None if showing is None else showing.grant,
                first=first,
            )
        )
        link, air = self._links[send.gateway]
        air.carry(partial(self._pass_on, link, envelope))

    async def _signed(self, kind: Kind, recipient: GatewayId, counter: int, payload: bytes) -> bytes:
        """The statement's one COSE_Sign1: from memory, from the store, or from the element, then stored before it is sent."""
        device, epoch = self.nameplate.device, self.nameplate.device_epoch
        cose = self._cose.get(counter)
        if cose is None:
            cose = await self._stored(partial(self._store.signed, device, epoch, counter))
        if cose is None:
            cose = await self._element.sign(kind, recipient, payload)
            await self._stored(partial(self._store.keep_signature, device, epoch, counter, cose))
        self._cose[counter] = cose
        return cose

    async def _pass_on(self, link: Link, envelope: bytes) -> None:
        try:
            await link.send(envelope)
            self.counts.sent += 1
        except LinkDown:
            self.counts.not_sent += 1

    async def _pass_tick(self, link: Link, tick: bytes) -> None:
        try:
            await link.send_tick(tick)
            self.counts.ticks += 1
        except LinkDown:
            # The next one proves it.
            self.counts.not_sent += 1

    async def _arrived(self, gateway: GatewayId, data: bytes) -> None:
        try:
            answer = decode_answer(data)
        except MessageError as err:
            self.counts.distrusted[f"malformed: {err}"[:80]] += 1
            return
        grant = None
        if answer.grant is not None:
            try:
                grant = open_grant(answer.grant, key=self._grant_keys[gateway], device=self.nameplate.device)
            except GrantError as err:
                # As if it had not come: the statement is repeated, and nothing is used on a forged yes.
                self.counts.distrusted[f"grant {err}"[:80]] += 1
                return
        self._put(Answered(gateway=gateway, answer=answer, grant=grant))

    def _put(self, given: Input) -> None:
        try:
            self._inbox.put_nowait(given)
        except asyncio.QueueFull:
            self.counts.distrusted["inbox full"] += 1

    def _count(self, event: Event) -> None:
        counts = self.counts
        match event:
            case Finished():
                self._over()
                if event.cancelled:
                    counts.cancelled += 1
                else:
                    counts.uses += 1
                    counts.delivered += (event.end - event.start) % self.nameplate.modulus
            case RefusedIntent():
                self._over()
                counts.refused[int(event.refusal)] += 1
            case Granted():
                counts.granted += 1
                counts.granted_on_floor += event.floor
            case GrantLapsed():
                counts.lapsed += 1
            case EndAnswered():
                if event.refusal is None:
                    counts.ends_closed += 1
                else:
                    counts.statements_refused[int(event.refusal)] += 1
            case EndHandedOver():
                counts.handed_over += 1
            case Disclaimed():
                counts.disclaimed += 1
            case StatementRefused():
                counts.statements_refused[int(event.refusal)] += 1
            case AnswerDistrusted():
                counts.distrusted[f"grant {event.why}"[:80]] += 1
            case ArrivalTurnedAway():
                counts.turned_away += 1
                self._over()
            case Receipted():
                counts.receipted += len(event.counters)

    def _over(self) -> None:
        if self._payers is not None:
            self._payers.left(self._clock.now())

    async def _stored(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, work)

    def _now(self) -> Moment:
        return Moment(business_us=self._clock.now(), real_us=real_us())


def _statements(state: State) -> dict[int, Kept | Outgoing]:
    """What the device may still say, by counter."""
    found: dict[int, Kept | Outgoing] = {each.counter: each for each in state.kept}
    found.update((each.counter, each) for each in state.outgoing)
    return found


def forgotten_network(state: State) -> State:
    """A copied element's state: counter and register of the original, nothing of its conversations."""
    return replace(state, use=None, outgoing=(), kept=(), seen=(), finishing=False)
