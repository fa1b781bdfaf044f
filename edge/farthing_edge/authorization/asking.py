"""An intent and everything about it that the state knows: what the rules look at."""

from collections.abc import Callable
from typing import TypeAlias

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import Intent, Position
from farthing.refusal import Refusal
from farthing_edge.authorization.commands import DeviceStatement
from farthing_edge.authorization.state import (
    Account,
    Closing,
    Device,
    Entitlement,
    GatewayState,
    Register,
    TariffEntry,
    Token,
)


class _Unasked:
    """What most intents leave as it is: set only by the rules that have a policy, so it costs the others nothing."""

    __slots__ = ()

    #: Limits that can be kept by holding less: the least of them, and which; the part that binds the authorization for ever.
    cap_micros: int | None = None
    capped_by: Refusal | None = None
    lasting_cap_micros: int | None = None
    #: Where it is to happen, and how far that is from where the token was used last.
    position: Position | None = None
    distance_m: int = 0
    #: The cloud is asked although there is money; what a silent cloud means then: this refusal, or None: go on.
    ask_cloud: tuple[Refusal | None] | None = None
    #: What covers it: then account and tariff are the entitlement's, and so is what it costs.
    entitlement: Entitlement | None = None


class Ask(_Unasked):
    """An intent and everything about it that the state knows; None where it knows nothing."""

    __slots__ = (
        "__dict__",
        "account",
        "closing",
        "command",
        "device",
        "intent",
        "is_new",
        "most",
        "now",
        "register",
        "start",
        "tariff",
        "token",
        "until",
    )

    #: Found by the rules on their way: where the register stands, with the turns it does not say;
    start: int
    #: the most units it can use until its next reading, and when that is due;
    most: int
    until: Instant
    #: what that costs.
    closing: Closing | None

    def __init__(self, state: GatewayState, command: DeviceStatement, intent: Intent, now: Instant) -> None:
        self.command = command
        self.intent = intent
        self.now = now
        device = state.devices.get(intent.device)
        self.device: Device | None = device
        self.register: Register | None = None
        self.tariff: TariffEntry | None = None
        self.is_new = True
        if device is not None:
            self.register = device.registers.get(intent.register.register_id)
            self.tariff = state.tariff_in_force(device.tariff, intent.at)
            # What the register rules say about a repeat was said when it was new.
            self.is_new = intent.counter not in device.seen or device.epoch != intent.device_epoch
        token = None if command.token_ref is None else state.tokens.get(command.token_ref)
        self.token: Token | None = None
        self.account: Account | None = None
        if token is not None and token.key_epoch == command.key_epoch:
            self.token = token
            self.account = state.accounts.get(token.account_id)
        self.closing = None

    def look_ahead(self, register: Register, device: Device) -> None:
        """Set ``most`` and ``until``."""
        intent = self.intent
        if intent.one_shot is not None:
            self.most, self.until = intent.one_shot, intent.at
            return
        interval_s, wanted = device.report_interval_s, intent.wanted
        most = register.reach(interval_s)
        self.most = most if wanted is None or wanted > most else wanted
        self.until = Instant(intent.at + interval_s * SECOND_US)

    @property
    def can_be_cut(self) -> bool:
        """Whether less than what it needs is of use: a session that stops where it is told to."""
        return self.intent.one_shot is None and self.device is not None and self.device.stoppable

    def cap(self, micros: int, by: Refusal, *, lasting: bool = False) -> Refusal | None:
        """Hold no more than ``micros``; ``by`` where that is nothing, or less than what it needs and it cannot be cut."""
        assert self.closing is not None  # asked after the tariff's rule
        if micros < self.closing.gross_micros and (micros <= 0 or not self.can_be_cut):
            return by
        if self.cap_micros is None or micros < self.cap_micros:
            self.cap_micros, self.capped_by = micros, by
        if lasting and (self.lasting_cap_micros is None or micros < self.lasting_cap_micros):
            self.lasting_cap_micros = micros
        return None


Rule: TypeAlias = Callable[[GatewayState, Ask], Refusal | None]
