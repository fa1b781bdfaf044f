"""What a gateway knows: one object that only :func:`farthing_edge.authorization.apply` changes.

Rule 1: everything here follows from the journal's entries, except what is marked *volatile*, which a restart forgets.
Rule 2: amounts are micros, times are business instants, and every table has a bound that its comment names.
"""

import bisect
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import (
    FLOOR,
    MAX_READINGS_DUE,
    Grant,
    Held,
    Position,
    RegisterValue,
    TariffVersion,
    Witness,
)
from farthing.evidence.batches import ZERO_HASH
from farthing.ids import (
    AccountId,
    AuthorizationId,
    DeviceId,
    GatewayId,
    OperatorId,
    QuotaId,
    RegisterId,
    SiteId,
    StartId,
    TariffId,
    TokenId,
)
from farthing.money import PPM, Currency

# Some of these are only parts of parts: whoever writes a state down finds the classes of all that it holds here.
from farthing.policy import Entitlement as Entitlement
from farthing.policy import PlacePolicy as PlacePolicy
from farthing.policy import Scorecard as Scorecard
from farthing.policy import Steps as Steps
from farthing.policy import Tier as Tier
from farthing.policy import UsageLimits as UsageLimits
from farthing.tariff import (
    Part,
    Placed,
    Tariff,
    Use,
    ceiling,
    is_by_calendar,
    is_placed,
    one_shot_use,
    parse,
    price,
    price_of_width,
    readings_due,
)
from farthing.v1 import directive_pb2
from farthing_edge.authorization.policies import Policies
from farthing_edge.authorization.timekeeping import Timekeeping as Timekeeping
from farthing_edge.authorization.usage import Tally as Tally
from farthing_edge.authorization.usage import TokenUse as TokenUse
from farthing_edge.authorization.usage import Usage

#: Replaced registers of a device whose modulus is remembered; a meter is replaced every few years.
MAX_MODULI = 8
#: Statements of a device that a gateway remembers by counter. A device has a handful under way at once; below the window an
#: intent is too old for ever, so the number only bounds memory: 128 × 1,000 devices × 150 bytes.
COUNTER_WINDOW = 128
#: Below this part of its preload an account is low (DESIGN 5.4).
LOW_WATER_PPM = 250_000
#: A payer who has presented a token waits for minutes, not for a quarter of an hour; and an answer that was under way for so long was not on its way to
#: anybody who still stands there.
DEFAULT_GRANT_LAPSE_US = 900 * SECOND_US
#: Until the operator says otherwise: five units of money, two hundred records, two seconds.
DEFAULT_SEAL_AMOUNT_MICROS = 5_000_000
DEFAULT_SEAL_RECORDS = 200
DEFAULT_SEAL_AGE_S = 2
#: The evidence format takes 20,000 leaves a batch, and a record may stand on several lines.
MAX_SEAL_RECORDS = 2_000
#: Decisions as a record names them when a directive only implies them.
NEW_REGISTER_EPOCH = "a new register epoch"
NEW_DEVICE_EPOCH = "a new device epoch"
UNNAMED_DECISION = "a decision without a name"
#: Other gateways' ends in one batch: half a megabyte at most, and the cloud prices each.
MAX_CARRIED = 64
#: Parked statements in one batch: what comes beyond is told "later" until a batch has taken those before, a moment or an outage. 50 kB at most.
MAX_PARKED_UNSEALED = 64
#: Of one payer at one gateway; each intent of theirs looks at all.
MAX_ENTITLEMENTS = 32
#: Faults of directives kept for people to read.
MAX_FAULTS = 64
#: Parked statements that a directive can decide about; what is older of the device with the most is in the journal only. 1,000 devices
#: with one each.
MAX_PARKED_STATEMENTS = 1_024
#: How much more than its rated power allows a register may have counted before nobody believes it: what a fuse lets through, and
#: a minute for clocks that do not agree to the second.
RATED_TOLERANCE_PPM = 100_000
RATED_SLACK_US = 60 * SECOND_US

#: Later than anything happens.
NEVER = Instant(2**63 - 1)

#: What pays a charge: a quota's id, or one of these. No id contains an asterisk.
FLOOR_FUNDING = "*floor"
OVERRUN_FUNDING = "*overrun"


class StateError(Exception):
    """An event that does not follow from the state: a bug of ours, or a damaged journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """What the configuration tells the core. Durations are business time."""

    gateway_id: GatewayId
    #: A chain whose head is older than this decides on the floor only.
    directive_max_age_us: int = 7 * 24 * 3600 * SECOND_US
    #: How long after the cloud had nothing for an account it is asked again.
    quota_retry_us: int = 60 * SECOND_US
    #: A quota of an account that nobody spent from for this long is given back, while the cloud can be asked for another.
    quota_idle_us: int = 24 * 3600 * SECOND_US
    #: How long after its intent's instant a yes lets a use begin; 0: for as long as its device likes.
    grant_lapse_us: int = DEFAULT_GRANT_LAPSE_US
    #: The operator's fall-back: new uses are priced by date and time of day although no clock is trusted.
    prices_by_untrusted_clock: bool = False
    #: The business clock, as every batch names it.
    clock_epoch_us: int
    clock_real_epoch_us: int
    clock_rate: int


class Charge(NamedTuple):
    """A part of a usage record: what paid it (a quota's id, floor or overrun), at which tax rate, net and tax."""

    funding: str
    rate_ppm: int
    net_micros: int
    tax_micros: int


class Told(NamedTuple):
    """The latest grant of an authorization, without what the authorization itself says."""

    position: int
    incarnation: int
    start_id: bytes
    at: int
    limit: int
    holds: tuple[tuple[str, int], ...]
    net_micros: int
    tax_micros: int
    #: The entry that says so, where it is another than ``position``: of a grant that another journal gave.
    entry: int = 0
    readings_due: tuple[int, ...] = ()
    #: No use begins under it from then on, by its device's clock; None: it does not lapse, or its use has begun.
    lapses_at: int | None = None


class OpenClaim(NamedTuple):
    """What the cloud said of an authorization that was open when a new incarnation began: how far it is billed.

    ``rates`` are its totals by tax rate, (rate, net, tax) each, empty where only the sums are known.
    """

    register_from: int
    register_to: int
    net_micros: int
    tax_micros: int
    rates: tuple[tuple[int, int, int], ...]


class Account:
    """Who pays, and the quotas this gateway may spend for it, earliest ``spend_until`` first."""

    __slots__ = (
        "ahead",
        "ask_after",
        "currency",
        "id",
        "preload_micros",
        "quotas",
        "refused_by_cloud",
        "request",
        "status",
        "used_at",
    )

    def __init__(self, account_id: AccountId, currency: Currency, status: int, preload_micros: int) -> None:
        self.id = account_id
        self.currency = currency
        self.status = status
        self.preload_micros = preload_micros
        #: Ask for quota before somebody needs it: not after a recall, until the account is spent from here again. Else what the
        #: cloud calls back would be asked for again at once.
        self.ahead = True
        #: When it was last spent from here, or got a quota.
        self.used_at = Instant(0)
        # Bounded by the cloud: at most k open quotas per account.
        self.quotas: list[Quota] = []
        #: The request not yet answered; one at a time.
        self.request: QuotaRequest | None = None
        #: Not before this instant is the cloud asked again, after it had nothing.
        self.ask_after = Instant(0)
        #: The cloud's last answer was that it does not know the account, or has suspended it.
        self.refused_by_cloud = False

    def free_micros(self, now: Instant) -> int:
        """What new holds may still take, over all quotas."""
        return sum(quota.usable_micros(now) for quota in self.quotas)

    @property
    def low_water_micros(self) -> int:
        """Below this the gateway asks for more; 0: only on demand."""
        return self.preload_micros * LOW_WATER_PPM // PPM


class Quota:
    """A part of an account's funds that only this gateway may spend."""

    __slots__ = (
        "account_id",
        "amount_micros",
        "currency",
        "frozen",
        "held_micros",
        "id",
        "incarnation",
        "report_until",
        "reported_held_micros",
        "spend_until",
        "spent_micros",
        "stopped",
    )

    def __init__(
        self,
        *,
        quota_id: QuotaId,
        account_id: AccountId,
        currency: Currency,
        amount_micros: int,
        spend_until: Instant,
        report_until: Instant,
        incarnation: int,
    ) -> None:
        self.id = quota_id
        self.account_id = account_id
        self.currency = currency
        self.amount_micros = amount_micros
        self.spend_until = spend_until
        self.report_until = report_until
        self.incarnation = incarnation
        self.spent_micros = 0
        self.held_micros = 0
        #: No new hold, and its holds only shrink.
        self.stopped = False
        #: Of an earlier incarnation: its closing is no longer ours to say.
        self.frozen = False
        #: What the last batch that named it as stopped said; -1 before.
        self.reported_held_micros = -1

    @property
    def unspent_micros(self) -> int:
        """What no record has taken yet."""
        return self.amount_micros - self.spent_micros

    @property
    def free_micros(self) -> int:
        """What neither a record nor a hold has taken."""
        return self.amount_micros - self.spent_micros - self.held_micros

    def is_stopped(self, now: Instant) -> bool:
        """Whether it takes no new hold: recalled, or over (a deadline stops new use at once)."""
        return self.stopped or now >= self.spend_until

    def usable_micros(self, now: Instant) -> int:
        """What a new hold may take."""
        if self.stopped or now >= self.spend_until:
            return 0
        return self.amount_micros - self.spent_micros - self.held_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRequest:
    """A request for money, sent until it is answered."""

    counter: int
    account_id: AccountId
    currency: Currency
    wanted_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a presented token means here."""

    token_id: TokenId
    account_id: AccountId
    key_epoch: int


class Closing(NamedTuple):
    """What a use of some width costs in the end (tax rates with nothing due left out), and how far that sum goes."""

    parts: tuple[Part, ...]
    gross_micros: int
    covered: int


#: As far ahead a device is told when the price changes: it may be out of touch for so long. The next grant says more.
READINGS_DUE_AHEAD_US = 24 * 3600 * SECOND_US
#: Widths whose price is remembered for each tariff: devices of a site share a handful.
MAX_CLOSINGS = 64


class TariffEntry:
    """A tariff version as this gateway knows it."""

    __slots__ = ("_closings", "currency", "name", "places", "record", "tariff")

    def __init__(self, *, name: TariffVersion, currency: Currency, tariff: Tariff, record: bytes) -> None:
        self.name = name
        self.currency = currency
        self.tariff = tariff
        #: The directive's record that all this was compiled from: what a snapshot keeps.
        self.record = record
        #: Whether its price may depend on more than the width, for any register.
        self.places = any(is_placed(tariff, unit) for unit in ("Wh", "s", ""))
        #: (unit, most) → what it closes at, where only the width counts; at most ``MAX_CLOSINGS``.
        self._closings: dict[tuple[str, int], Closing] = {}

    @classmethod
    def of(cls, record: directive_pb2.TariffRecord) -> Self:
        """Compile what a directive says; raise ``TariffError`` for what cannot be priced."""
        return cls(
            name=TariffVersion(tariff_id=TariffId(record.tariff_id), version=record.version),
            currency=Currency(record.currency),
            tariff=parse(record.ocpi_json),
            record=record.SerializeToString(deterministic=True),
        )

    def kept(self) -> bytes:
        """What a snapshot keeps of it."""
        return self.record

    @classmethod
    def from_kept(cls, kept: bytes) -> Self:
        """The same again."""
        return cls.of(directive_pb2.TariffRecord.FromString(kept))

    def goes_by_calendar(self, unit: str) -> bool:
        """Whether dates, weekdays or times of day decide the price of what a register of ``unit`` counts."""
        return is_by_calendar(self.tariff, unit)

    def known_closing(self, unit: str, most: int) -> Closing | None:
        """What ``closing`` has said before of a use whose price is always the same; such a one has a price."""
        return self._closings.get((unit, most))

    def closing(
        self, unit: str, start: int, most: int, started_at: Instant, until: Instant, time_zone: str, *, one_shot: bool
    ) -> Closing:
        """The most that ``most`` units from ``start`` can cost, used by ``until``; raise ``TariffError`` where that has no price."""
        known = self._closings.get((unit, most))
        if known is not None:
            return known
        by_width = price_of_width(self.tariff, unit, most)
        if by_width is not None:
            priced, covered = by_width
            closing = Closing(_of_something(priced.parts), priced.gross_micros, covered)
            # Where only the width counts, its price is always the same.
            if len(self._closings) < MAX_CLOSINGS:
                self._closings[unit, most] = closing
            return closing
        if one_shot:
            priced = price(self.tariff, one_shot_use(unit, start, most, started_at, time_zone), closing=True)
            return Closing(_of_something(priced.parts), priced.gross_micros, most)
        here = Use(unit=unit, start=start, end=start, started_at=started_at, ended_at=started_at, time_zone=time_zone)
        return Closing((), ceiling(self.tariff, here, most=most, until=until), most)

    def readings_due(self, use: Use, after: Instant) -> tuple[int, ...]:
        """The next instants after ``after`` at which its price may change, so that a reading is due."""
        until = Instant(after + READINGS_DUE_AHEAD_US)
        return readings_due(self.tariff, use, after=after, until=until, most=MAX_READINGS_DUE)


def _of_something(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(part for part in parts if part.net_micros or part.tax_micros)


class Register:
    """A device's register as the operator described it, and what this gateway last heard of it."""

    __slots__ = (
        "ahead_us",
        "epoch",
        "heard_at",
        "id",
        "last_at",
        "last_value",
        "modulus",
        "open",
        "rated_per_hour",
        "unit",
    )

    def __init__(self, register_id: RegisterId, epoch: int, unit: str, modulus: int, rated_per_hour: int) -> None:
        self.id = register_id
        self.epoch = epoch
        self.unit = unit
        self.modulus = modulus
        self.rated_per_hour = rated_per_hour
        #: The highest count a record or a session has reached here, unrolled, and when; -1 before the first.
        self.last_value = -1
        self.last_at = Instant(0)
        self.open: Authorization | None = None
        #: How much longer than the time that has passed it would have needed, at rated power, for what it has counted; when it counted last, by
        #: the gateway's clock.
        self.ahead_us = 0
        self.heard_at = Instant(0)

    def ahead_after(self, units: int, elapsed_us: int) -> int:
        """How far ahead of rated power it is when it has counted ``units`` more in that time, µs; without a rated power never."""
        if not self.rated_per_hour:
            return 0
        needed_us = units * 3600 * SECOND_US * PPM // (self.rated_per_hour * (PPM + RATED_TOLERANCE_PPM))
        return max(0, self.ahead_us + needed_us - max(0, elapsed_us))

    def may_be_ahead(self, ahead_us: int, covered_us: int) -> bool:
        """Whether that is no more than a grant covers in advance, once and not with each reading; and what clocks may differ by."""
        # A register counts in whole units: one may be just full.
        unit_us = 0 if not self.rated_per_hour else 3600 * SECOND_US // self.rated_per_hour
        return ahead_us <= covered_us + RATED_SLACK_US + unit_us

    def reach(self, seconds: int) -> int:
        """The most it can count in ``seconds``, rounded up."""
        return -(-self.rated_per_hour * seconds // 3600)

    def can_count(self, units: int, elapsed_us: int) -> bool:
        """Whether rated power allows ``units`` in that time. Without a rated power anything is possible."""
        if not self.rated_per_hour:
            return True
        longest_us = max(0, elapsed_us) + RATED_SLACK_US
        return units * 3600 * SECOND_US * PPM <= self.rated_per_hour * longest_us * (PPM + RATED_TOLERANCE_PPM) + (
            # A register counts in whole units: one may be just full.
            3600 * SECOND_US * PPM
        )

    def unrolled_start(self, value: RegisterValue, at: Instant) -> int | None:
        """Where a use that begins at ``value`` begins, with all turns; None where the register went back.

        A value below the last one is a rollover that its device did not say, if rated power allows it in the time.
        """
        said = value.unrolled(self.modulus)
        missing = self.last_value - said
        if missing <= 0:
            return said
        start = said + -(-missing // self.modulus) * self.modulus
        return start if self.can_count(start - self.last_value, at - self.last_at) else None


class Seen:
    """What became of one statement, by its counter."""

    __slots__ = ("authorization", "digest", "refusal")

    def __init__(self, digest: bytes, authorization: "Authorization | None", refusal: int | None) -> None:
        self.digest = digest
        self.authorization = authorization
        self.refusal = refusal


class Device:
    """A device as the operator described it, and the window of its counter."""

    __slots__ = (
        "cancelled",
        "carried",
        "entitled_only",
        "epoch",
        "highest",
        "id",
        "moduli",
        "pending",
        "position",
        "profile",
        "registers",
        "report_interval_s",
        "seen",
        "standing_account_id",
        "statement_key",
        "static_dh_kid",
        "static_dh_x",
        "status",
        "stoppable",
        "tariff",
    )

    def __init__(self, device_id: DeviceId) -> None:
        self.id = device_id
        self.status: int = directive_pb2.DEVICE_STATUS_UNSPECIFIED
        self.epoch = 0
        self.profile: int = directive_pb2.DEVICE_PROFILE_UNSPECIFIED
        self.statement_key = b""
        self.static_dh_x = b""
        self.static_dh_kid = b""
        self.registers: dict[str, Register] = {}
        #: (register, epoch) of registers that were replaced → modulus: what is said of them late counts their turns too. At most ``MAX_MODULI``.
        self.moduli: dict[tuple[str, int], int] = {}
        self.tariff = TariffVersion(tariff_id=TariffId("none"), version=0)
        self.report_interval_s = 0
        self.standing_account_id = AccountId("")
        self.stoppable = False
        #: Serves only what an entitlement covers.
        self.entitled_only = False
        #: Where it stands, if its record says so.
        self.position: Position | None = None
        self.highest = -1
        #: Counter → what became of it; at most ``COUNTER_WINDOW``, the lowest go first.
        self.seen: dict[int, Seen] = {}
        #: Counter → digest of another gateway's word that was taken to be carried; bounded like ``seen``. What stands there is something else
        #: where an element was copied.
        self.carried: dict[int, bytes] = {}
        #: Authorizations ended before they began → counter of the end; bounded like ``seen``.
        self.cancelled: dict[bytes, int] = {}
        # (counter, position) of statements that the cloud has not receipted: ascending in both, so the first has the
        # lowest counter of all that wait (the queue of a sliding minimum). Grows while the uplink is away, by one small pair a
        # statement.
        self.pending: deque[tuple[int, int]] = deque()

    def modulus(self, register_id: str, register_epoch: int) -> int:
        """Of a register in one of its epochs; 0 where nobody remembers."""
        register = self.registers.get(register_id)
        if register is not None and register.epoch == register_epoch:
            return register.modulus
        return self.moduli.get((register_id, register_epoch), 0)

    def window_floor(self) -> int:
        """Counters up to this are too old."""
        return self.highest - COUNTER_WINDOW

    def awaits(self, counter: int) -> bool:
        """Whether the statement with this counter was taken, and the cloud has not receipted it."""
        return any(waiting == counter for waiting, _ in self.pending)

    def receipted_counter(self, receipted_position: int) -> int:
        """Every statement heard from this device with a counter up to this is receipted, or needed nothing."""
        pending = self.pending
        while pending and pending[0][1] <= receipted_position:
            pending.popleft()
        if pending:
            return max(0, pending[0][0] - 1)
        return max(0, self.highest)


class Chain:
    """Ticks that prove the use of an authorization from ``start`` on, and how far they have."""

    __slots__ = ("anchor", "counter", "index", "length", "said_at", "start", "statement", "unit_per_tick", "word")

    def __init__(
        self, *, counter: int, statement: bytes, unit_per_tick: int, length: int, anchor: bytes, start: int
    ) -> None:
        self.counter = counter
        self.statement = statement
        self.unit_per_tick = unit_per_tick
        self.length = length
        self.anchor = anchor
        self.start = start
        #: When its device signed it, if that was the latest time until then; 0 where another statement had said a later one.
        self.said_at = Instant(0)
        #: The highest tick that is proven, and its word.
        self.index = 0
        self.word = anchor

    @property
    def value(self) -> int:
        """What the register counts by the ticks."""
        return self.start + self.index * self.unit_per_tick


class Authorization:
    """The gateway's yes to an intent, or a standing one; open, then closed, remembered while its intent is in the window.

    Its values of the register are unrolled: what it counted in its epoch, however often it returned to 0.
    """

    __slots__ = (
        "account_id",
        "at",
        "billed",
        "cap_micros",
        "ceiling",
        "chain",
        "closed",
        "closed_by",
        "closed_position",
        "commitment",
        "counted_micros",
        "currency",
        "device_id",
        "first_statement",
        "granted_incarnation",
        "heard_at",
        "holds",
        "id",
        "intent_counter",
        "intent_epoch",
        "last_counter",
        "last_statement",
        "last_tick",
        "latest_statement",
        "missed",
        "net_micros",
        "opened_position",
        "placed",
        "placed_position",
        "placed_statement",
        "placed_to",
        "recorded_to",
        "register_epoch",
        "register_id",
        "report_interval_s",
        "said_start",
        "set_aside",
        "settled",
        "shown_start",
        "signed_value",
        "standing",
        "start",
        "started_at",
        "tariff",
        "tax_micros",
        "token_key",
        "told",
        "traceparent",
        "unit",
        "value",
    )

    def __init__(
        self,
        *,
        authorization_id: AuthorizationId,
        device_id: DeviceId,
        intent_epoch: int,
        intent_counter: int,
        account_id: AccountId,
        token_key: bytes,
        commitment: bytes | None,
        register_id: RegisterId,
        register_epoch: int,
        unit: str,
        start: int,
        started_at: Instant,
        tariff: TariffVersion,
        currency: Currency,
        report_interval_s: int,
        standing: bool,
        first_statement: bytes,
        traceparent: str | None,
        opened_position: int,
        shown_start: int,
        said_start: int,
        heard_at: Instant,
    ) -> None:
        self.id = authorization_id
        self.device_id = device_id
        self.intent_epoch = intent_epoch
        self.intent_counter = intent_counter
        self.account_id = account_id
        #: By what the floor counts: the token's reference, or the device's name for a standing one.
        self.token_key = token_key
        self.commitment = commitment
        self.register_id = register_id
        self.register_epoch = register_epoch
        self.unit = unit
        self.start = start
        self.started_at = started_at
        self.tariff = tariff
        self.currency = currency
        self.report_interval_s = report_interval_s
        self.standing = standing
        self.first_statement = first_statement
        self.traceparent = traceparent
        self.opened_position = opened_position
        #: What the register showed at the start, and what its device said it had counted until then.
        self.shown_start = shown_start
        self.said_start = said_start
        #: Where its tariff places: where the use stood at the statement that was billed last, that statement's value, entry and bytes.
        self.placed: Placed | None = None
        self.placed_to = start
        self.placed_position = 0
        self.placed_statement = b""
        #: The highest value heard, the highest one that a statement said, and the one at which the device was last told a limit.
        self.value = start
        self.signed_value = start
        self.settled = start
        #: The latest time that the device signed, and the statement that says it.
        self.at = started_at
        self.latest_statement = first_statement
        #: What proves ``value``: a statement, and a tick of it.
        self.last_statement = first_statement
        self.last_tick: tuple[int, bytes] | None = None
        #: When the gateway last heard of it, by its own clock.
        self.heard_at = heard_at
        #: Readings that were due and did not come.
        self.missed = 0
        self.chain: Chain | None = None
        #: A value that rated power did not allow was parked: nothing from there on is believed before somebody decides.
        self.ceiling: int | None = None
        self.last_counter = intent_counter
        #: Where the last usage record ended: what a claim says.
        self.recorded_to = start
        #: Tax rate → (net, tax) billed so far.
        self.billed: dict[int, tuple[int, int]] = {}
        self.net_micros = 0
        self.tax_micros = 0
        #: Funding → held.
        self.holds: dict[str, int] = {}
        #: The most it may bill and hold, if a limit or a risk tier said so when it was granted.
        self.cap_micros: int | None = None
        #: What of its hold the tallies of usage limits have counted.
        self.counted_micros = 0
        self.told: Told | None = None
        self.closed = False
        #: The entry that closed it.
        self.closed_position = 0
        #: The operator's decision that closed it; empty when its device ended it.
        self.closed_by = ""
        #: Why no batch can bill it; empty when one can.
        self.set_aside = ""
        #: The incarnation that gave it; 0 for a standing one.
        self.granted_incarnation = 0

    def unrolled(self, value: RegisterValue, modulus: int) -> int:
        """What ``value`` means in this authorization. Less than at its start: the register returned to 0, its device did not say."""
        width = value.unrolled(modulus) - self.said_start
        return self.start + (width if width >= 0 else width + modulus)

    @property
    def gross_micros(self) -> int:
        """Billed so far."""
        return self.net_micros + self.tax_micros

    def grant(self, gateway_id: GatewayId) -> Grant | None:
        """The grant last told; None for a standing authorization."""
        return None if self.told is None else self.grant_that(gateway_id, self.told)

    def grant_that(self, gateway_id: GatewayId, told: Told) -> Grant:
        """The grant that ``told`` was."""
        return Grant(
            recipient=self.device_id,
            gateway=gateway_id,
            witness=Witness(incarnation=told.incarnation, start_id=StartId(told.start_id), position=told.position),
            at=Instant(told.at),
            authorization=self.id,
            intent_epoch=self.intent_epoch,
            intent_counter=self.intent_counter,
            tariff=self.tariff,
            register_id=self.register_id,
            register_epoch=self.register_epoch,
            # As the device counts: from what its register showed.
            start=self.shown_start,
            limit=told.limit - self.start + self.shown_start,
            held=tuple(
                Held(quota_id=QuotaId(FLOOR if funding == FLOOR_FUNDING else funding), amount_micros=amount)
                for funding, amount in told.holds
            ),
            currency=self.currency,
            net_micros=told.net_micros,
            tax_micros=told.tax_micros,
            report_interval_s=self.report_interval_s,
            commitment=self.commitment,
            account=self.account_id,
            readings_due=tuple(Instant(due) for due in told.readings_due),
            lapses_at=None if told.lapses_at is None else Instant(told.lapses_at),
        )


@dataclass(slots=True, kw_only=True)
class UsageRecord:
    """What is billed and not yet sealed."""

    position: int
    authorization: Authorization
    register_from: int
    register_to: int
    charges: tuple[Charge, ...]
    #: The authorization's totals after this record.
    net_micros: int
    tax_micros: int
    closing: bool
    at: Instant
    #: The statement that ends it; the authorization's first stands with the authorization.
    statement: bytes
    #: The tick that does, with the chain as its statement; and the statement whose time is the latest, if that is another one.
    tick: tuple[int, bytes] | None
    latest: bytes | None
    #: What the device had been told before it.
    told: Told | None
    #: Where its tariff places: where the use stood before it, at which value, and the statement that said so; None at the first.
    placed: Placed | None
    placed_to: int
    placed_statement: bytes
    traceparent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorPolicy:
    """What may be used without a quota; 0 is none."""

    currency: str = ""
    per_token_micros: int = 0
    per_account_micros: int = 0
    all_tokens_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SealPolicy:
    """When a batch is due: at the first of these. Age is real seconds."""

    amount_micros: int = DEFAULT_SEAL_AMOUNT_MICROS
    records: int = DEFAULT_SEAL_RECORDS
    age_s: int = DEFAULT_SEAL_AGE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteKeyRow:
    """A site's HMAC key as it came: wrapped for this gateway's token."""

    epoch: int
    ephemeral_public_key: bytes
    wrapped_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedStatement:
    """A statement that somebody has to decide about. ``value`` is unrolled, -1 where its authorization is not known."""

    position: int
    statement: bytes
    refusal: int
    authorization: bytes
    value: int
    said_at: Instant
    closing: bool


class Due(NamedTuple):
    """What was decided about an authorization and is still to be done: close it, or believe what is parked."""

    decision: str
    parked: ParkedStatement | None


class CarriedEnd(NamedTuple):
    """Another gateway's end, to be carried up with the next batch."""

    granted_by: str
    granted_incarnation: int
    statements: tuple[bytes, ...]
    grant: bytes


class ToSealAgain(NamedTuple):
    """A batch of an older chain that was not receipted there: the present chain says it again."""

    incarnation: int
    sequence: int
    batch_hash: bytes
    last_position: int
    records: int


class SealedBatch(NamedTuple):
    """A batch that is not yet receipted."""

    batch_hash: bytes
    last_position: int
    #: Usage records that it bills.
    records: int


@dataclass(slots=True)
class Floor:
    """What the floor has given so far, held and spent: room returns only by directive."""

    total_micros: int = 0
    # Bounded by the tokens and accounts that directives name: nobody else is let onto the floor.
    by_account: dict[str, int] = field(default_factory=dict)
    by_token: dict[tuple[str, bytes], int] = field(default_factory=dict)


@dataclass(slots=True)
class Statistics:
    """Decisions since the last batch."""

    granted_online: int = 0
    granted_offline: int = 0
    refusals: dict[int, int] = field(default_factory=dict)


class GatewayState:
    """Everything a decision rests on."""

    def __init__(self, settings: CoreSettings) -> None:
        self.settings = settings
        self.gateway_id = settings.gateway_id
        # The journal's last position: entries are numbered from 1.
        self.position = 0
        self.start_id = b""
        self.starts: dict[bytes, tuple[int, int]] = {}  # start id → (incarnation, first position); one per start
        # From the first directive of the incarnation.
        self.operator_id = OperatorId("")
        self.site_id = SiteId("")
        self.time_zone = ""
        self.receipt_keys: tuple[bytes, ...] = ()
        self.incarnation = 0
        #: Volatile: what the cloud last said our incarnation is.
        self.expected_incarnation: int | None = None
        #: Volatile: why the cloud lets this gateway wait for a new incarnation; empty when it does not.
        self.waits = ""
        #: Why the cloud stopped authorizing in this incarnation (two stories); empty when it did not.
        self.authorizing_stopped = ""
        self.rollback_suspected = ""
        #: The incarnation that the suspicion is about: a higher one ends it.
        self.suspected_incarnation = 0
        #: Device that was not active → what it has seen of this incarnation's journal, and the journal has not. Bounded by the devices.
        self.seen_beyond: dict[str, str] = {}
        #: Authorization → its highest claim when this incarnation began, as the welcome said; bounded by a directive's size.
        self.open_claims: dict[bytes, OpenClaim] = {}
        # Directives.
        self.clock = Timekeeping()
        self.directive_version = 0
        self.directive_hash = ZERO_HASH
        self.head_at = Instant(0)
        #: The head as last journaled; heads in between are volatile.
        self.recorded_head_at = Instant(0)
        self.directive_faults: deque[tuple[int, str]] = deque(maxlen=MAX_FAULTS)
        self.site_keys: dict[int, SiteKeyRow] = {}
        self.devices: dict[str, Device] = {}
        self.accounts: dict[str, Account] = {}
        self.tokens: dict[bytes, Token] = {}
        #: Account → what its tokens are entitled to, in the order in which it is used; at most ``MAX_ENTITLEMENTS`` each.
        self.entitlements: dict[str, tuple[Entitlement, ...]] = {}
        #: Accounts that an entitlement has ever named to pay: none of them stands on the floor. Bounded by the accounts that directives name.
        self.entitling: set[str] = set()
        #: There are entitlements, or devices that serve nobody without one: rule 8 is asked.
        self.entitles = False
        self.denied: set[bytes] = set()
        self.tariffs: dict[tuple[str, int], TariffEntry] = {}
        #: Tariff → its versions with dates, ascending. Bounded by the tariffs that directives name.
        self.dated_tariffs: dict[str, list[int]] = {}
        self.floor_policy = FloorPolicy()
        self.seal_policy = SealPolicy()
        self.policies = Policies()
        self.usage = Usage()
        #: Drawn by every start: chooses whom the cloud is asked about although there is money.
        self.check_salt = b""
        # Money.
        self.quotas: dict[str, Quota] = {}
        self.next_stop_at = Instant(2**63 - 1)
        self.stopped: dict[str, Quota] = {}
        self.floor = Floor()
        self.request_counter = 0
        self.requests: dict[int, QuotaRequest] = {}
        #: Accounts below their low-water mark, to be asked for at the next tick.
        self.low: set[str] = set()
        # Use.
        self.authorizations: dict[bytes, Authorization] = {}
        self.open_authorizations = 0
        #: Authorization under which nothing is known to have begun → when it lapses, by this gateway's clock; those that have lapsed → when that was
        #: written down. Bounded by the open authorizations.
        self.not_begun: dict[bytes, int] = {}
        self.lapsed: dict[bytes, int] = {}
        #: Quotas with nothing left and not yet stopped.
        self.spent: set[str] = set()
        self.unsealed: list[UsageRecord] = []
        self.unsealed_micros = 0
        #: Usage records since the journal began, and those that the cloud has not receipted.
        self.records = 0
        self.unreceipted_records = 0
        #: Closed since the last batch, in that order: their claims are final, with or without width.
        self.ended: dict[bytes, Authorization] = {}
        #: At most ``MAX_CARRIED``.
        self.carried: list[CarriedEnd] = []
        #: Parked, and in no batch yet: (statement, refusal); at most ``MAX_PARKED_UNSEALED``.
        self.parked_unsealed: list[tuple[bytes, int]] = []
        # Batches of this incarnation.
        self.sequence = 0
        self.batch_hash = ZERO_HASH
        self.sealed_position = 0
        self.batches: dict[int, SealedBatch] = {}
        #: Before anything new is sealed; as many as were not receipted when the incarnation began.
        self.to_seal_again: deque[ToSealAgain] = deque()
        self.receipted_sequence = 0
        self.receipted_position = 0
        #: As it was signed: (receipt, signature, key id); empty before the first.
        self.last_receipt: tuple[bytes, bytes, bytes] = (b"", b"", b"")
        #: The ledger's, as the chain of directives says: it counts up when the ledger was restored from a backup.
        self.ledger_epoch = 1
        self.statistics = Statistics()
        self.totals = Statistics()
        self.parked = 0
        #: (device, device epoch, counter) → what is parked and not decided; bounded by ``MAX_PARKED_STATEMENTS``: the oldest
        #: goes of the device that has most of them, so that nobody's flood takes another's place.
        self.parked_statements: dict[tuple[str, int, int], ParkedStatement] = {}
        #: Authorization → what was decided about it, until it is done: at the next tick. One close, and one for each parked statement.
        self.due: dict[bytes, tuple[Due, ...]] = {}
        #: Authorizations that no batch can bill → why.
        self.set_aside: dict[bytes, str] = {}
        #: Volatile: whether the cloud can be asked right now.
        self.online = False

    def tariff_in_force(self, name: TariffVersion, at: Instant) -> TariffEntry | None:
        """The version of a device's tariff that a use which begins at ``at`` is priced by; None where none is in force.

        The one that the device's record names, or a higher one whose own date has come.
        """
        entry = self.tariffs.get((name.tariff_id, name.version))
        dated = self.dated_tariffs.get(name.tariff_id)
        if dated is None:
            return entry
        for version in reversed(dated):
            later = self.tariffs[name.tariff_id, version]
            if version > name.version and later.tariff.valid_from is not None and later.tariff.is_in_force(at):
                return later
        return entry if entry is not None and entry.tariff.is_in_force(at) else None

    @property
    def not_authorizing_reason(self) -> str:
        """Why no new authorization may be given at all; empty when they may."""
        if self.rollback_suspected:
            return self.rollback_suspected
        if self.waits or self.authorizing_stopped:
            return self.waits or self.authorizing_stopped
        if self.incarnation == 0:
            return "the cloud has not yet said which incarnation this is"
        if self.expected_incarnation is not None and self.expected_incarnation != self.incarnation:
            return f"the cloud knows incarnation {self.expected_incarnation}, this journal {self.incarnation}"
        if not self.is_complete:
            # What forbids may stand behind what allows: a token is denied, a limit set, by a later directive than the one that named it.
            return "the cloud has more to say than this journal has heard"
        return ""

    @property
    def may_seal(self) -> bool:
        """Whether this journal may go on with its chain of batches."""
        return bool(self.incarnation) and not self.rollback_suspected and not self.waits

    def receipted_counter(self, device: Device) -> int:
        """Up to which counter the cloud has all that was heard from ``device``; 0 from a journal that may have forgotten some of it."""
        if not self.may_seal or device.id in self.seen_beyond:
            return 0
        return device.receipted_counter(self.receipted_position)

    def vouched_position(self, position: int) -> int:
        """What an answer may say of ``position`` to be held against this journal later; 0 from one that may have forgotten some of it.

        Devices keep the furthest witness: one of a journal that went back must not take the place of the one that proves it.
        """
        return position if self.may_seal else 0

    @property
    def is_complete(self) -> bool:
        """Whether this journal has once known all that the cloud had to say: before, what it does not know may still come."""
        return self.recorded_head_at > 0

    def unsealed_up_to(self, position: int) -> int:
        """How many of the records that are not sealed stand at or before ``position``: the first ones."""
        return bisect.bisect_right(self.unsealed, position, key=lambda record: record.position)

    def has_something_to_say(self) -> bool:
        """Whether a batch may be sealed now, and would say anything new.

        What older chains left to say comes first; a journal that went backwards would tell a second story.
        """
        if self.to_seal_again or not self.may_seal:
            return False
        if self.unsealed or self.ended or self.carried or self.parked_unsealed:
            return True
        return any(quota.reported_held_micros != quota.held_micros for quota in self.stopped.values())
