"""A device: the real device core, a memory that survives the power, and payers who come.

Nobody here can forge, so nobody checks: a signature is 64 zeros beside the interface where the element would sign.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from farthing.clock import SECOND_US
from farthing.device import cose
from farthing.device import messages as m
from farthing.device.messages import (
    Answer,
    AnswerStatus,
    Disclaimer,
    Grant,
    Intent,
    Reading,
    Statement,
    TariffVersion,
)
from farthing.ids import (
    AuthorizationId,
    DeviceId,
    GatewayId,
    RegisterId,
    TariffId,
    authorization_id,
    standing_authorization_id,
)
from farthing.refusal import Refusal
from farthing_edge.authorization.commands import DeviceStatement, Shown, TicksArrived
from farthing_firmware_sim.device.state import can_serve, is_finished, may_be_replaced, new_state, restored, served_at
from farthing_firmware_sim.device.step import step
from farthing_firmware_sim.device.stored import dump, load
from farthing_firmware_sim.device.values import (
    Answered,
    Arrive,
    Disclaimed,
    Draw,
    EndHandedOver,
    Finish,
    Finished,
    Granted,
    GrantLapsed,
    Input,
    Moment,
    Nameplate,
    Plan,
    Profile,
    RefusedIntent,
    Replaced,
    RetryPolicy,
    Send,
    SendTick,
    Showing,
    State,
    Tick,
)
from farthing_firmware_sim.runner import forgotten_network
from simulation import actions
from simulation.cast import MODULUS, DeviceRole
from simulation.clocks import Clock
from simulation.ledger import token_ref

if TYPE_CHECKING:
    from simulation.world import World

RETRY = RetryPolicy(first_us=2 * SECOND_US, most_us=60 * SECOND_US, receipt_us=30 * SECOND_US)
SALT = bytes(16)
#: Payers who wait because the register is in use; more go away.
MOST_WAITING = 3


@lru_cache(maxsize=4096)
def decoded(payload: bytes) -> Statement:
    """What ingress reads out of a statement's payload."""
    return m.decode_statement(payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What the device says of one authorization, from its own count and clock."""

    start: int
    end: int
    closing: bool
    #: Of which of its registers.
    epoch: int
    #: A passage that it does not know of: its gateway never answered, and another payer came.
    left: bool = False


@dataclass(slots=True)
class Counted:
    """A register of the device: where it began, and where it was when it was taken out; None while it is there."""

    epoch: int
    began_at: int
    ended_at: int | None = None
    #: Standing only: what the first reading of it said, once that was recorded.
    baseline: int | None = None


class DeviceNode:
    """One device; a copy of its element is another node with the same device id."""

    def __init__(self, world: World, role: DeviceRole) -> None:
        self.world = world
        self.role = role
        self.name = role.name
        self.device_id = DeviceId(role.name)
        self.kid = cose.key_id(role.name.encode())
        self.clock = Clock(world)
        version = TariffVersion(tariff_id=TariffId(role.tariff), version=1)
        standing = role.profile == "standing"
        self.nameplate = Nameplate(
            device=self.device_id,
            device_epoch=1,
            profile=Profile(role.profile),
            register_id=RegisterId("r1"),
            register_epoch=1,
            unit=role.unit,
            modulus=MODULUS,
            rated_per_hour=role.rated_per_hour,
            report_interval_us=role.report_interval_s * SECOND_US,
            stoppable=role.stoppable,
            tariffs=frozenset(TariffVersion(tariff_id=TariffId(each), version=1) for each in role.tariffs),
            standing_gateway=GatewayId(role.gateways[0]) if standing else None,
            standing_tariff=version if standing else None,
            standing_others=tuple(map(GatewayId, role.gateways[1:])) if standing else (),
            retry=RETRY,
            unit_per_tick=role.unit_per_tick,
        )
        self.state: State | None = new_state(self.nameplate, register_value=role.value, now=self._now())
        self.memory: State = self.state
        self.registers = [Counted(epoch=1, began_at=role.value)]
        self.is_copy = False
        self.was_copied = False
        self.crashes = 0
        self.uses = self.cancelled = self.refused = self.handed_over = self.disclaimed = self.left = self.lapsed = 0
        self.came_round = False
        self._payers: deque[actions.Arrive] = deque(maxlen=MOST_WAITING)
        self.delivered: dict[bytes, Delivered] = {}
        #: Counters of what it said while it was suspended.
        self._while_suspended: set[tuple[int, int]] = set()
        #: Every statement it ever signed, as it travels.
        self.said: dict[int, DeviceStatement] = {}

    def _now(self) -> Moment:
        return Moment(business_us=self.clock.now(), real_us=self.world.now)

    # ---- life

    def live(self, times: int = 0) -> None:
        """Time passes for it."""
        world = self.world
        wait_s = 2.0 if world.calm else world.lots.between(f"{self.name} tick {times}", 2, 12)
        world.after(wait_s, self.live, times + 1)
        state = self.state
        # A device with nothing under way does nothing: that need not be asked.
        if state is not None and (state.use or state.outgoing or state.kept or state.standing):
            self.take(Tick())
        self._serve()

    def take(self, given: Input) -> None:
        """One step: written down before anything is said."""
        state = self.state
        if state is None:
            return
        outcome = step(self.nameplate, state, given, now=self._now())
        self.state = outcome.state
        if outcome.durable:
            self.memory = outcome.state
        self.came_round = self.came_round or outcome.state.register_turns > 0
        for event in outcome.events:
            if isinstance(event, Finished):
                self._finished(event, outcome.state)
            elif isinstance(event, RefusedIntent):
                self.refused += 1
            elif isinstance(event, Granted):
                self.world.watch.began(self, event.intent_counter)
            elif isinstance(event, GrantLapsed):
                self.lapsed += 1
            elif isinstance(event, EndHandedOver):
                self.handed_over += 1
            elif isinstance(event, Disclaimed):
                self.disclaimed += 1
        for send in outcome.sends:
            self._send(send)
        for shown in outcome.ticks:
            self._tick(shown)

    def hear(self, answer: Answer, grant: Grant | None) -> None:
        """An answer comes."""
        self.take(Answered(gateway=answer.gateway, answer=answer, grant=grant))
        if answer.refusal is Refusal.DEVICE_SUSPENDED and answer.answers is not None:
            self._while_suspended.add(answer.answers)
        if answer.status is AnswerStatus.RECORDED:
            self._serve()

    def crash(self, down_s: float) -> None:
        """The power is gone."""
        if self.state is None:
            return
        self.world.note("{} loses its power", self.name)
        self.crashes += 1
        self.state = None
        self._payers.clear()
        self.world.after(down_s, self.start)

    def start(self) -> None:
        """The power is back: what was written down is there."""
        if self.state is None:
            self.world.note("{} has power again", self.name)
            self.state = restored(load(dump(self.memory, self.nameplate.profile)), now=self._now())
            if self.world.calm:
                self.take(Finish())

    def finish(self) -> None:
        """Nobody comes any more."""
        self._payers.clear()
        self.take(Finish())

    def jump(self, by_s: float) -> None:
        """Its clock jumps."""
        self.world.note("the clock of {} jumps by {:g} s", self.name, by_s)
        self.clock.jump(by_s)

    @property
    def is_done(self) -> bool:
        """All is said, answered, and receipted by the ledger."""
        return self.state is not None and is_finished(self.state)

    @property
    def register_value(self) -> int:
        """What its register has counted, with all its turns."""
        state = self.state or self.memory
        return state.register_turns * MODULUS + state.register_value

    def twin(self, gateway: str) -> DeviceNode:
        """A copy of the element and its counter, elsewhere; it knows nothing of the original's conversations."""
        twin = self.__class__(self.world, replace(self.role, gateways=(gateway,)))
        twin.name = f"{self.name}-copy"
        twin.state = twin.memory = forgotten_network(self.memory)
        twin.nameplate = self.nameplate
        twin.registers = [Counted(epoch=self.nameplate.register_epoch, began_at=twin.register_value)]
        twin.is_copy = True
        self.was_copied = True
        return twin

    def replace_register(self, value: int) -> bool:
        """Another meter is put in; whether that can be done now."""
        # What it counts until now it counts on the old one.
        self.take(Tick())
        if self.state is None or not may_be_replaced(self.nameplate, self.state):
            return False
        standing = self.state.standing
        counted = self.registers[-1]
        if standing is not None and standing.baseline is not None:
            counted.baseline = self._first_of(counted.epoch)
        counted.ended_at = self.register_value
        self.take(Replaced(value=value))
        self.nameplate = replace(self.nameplate, register_epoch=counted.epoch + 1)
        self.registers.append(Counted(epoch=counted.epoch + 1, began_at=value))
        return True

    def _first_of(self, epoch: int) -> int:
        """What the first reading of a standing authorization said."""
        first = min(counter for counter, said in self.said.items() if said.statement.register.register_epoch == epoch)
        return self.said[first].statement.register.unrolled(MODULUS)

    # ---- payers

    def arrive(self, arrival: actions.Arrive) -> None:
        """Somebody comes; who finds the register in use waits."""
        if not self.world.calm:
            self._payers.append(arrival)
            self._serve()

    def draw(self, rate_per_hour: int) -> None:
        """What hangs behind a standing meter changes."""
        self.take(Draw(rate_per_hour=rate_per_hour))

    def _serve(self) -> None:
        if not self._payers or self.state is None:
            return
        arrival = self._payers[0]
        gateways = (GatewayId(self.role.gateways[0]),) if self.is_copy else tuple(map(GatewayId, arrival.gateways))
        first, *_ = served_at(self.state, gateways, self._now())
        if can_serve(self.nameplate, self.state, first, self._now()) is not None:
            return
        self._payers.popleft()
        self.take(
            Arrive(
                plan=Plan(
                    token=f"t-{arrival.account}".encode(),
                    salt=SALT,
                    trace_id=bytes(16),
                    gateways=gateways,
                    target=arrival.target,
                    rate_per_hour=arrival.rate_per_hour,
                    stay_us=arrival.stay_s * SECOND_US,
                    patience_real_us=None if arrival.patience_s is None else arrival.patience_s * SECOND_US,
                    elsewhere_real_us=None if arrival.elsewhere_s is None else arrival.elsewhere_s * SECOND_US,
                    wanted=arrival.wanted,
                    source="",
                    chain_secret=self.world.lots.raw(f"{self.name} chain {arrival.at_s}", 32),
                )
            )
        )

    # ---- what it says

    def _send(self, send: Send) -> None:
        statement = decoded(send.payload)
        reference = None if send.token is None else token_ref(send.token.decode())
        command = DeviceStatement(
            statement=statement,
            cose=self._signed(send.payload),
            payload=send.payload,
            token_ref=reference,
            key_epoch=None if reference is None else 1,
            witness=send.witness,
            shown=None if send.showing is None else self._shown(send.showing),
        )
        if self.said.setdefault(send.counter, command).payload != send.payload:
            self.world.watch.counter_used_twice(self, send.counter)
        if reference is not None:
            # Said again by others than the device: with its token.
            self.said[send.counter] = command
        if not isinstance(statement, Disclaimer):
            self.world.watch.signed(self, statement)
        gateway = self.world.gateways[send.gateway]
        shows = "" if send.showing is None else ", shows its grant" if send.showing.grant else ", shows how it began"
        what = f"{send.kind} {send.counter} | at {statement.register.value}{shows}"
        if send.gateway != send.recipient:
            what = f"{send.kind} {send.counter} for {send.recipient}{what.removeprefix(f'{send.kind} {send.counter}')}"
        self.world.send(self.name, send.gateway, what, gateway.submit, command, self)

    def _tick(self, shown: SendTick) -> None:
        """A tick is sent once, and nobody signs it: it proves itself."""
        tick = shown.tick
        use = self.memory.use
        assert use is not None
        assert use.chain is not None
        chain = self.said[use.chain.counter].statement
        value = chain.register.unrolled(MODULUS) + tick.index * self.role.unit_per_tick
        self.world.watch.ticked(self, tick.authorization, chain, tick.index, value)
        gateway = self.world.gateways[shown.gateway]
        command = TicksArrived(
            device=self.device_id, authorization=tick.authorization, shown=((tick.index, tick.preimage),)
        )
        what = f"tick {use.chain.counter}/{tick.index} | at {value}"
        self.world.send(self.name, shown.gateway, what, gateway.submit, command, self)

    def _signed(self, payload: bytes) -> bytes:
        return cose.encode_sign1(self.kid, payload, bytes(64))

    def _shown(self, showing: Showing) -> Shown:
        """What ingress makes of it."""
        first = decoded(showing.payload)
        assert isinstance(first, Intent | Reading)
        return Shown(
            grant=None if showing.grant is None else m.decode_grant(cose.decode_sign1(showing.grant).payload),
            grant_cose=showing.grant or b"",
            first=first,
            first_cose=self._signed(showing.payload),
            first_payload=showing.payload,
        )

    # ---- what it delivered

    def _finished(self, event: Finished, state: State) -> None:
        left = event.cancelled and event.end != event.start
        self.uses += not event.cancelled
        self.cancelled += event.cancelled and not left
        self.left += left
        said = self.said.get(event.last_counter)
        if said is None:
            # An end, signed in this step.
            word = decoded(next(each.payload for each in state.kept if each.counter == event.last_counter))
        else:
            word = said.statement
        # It says what its register shows; here all its turns count.
        end = word.register.unrolled(MODULUS) + ((word.one_shot or 0) if isinstance(word, Intent) else 0)
        self.delivered[event.authorization] = Delivered(
            start=end - (event.end - event.start) % MODULUS,
            end=end,
            closing=True,
            epoch=event.register_epoch,
            left=left,
        )

    def all_delivered(self) -> dict[bytes, Delivered]:
        """Authorization → what it says it delivered under it; a standing one as far as it was recorded, or said when its register was replaced."""
        standing = (self.state or self.memory).standing
        if standing is None:
            return self.delivered
        found = {}
        for counted in self.registers:
            start, end = counted.baseline, counted.ended_at
            if end is None and standing.baseline is not None:
                start = self._first_of(counted.epoch)
                end = self.said[standing.recorded_counter].statement.register.unrolled(MODULUS)
            if start is not None and end is not None:
                name = standing_authorization_id(
                    self.device_id, 1, RegisterId("r1"), counted.epoch, GatewayId(self.role.gateways[0])
                )
                found[name] = Delivered(start=start, end=end, closing=False, epoch=counted.epoch)
        return found

    def kept_values(self) -> set[tuple[str, int, int]]:
        """(device, register epoch, value) of the last words that it keeps until the ledger has them."""
        said = (decoded(each.payload) for each in (self.state or self.memory).kept if each.kind != "intent")
        return {(self.device_id, each.register.register_epoch, each.register.unrolled(MODULUS)) for each in said}

    def reads_no_more(self, statement: Statement) -> bool:
        """Whether a suspended meter said it, and has read nothing since that was recorded."""
        standing = (self.state or self.memory).standing
        return (
            standing is not None
            and (statement.device_epoch, statement.counter) in self._while_suspended
            and statement.counter > standing.recorded_counter
        )

    def authorization_of(self, statement: Statement) -> AuthorizationId:
        """Under which a statement is billed."""
        if statement.kind == "intent":
            return authorization_id(self.device_id, 1, statement.counter, statement.recipient)
        assert statement.kind != "intent"
        named: AuthorizationId | None = getattr(statement, "authorization", None)
        if named is not None:
            return named
        epoch = statement.register.register_epoch
        return standing_authorization_id(self.device_id, 1, RegisterId("r1"), epoch, statement.recipient)
