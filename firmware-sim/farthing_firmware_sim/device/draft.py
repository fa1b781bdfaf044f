"""The state under change within one step, and the small parts that every room needs."""

import hashlib
from dataclasses import dataclass, replace

from farthing.device.messages import RegisterValue
from farthing.ids import AuthorizationId, GatewayId, authorization_id
from farthing.refusal import Refusal
from farthing_firmware_sim.device.values import (
    Event,
    Kept,
    Moment,
    Nameplate,
    Outgoing,
    Seen,
    Send,
    SendTick,
    Showing,
    State,
    Step,
    Use,
)


@dataclass
class Draft:
    """The state under change within one step."""

    nameplate: Nameplate
    state: State
    now: Moment

    def __post_init__(self) -> None:
        self.sends: list[Send] = []
        self.ticks: list[SendTick] = []
        self.events: list[Event] = []
        self.durable = False

    def outcome(self) -> Step:
        return Step(
            state=self.state,
            sends=tuple(self.sends),
            ticks=tuple(self.ticks),
            events=tuple(self.events),
            durable=self.durable or bool(self.events),
        )

    def _open(self) -> Use:
        assert self.state.use is not None
        return self.state.use

    def _take_counter(self) -> int:
        counter = self.state.next_counter
        self.state = replace(self.state, next_counter=counter + 1)
        self.durable = True
        return counter

    def _register(self) -> RegisterValue:
        """What the register shows now, and how often it has come round: a session that stands across it is nobody's guess."""
        plate, state = self.nameplate, self.state
        return RegisterValue(
            register_id=plate.register_id,
            register_epoch=plate.register_epoch,
            value=state.register_value,
            turns=state.register_turns,
        )

    def _authorization(self, use: Use) -> AuthorizationId:
        plate = self.nameplate
        return authorization_id(plate.device, plate.device_epoch, use.intent_counter, use.gateway)

    def _authorization_of(self, intent_counter: int, gateway: GatewayId) -> AuthorizationId:
        plate = self.nameplate
        return authorization_id(plate.device, plate.device_epoch, intent_counter, gateway)

    def _seen(self, gateway: GatewayId) -> Seen | None:
        return next((each for each in self.state.seen if each.gateway == gateway), None)

    def _showing(self, outgoing: Outgoing) -> Showing | None:
        """What ``outgoing``'s authorization began with, and its newest grant; None where there is nothing to be shown."""
        if outgoing.intent_counter is None:
            if outgoing.kind != "reading":
                return None
            first = min(
                (each for each in self.state.kept if each.kind == "reading" and is_of_one_use(each, outgoing)),
                key=lambda each: each.counter,
                default=None,
            )
            if first is None or first.counter == outgoing.counter:
                return None
        else:
            first = next((each for each in self.state.kept if each.counter == outgoing.intent_counter), None)
            if first is None or first.grant is None:
                return None
        return Showing(
            grant=first.grant, kind=first.kind, gateway=first.gateway, counter=first.counter, payload=first.payload
        )

    def _replace_outgoing(self, changed: Outgoing) -> None:
        self.state = replace(
            self.state,
            outgoing=tuple(changed if each.counter == changed.counter else each for each in self.state.outgoing),
        )

    def _backed_off(self, outgoing: Outgoing) -> Outgoing:
        retry = self.nameplate.retry
        wait_us = min(retry.first_us << min(outgoing.attempts, 20), retry.most_us)
        # Spread by a quarter either way, from the statement itself: devices that failed together do not return together.
        lot = hashlib.sha256(outgoing.payload + outgoing.attempts.to_bytes(4, "big")).digest()[0]
        wait_us += wait_us * (lot - 128) // 512
        return replace(outgoing, attempts=outgoing.attempts + 1, try_at_us=self.now.real_us + wait_us)

    def _answer_is_final(self, outgoing: Outgoing, *, refused: Refusal | None = None) -> None:
        self.state = replace(
            self.state,
            outgoing=tuple(each for each in self.state.outgoing if each.counter != outgoing.counter),
            kept=self.state.kept
            if refused is None
            else tuple(
                replace(each, refused=refused) if each.counter == outgoing.counter else each for each in self.state.kept
            ),
        )
        self.durable = True

    def _forget(self, outgoing: Outgoing) -> None:
        """An intent that was not taken: nothing was used under it, nobody will be billed for it."""
        self.state = replace(
            self.state,
            outgoing=tuple(each for each in self.state.outgoing if each.counter != outgoing.counter),
            kept=tuple(each for each in self.state.kept if each.counter != outgoing.counter),
        )
        self.durable = True


def is_of_one_use(one: Outgoing | Kept, other: Outgoing | Kept) -> bool:
    """Whether both speak of one use; of a standing authorization: of one register."""
    return (one.intent_counter, one.register_epoch) == (other.intent_counter, other.register_epoch)
