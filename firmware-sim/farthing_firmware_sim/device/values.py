"""What a device knows: values that :mod:`farthing_firmware_sim.device.step` takes and returns.

Rule 1: everything that must survive a power cut is in :class:`State`; nothing else is.
Rule 2: business time (µs since 1970) prices and schedules; real time (µs of a monotonic clock) only retries.
"""

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Literal, TypeAlias

from farthing.clock import Instant
from farthing.device.messages import Answer, ChainTick, Grant, TariffVersion, Witness
from farthing.ids import AuthorizationId, DeviceId, GatewayId, RegisterId
from farthing.refusal import Refusal

Kind: TypeAlias = Literal["intent", "reading", "end", "chain", "disclaimer"]

#: Uses whose last statements the cloud has not receipted yet. A device holds this many, then serves nobody: it could not
#: keep its word any more. A charger has a handful of uses a day, so this is weeks without an uplink.
MAX_KEPT_USES = 512
#: Readings kept per authorization beside its intent and its end: they are cumulative, so the newest prove all before them.
MAX_KEPT_READINGS = 2
#: Answered last words of one gateway that are said again at once because it is out of reach: it may come back, and hears no flood then.
MAX_SAID_AGAIN = 8
#: Ticks of one chain: a used-up chain costs one signature, so a short one would cost many.
CHAIN_LENGTH = 1_000
#: "Again", or a yes that has lapsed, answered by as many new intents in a row; a gateway that never agrees about its incarnation is broken, as is
#: one whose every yes is too late, or the clock that says so.
MAX_AGAIN = 5
#: What a device believes of a gateway it has never heard: its first journal. A wrong belief costs one "again".
FIRST_INCARNATION = 1


@unique
class Profile(StrEnum):
    """How the device is told yes; the names of the wire's ``DeviceProfile``."""

    SESSION = "session"
    ONE_SHOT = "one-shot"
    STANDING = "standing"


@unique
class Stage(StrEnum):
    """Where a use stands."""

    ASKING = "asking"
    USING = "using"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Both clocks, read once per step."""

    business_us: Instant
    real_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When an unanswered statement is sent again, in real time: doubled from ``first_us``, never above ``most_us``."""

    first_us: int
    most_us: int
    #: How often a device that has nothing else to say asks whether the cloud has receipted what it keeps.
    receipt_us: int
    #: A gateway that has not answered for this long is out of reach: ends are handed to another, payers sent there.
    carry_us: int = 10_000_000
    #: A one-shot intent that its gateway has not answered for this long is left when somebody else comes who can be served elsewhere.
    leave_us: int = 60_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Nameplate:
    """What never changes in a device's life here. ``rated_per_hour`` and ``modulus`` are in the register's unit."""

    device: DeviceId
    device_epoch: int
    profile: Profile
    register_id: RegisterId
    register_epoch: int
    unit: str
    modulus: int
    rated_per_hour: int
    report_interval_us: int
    #: False where use goes on whatever anybody says; such a device signs on beyond the limit.
    stoppable: bool
    #: The tariff versions it can show to a payer; a grant at another is not a yes it understands.
    tariffs: frozenset[TariffVersion]
    #: Standing only: the gateway it reports to and the tariff it names.
    standing_gateway: GatewayId | None
    standing_tariff: TariffVersion | None
    retry: RetryPolicy
    #: Standing only: who else can be reached, and may carry its readings up while its own gateway is gone.
    standing_others: tuple[GatewayId, ...] = ()
    #: Use is proven by ticks of so many units; 0: by readings. Only for sessions.
    unit_per_tick: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One use as a payer brings it: what the environment does to the device. All quantities in the register's unit."""

    token: bytes
    salt: bytes
    trace_id: bytes
    #: Asked in this order; the next only after the one before got its end.
    gateways: tuple[GatewayId, ...]
    #: How much would be used if nothing stopped it. One-shot: the units of one use.
    target: int
    rate_per_hour: int
    #: From the yes until the payer leaves, business time.
    stay_us: int
    #: Real time a payer waits for an answer; None: until there is one.
    patience_real_us: int | None
    #: Real time until the next gateway is asked instead, if there is one.
    elsewhere_real_us: int | None
    #: Said in the intent as the most it wants.
    wanted: int | None
    #: Where it comes from ("statistics", a row of a replayed file): for the record only.
    source: str
    #: Who ticks: 32 random bytes that never leave the device. What is said from them are hashes.
    chain_secret: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chained:
    """The hash chain that proves a use from ``since`` units on. Durable before any word of it is shown."""

    counter: int
    secret: bytes
    since: int
    #: The gateway has it: before, a tick would prove nothing.
    committed: bool
    #: The highest tick shown.
    shown: int
    #: At the limit the last tick is shown again from here on, real time.
    again_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """The open use of the register: at most one."""

    plan: Plan
    commitment: bytes
    stage: Stage
    gateway: GatewayId
    gateways_left: tuple[GatewayId, ...]
    intent_counter: int
    arrived_real_us: int
    asked_real_us: int
    #: The intent's own instant: the first signed boundary of the use.
    intent_at_us: Instant
    granted_at_us: Instant
    start: int
    used: int
    again: int
    #: From the newest grant (None before the first): units covered from ``start`` on.
    tariff: TariffVersion | None
    covered: int
    grant_position: tuple[int, int]
    floor: bool
    report_interval_us: int
    report_due_us: Instant
    #: From the newest grant: instants to come at which the register is read besides, as the price may change there.
    readings_due: tuple[Instant, ...]
    #: The limit was reported: one reading per limit, not one per tick.
    told_at_limit: bool
    chain: Chained | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A statement that has no final answer yet: sent again with the same bytes to the same gateway."""

    kind: Kind
    gateway: GatewayId
    counter: int
    payload: bytes
    at_us: Instant
    value: int
    #: Names the use: the counter of its intent. None for a standing reading.
    intent_counter: int | None
    #: Which register it is about: a replaced one is another.
    register_epoch: int
    #: Only with intents, and never written down for a session.
    token: bytes | None
    salt: bytes | None
    trace_id: bytes
    #: Only ends of intents that got no answer.
    cancels: bool
    #: What it says something about, where that has a name.
    authorization: AuthorizationId | None
    #: Show what the authorization began with, and its newest grant: its gateway knew nothing of it.
    shown: bool
    #: Only last words: who may carry it up when its own gateway is out of reach, and who did.
    elsewhere: tuple[GatewayId, ...]
    #: How long without an answer is out of reach, and when that will be, real time.
    carry_after_us: int
    carry_at_us: int
    carried_by: GatewayId | None
    #: Its own gateway has answered it before: once the cloud has it by another, nobody need hear it any more.
    answered: bool
    #: A reading that was asked for at its instant: no newer one says what it says.
    asked_for: bool
    attempts: int
    try_at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A signed statement that the cloud has not receipted: shown again on demand, dropped only by a receipt."""

    kind: Kind
    gateway: GatewayId
    counter: int
    payload: bytes
    intent_counter: int | None
    register_epoch: int
    trace_id: bytes
    #: One-shot intents only: the device's own token, without which its statement could not be shown again.
    token: bytes | None
    salt: bytes | None
    #: A final no to it: the cloud will never receipt it, a person will look.
    refused: Refusal | None
    #: Only intents: the newest grant, as it was signed.
    grant: bytes | None
    #: Only last words: who else was to be asked for the use, and can carry it up; the other gateway that has taken it to be carried up.
    elsewhere: tuple[GatewayId, ...]
    carried_by: GatewayId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the device last saw from a gateway."""

    gateway: GatewayId
    witness: Witness
    receipted_counter: int
    #: It has since taken what that counter does not speak of, in an answer that vouches for less: only a later position says what the cloud has.
    put_back: bool
    #: It was asked for a receipt and has said nothing since: from then on, real time, it is out of reach.
    away_at_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A device that was told yes once and for all: what it reported and what was recorded."""

    #: Value of the first reading a gateway recorded: where billing begins.
    baseline: int | None
    baseline_at_us: Instant
    recorded: int
    recorded_at_us: Instant
    recorded_counter: int
    due_us: Instant
    final_counter: int | None
    refused: Refusal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything a device must find again after a power cut."""

    next_counter: int
    register_value: int
    #: How often it has returned to 0.
    register_turns: int
    #: What is left of a unit, in unit·µs per hour.
    register_rest: int
    metered_at_us: Instant
    #: Standing only: units per hour being drawn now.
    drawn_per_hour: int
    use: Use | None
    standing: Standing | None
    outgoing: tuple[Outgoing, ...]
    kept: tuple[Kept, ...]
    seen: tuple[Seen, ...]
    receipt_asked_us: int
    finishing: bool


# Inputs ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrive:
    """A payer presents a token."""

    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What is connected behind a standing meter changed: units per hour from now on."""

    rate_per_hour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer came, over the channel of ``gateway``; ``grant`` is there if it carried one that verified."""

    gateway: GatewayId
    answer: Answer
    grant: Grant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnected:
    """The channel to ``gateway`` is there again: what is unanswered goes at once."""

    gateway: GatewayId


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """No new use; end what is open, report what stands, wait for the receipts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """The register is taken out and another one put in, which shows ``value``: the nameplate of the next step names its epoch.

    What is open ends at the old one's last value. Not while a one-shot intent waits for its answer (``may_be_replaced``).
    """

    value: int


Input: TypeAlias = Tick | Arrive | Draw | Answered | Reconnected | Finish | Replaced


# Events: what happened, for the device's own record -------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A use is over by the device's own count (signed, maybe not yet answered).

    ``cancelled``: no yes to it was ever heard. It has no width then; or, where it is a one-shot intent that was left, that of the passage of
    which only its gateway can say whether there was one.
    """

    device: DeviceId
    device_epoch: int
    intent_counter: int
    last_counter: int
    gateway: GatewayId
    authorization: AuthorizationId
    #: To the token that was shown.
    commitment: bytes
    register_id: RegisterId
    register_epoch: int
    unit: str
    start: int
    end: int
    tariff: TariffVersion | None
    intent_at_us: Instant
    granted_at_us: Instant | None
    ended_at_us: Instant
    #: Some of it was held on the gateway's floor, not on a quota.
    floor: bool
    cancelled: bool
    #: Units beyond what was signed as covered (only what cannot be stopped).
    overrun: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedIntent:
    """A no to an intent."""

    device: DeviceId
    device_epoch: int
    intent_counter: int
    gateway: GatewayId
    authorization: AuthorizationId
    register_id: RegisterId
    register_epoch: int
    unit: str
    start: int
    refusal: Refusal
    intent_at_us: Instant
    refused_at_us: Instant
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The first yes to an intent."""

    gateway: GatewayId
    authorization: AuthorizationId
    intent_counter: int
    floor: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLapsed:
    """A yes came when no use may begin under it any more: it is ended without width, and asked for anew."""

    gateway: GatewayId
    authorization: AuthorizationId
    intent_counter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndAnswered:
    """A last word was answered: closed, or refused for good."""

    gateway: GatewayId
    intent_counter: int
    refusal: Refusal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndHandedOver:
    """Another gateway has taken a last word to be carried up; its own was out of reach. ``intent_counter``: None of a standing reading."""

    gateway: GatewayId
    carried_by: GatewayId
    intent_counter: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclaimed:
    """A gateway asked after an authorization of which this device has nothing."""

    gateway: GatewayId
    authorization: AuthorizationId


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementRefused:
    """A reading got a no."""

    gateway: GatewayId
    counter: int
    refusal: Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDistrusted:
    """An answer that says yes with a grant the device cannot accept; the statement counts as unanswered."""

    gateway: GatewayId
    counter: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalTurnedAway:
    """The device could not serve: the register is in use, or it keeps too much already."""

    source: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipted:
    """Statements dropped because the cloud has receipted them."""

    gateway: GatewayId
    counters: tuple[int, ...]


Event: TypeAlias = (
    Finished
    | RefusedIntent
    | Granted
    | GrantLapsed
    | EndAnswered
    | EndHandedOver
    | Disclaimed
    | StatementRefused
    | AnswerDistrusted
    | ArrivalTurnedAway
    | Receipted
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """What goes beside a statement whose authorization a gateway may not know: its newest grant, what it began with."""

    grant: bytes | None
    kind: Kind
    #: To whom the first statement was said.
    gateway: GatewayId
    counter: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Sign (once) and send the statement with this counter to this gateway.

    ``payload`` is what is signed, as ``kind``, for ``recipient``; token and salt go into the envelope only. ``recipient`` is
    ``gateway``, save where another gateway's end is handed over.
    """

    kind: Kind
    gateway: GatewayId
    recipient: GatewayId
    counter: int
    payload: bytes
    token: bytes | None
    salt: bytes | None
    trace_id: bytes
    witness: Witness | None
    showing: Showing | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTick:
    """Show this tick to this gateway; it is sent once, unsigned."""

    gateway: GatewayId
    tick: ChainTick


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The outcome of one step: store ``state`` before any of ``sends`` is signed, or of ``ticks`` shown."""

    state: State
    sends: tuple[Send, ...]
    ticks: tuple[SendTick, ...]
    events: tuple[Event, ...]
    #: Whether ``state`` holds something a power cut must not take (a tick only moves the register).
    durable: bool
