"""The rows a decision looks at, as they were when they were locked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from farthing.clock import Instant
from farthing.evidence import classes
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import Currency

#: What stands before the first batch, directive or audit link of a chain.
ZERO_HASH = bytes(32)
#: When a gateway was heard that never was.
NEVER = Instant(0)


class Balances(NamedTuple):
    """The four balances of a ledger account, micros, none below 0. (A tuple: a batch makes hundreds.)"""

    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0


class LedgerState(StrEnum):
    """What the ledger may do (DESIGN 5.10)."""

    OPEN = "open"
    #: It was restored from a backup: until two persons begin a new epoch it grants, refunds, pays, voids and posts nothing.
    STOPPED = "stopped"
    #: A new epoch has begun: gateways show what it lost and push their batches again. Money out waits until all have.
    RESTORING = "restoring"


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The ledger's epoch, and what it may do in it. ``since`` and ``why``: why it is not open."""

    number: int = 1
    state: LedgerState = LedgerState.OPEN
    since: Instant = NEVER
    why: str = ""


class AccountStatus(StrEnum):
    """Whether a payer's account may be given quotas. Posting never asks."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    #: Closed for good: nothing is held, owned or owed, and nothing comes in any more.
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """The terms of who pays."""

    account_id: AccountId
    status: AccountStatus
    credit_limit_micros: int
    debt_limit_micros: int
    preload_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierGrantKey:
    """A key (SubjectPublicKeyInfo, DER) that signed a gateway's grants until another one followed, an instant of the business clock."""

    key: bytes
    until: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A gateway as the ledger knows it. ``beyond_micros``: billed beyond holds and not yet proven."""

    gateway_id: GatewayId
    operator_id: OperatorId
    site_id: SiteId
    currency: Currency
    exposure_micros: int
    beyond_micros: int
    #: Cap of the floor over all tokens (FloorPolicy): counts against the exposure before it is used.
    floor_micros: int
    incarnation: int
    #: The gateway has shown that its journal knows this incarnation.
    adopted: bool
    #: It signed two batches with one sequence: it is given no quota until a new incarnation has been decided.
    quarantined: bool
    directive_version: int
    directive_hash: bytes
    time_zone: str
    #: SubjectPublicKeyInfo (DER).
    batch_key: bytes
    grant_key: bytes
    witness_start_id: bytes
    witness_position: int
    #: When it was last heard, and the last batch it said it had sealed (of its incarnation).
    contact_at: Instant = NEVER
    sealed_sequence: int = 0
    #: Billed on quotas beyond what was held for them, ever: what honest gateways do only after a forced void or a rollback (P1).
    late_micros: int = 0
    #: Why it waits for a new incarnation; empty when it does not. ``waits_start_id``: the start that did not agree.
    waits_because: str = ""
    waits_start_id: bytes = b""
    #: The ledger's epoch in which its chain of directives is whole: behind the ledger's, it has to show what it was told.
    epoch: int = 1
    #: The least evidence class of its site (farthing.evidence.classes): what is below waits for people.
    least_class: int = classes.DEVICE_SIGNED
    #: Keys that signed its grants before, the oldest first.
    earlier_grant_keys: tuple[EarlierGrantKey, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether its incarnation and witness agree with what the ledger knows; only such a one is given quotas."""
        return not self.quarantined and not self.waits_because


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The batches of one incarnation of a gateway, posted so far. ``proven_sequence``: verified without gaps."""

    incarnation: int
    sequence: int = 0
    head_hash: bytes = ZERO_HASH
    proven_sequence: int = 0


class QuotaStatus(StrEnum):
    """The life of a quota: DESIGN 5.5."""

    OPEN = "open"
    RECALLED = "recalled"
    STOPPED = "stopped"
    #: Granted to an incarnation that is over: held until its ``report_until``, and still pays what is posted (DESIGN 5.9).
    FROZEN = "frozen"
    CLOSED = "closed"


class Quota(NamedTuple):
    """A part of an account's funds that one incarnation of one gateway may spend; micros. (A tuple, as balances are.)"""

    quota_id: QuotaId
    gateway_id: GatewayId
    incarnation: int
    account_id: AccountId
    amount_micros: int
    spend_until: Instant
    report_until: Instant
    request_counter: int
    posted_micros: int = 0
    voided_micros: int = 0
    status: QuotaStatus = QuotaStatus.OPEN
    #: When the gateway last said that holds of it are in use; None when it said nothing, or that none are.
    in_use_at: Instant | None = None

    @property
    def held_micros(self) -> int:
        """What the cloud still holds for it."""
        return self.amount_micros - self.posted_micros - self.voided_micros


class RegisterKey(NamedTuple):
    """A register of a device in one of its epochs: what two authorizations may not claim twice. (A tuple: thousands are hashed and sorted.)"""

    device_id: str
    register_id: str
    register_epoch: int


#: An authorization and the gateway that gave it (docs/adr/0006).
ClaimKey: TypeAlias = tuple[AuthorizationId, GatewayId]


class Claimed(NamedTuple):
    """The highest claim of an authorization. (gateway, incarnation, sequence) name the batch that raised it last. (A tuple, for the same reason.)"""

    authorization_id: AuthorizationId
    register: RegisterKey
    register_from: int
    register_to: int
    net_micros: int
    tax_micros: int
    final: bool
    #: It overlapped another authorization: what it adds is set aside, from then on.
    aside: bool
    #: Whose authorization it is.
    gateway_id: GatewayId
    incarnation: int
    sequence: int
    #: Whose batch raised it, where it is another gateway's: a carried end. Kept while its own gateway has not said as much.
    raised_by: GatewayId | None = None

    @property
    def key(self) -> ClaimKey:
        """What it is known by."""
        return self.authorization_id, self.gateway_id


class CaseKind(StrEnum):
    """Why a person has to look."""

    OVERLAP = "overlap"
    EXPOSURE = "exposure"
    WENT_DOWN = "went-down"
    REGISTER_DIFFERS = "register-differs"
    SHARES_MISSING = "shares-missing"
    #: An end that another gateway carried, and that does not prove itself.
    CARRIED = "carried"
    #: An end that another gateway carried says more than a claim that was final: of a use that a decision had ended, or of which its device says two things.
    AFTER_FINAL = "after-final"
    #: A line whose evidence is of a lower class than its site takes.
    EVIDENCE_CLASS = "evidence-class"
    #: Lines that name an account or quota that the ledger does not know, or that is not theirs: parked, until people post or void them.
    UNKNOWN_NAME = "unknown-name"


class CaseStatus(StrEnum):
    """What became of a case."""

    OPEN = "open"
    RELEASED = "released"
    VOIDED = "voided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """Money set aside, and where it goes when it is released."""

    gateway_id: GatewayId
    incarnation: int
    sequence: int
    line: int
    account_id: AccountId
    site_id: SiteId
    rate_ppm: int
    net_micros: int
    tax_micros: int

    @property
    def gross_micros(self) -> int:
        """Net and tax."""
        return self.net_micros + self.tax_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case as stored. Overlap cases are one per authorization; its asides grow while it is open."""

    case_id: int
    kind: CaseKind
    status: CaseStatus
    device_id: str
    authorization_id: bytes
    other_authorization_id: bytes
    asides: tuple[Aside, ...]


class GatewayCaseKind(StrEnum):
    """Why a person has to look at a gateway."""

    INCARNATION = "incarnation"
    EQUIVOCATION = "equivocation"
    #: Detail that does not go on from other detail of the same use.
    EVIDENCE = "evidence"
    #: A batch drawn for audit whose detail did not come in time, or does not hold.
    AUDIT = "audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayCase:
    """Something that only people can decide about a gateway in one of its incarnations; open until a later one begins."""

    gateway_id: GatewayId
    incarnation: int
    kind: GatewayCaseKind
    detail: str


class DecisionKind(StrEnum):
    """What one person proposes and another approves."""

    INCARNATION = "incarnation"
    FORCED_VOID = "forced-void"
    #: The ledger was restored from a backup: its next epoch begins. Names no gateway.
    RESTORED = "restored"
    #: The restored ledger waits for this gateway no longer.
    GIVEN_UP = "given-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A proposal, and who approved it. ``content`` is what both persons saw, byte for byte.

    ``incarnation``: what has to be so still when it is approved; for ``RESTORED`` the epoch that begins.
    """

    decision_id: str
    kind: DecisionKind
    gateway_id: GatewayId
    incarnation: int
    reason: str
    content: bytes
    content_hash: bytes
    proposed_by: str
    proposed_at: Instant
    approved_by: str = ""
    approved_at: Instant | None = None


class Demand(NamedTuple):
    """What an account lately spent at a gateway: a sum that halves with time, as it was ``at``; micros. (A tuple, for the same reason.)"""

    micros: int
    at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedBatch:
    """A batch that was posted: its identity and what its receipt says."""

    gateway_id: GatewayId
    incarnation: int
    sequence: int
    batch_hash: bytes
    proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRequested:
    """A quota request that was answered; ``answer`` as in gateway_sync.proto."""

    counter: int
    account_id: str
    wanted_micros: int
    answer: int
    quota_id: str
    amount_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A funding that was posted."""

    payment_id: str
    account_id: str
    amount_micros: int
    source: str


class CorrectionKind(StrEnum):
    """What a correction does (DESIGN 7, Corrections)."""

    #: A use is paid back, wholly or in part.
    REFUND = "refund"
    #: The operator gives money of its own.
    GOODWILL = "goodwill"
    #: A balance goes back to its payer; it is under way until the bank has said what became of it.
    PAYBACK = "payback"
    #: Another person than who ordered it has seen it, and lets it go.
    PAYBACK_APPROVED = "payback-approved"
    #: Somebody has it paid: nobody else does.
    PAYBACK_HANDED = "payback-handed"
    #: The bank says that it left, that it did not, or that it came back.
    PAYBACK_SENT = "payback-sent"
    PAYBACK_FAILED = "payback-failed"
    PAYBACK_RETURNED = "payback-returned"
    #: A funding was taken back from outside.
    CHARGEBACK = "chargeback"
    #: What a use earned is set aside until its dispute ends: won, it goes back to those it was set aside from; lost, to the payer.
    DISPUTE = "dispute"
    DISPUTE_WON = "dispute-won"
    DISPUTE_LOST = "dispute-lost"
    #: The operator bears what an account owes.
    WRITE_OFF = "write-off"
    #: An account is closed for good.
    CLOSING = "closing"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedPart:
    """What a correction takes of one part of a use; micros. (posting, line) name the part: see ``core.uses``."""

    posting_id: int
    line: int
    authorization_id: AuthorizationId
    gateway_id: GatewayId
    net_micros: int
    tax_micros: int
    #: Net and tax that went back to ``risk``, which had borne them.
    risk_micros: int
    #: A dispute's: the accounts that its net was set aside from.
    set_aside: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A correction as it is kept. ``content``: the ``CorrectionContent`` that was asked for, byte for byte."""

    correction_id: str
    kind: CorrectionKind
    #: Whose money it moved; empty for a use that nobody's account paid.
    account_id: str
    authorization_id: bytes
    gateway_id: str
    payment_id: str
    dispute_id: str
    amount_micros: int
    content: bytes
    person: str
    at: Instant
    parts: tuple[CorrectedPart, ...] = ()
    #: The plan whose item it executes; empty for one that a person asked for by itself.
    plan_id: str = ""
    #: The payback that it says something of.
    payback_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionPlan:
    """A plan of corrections, and who approved it. ``content``: a ``CorrectionPlanContent`` as both persons saw it, byte for byte."""

    plan_id: str
    operator_id: OperatorId
    currency: Currency
    content: bytes
    content_hash: bytes
    #: How many uses it looked at, for how many of them something goes back, and how much; micros.
    items: int
    refunds: int
    back_micros: int
    planned_by: str
    planned_at: Instant
    approved_by: str = ""
    approved_at: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRun:
    """A person imports a gateway's batches by hand; ``file_hash``: SHA-256 of what was carried."""

    gateway_id: GatewayId
    file_hash: bytes
    person: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReview:
    """What two persons decide about a revoked gateway's batches. ``content``: an ``ImportReviewContent``, byte for byte."""

    review_id: str
    operator_id: OperatorId
    currency: Currency
    gateway_id: GatewayId
    content: bytes
    content_hash: bytes
    proposed_by: str
    proposed_at: Instant
    approved_by: str = ""
    approved_at: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSplit:
    """How a site's clearing was split when its window was closed."""

    site_id: SiteId
    rule_version: int
    parts: tuple[tuple[str, int], ...]
    remainder_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """What a request will look at: the store locks these rows, always in the same order, and returns a :class:`View`.

    Order: books, gateways, registers, cases, payers (each in id order); other accounts are locked by the posting itself.
    """

    operator_id: OperatorId
    currency: Currency
    gateway_ids: tuple[GatewayId, ...] = ()
    account_ids: tuple[AccountId, ...] = ()
    quota_ids: tuple[QuotaId, ...] = ()
    #: Claim → (register, from, to) in the request.
    claims: Mapping[ClaimKey, tuple[RegisterKey, int, int]] = field(default_factory=dict)
    #: (gateway, incarnation) of a chain of batches, with the sequence asked for.
    chain: tuple[GatewayId, int, int] | None = None
    #: (gateway, incarnation, counter).
    quota_request: tuple[GatewayId, int, int] | None = None
    payment_id: str | None = None
    case_id: int | None = None
    #: Load what the touched accounts spent on the floor of the touched gateways.
    floors: bool = False
    #: (gateway, idempotency key) of another service's wish for a directive.
    wish: tuple[GatewayId, str] | None = None
    decision_id: str | None = None
    #: Load every quota of the touched gateways that is not closed, with its account, and their open claims.
    incarnations: bool = False
    #: Load what the touched accounts lately spent at the touched gateways.
    demand: bool = False
    #: Take the books for closing: nobody posts meanwhile.
    exclusive: bool = False
    #: A correction's id, as its caller gives it; with ``payment_id`` also what was taken back of that payment.
    correction_id: str | None = None
    #: The dispute that ends.
    dispute_id: str | None = None
    #: The payback that something is said of.
    payback_id: str | None = None
    #: Load every quota of the touched accounts that is not closed.
    account_quotas: bool = False
    plan_id: str | None = None
    review_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewinding:
    """What a restored ledger took back from a gateway in an epoch; micros. (incarnation, sequence): its last receipt."""

    gateway_id: GatewayId
    epoch: int
    shown_at: Instant
    directives: int = 0
    #: Directives that the ledger had written since it was restored, and that come after those it took back.
    set_aside: int = 0
    quotas: int = 0
    reinstated_micros: int = 0
    #: Of what it was granted, what its accounts no longer had when all had rewound: voided, and recalled.
    short_micros: int = 0
    incarnation: int = 0
    sequence: int = 0
    given_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteClearing:
    """What stands in a site's clearing of the open window; ``unproven_micros`` of it has no verified detail yet."""

    site_id: SiteId
    balance_micros: int
    unproven_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The rows of one request. A path without a row has four zero balances."""

    operator_id: OperatorId
    currency: Currency
    #: The open window, e.g. "w1".
    window: str
    epoch: Epoch = Epoch()
    gateways: Mapping[GatewayId, Gateway] = field(default_factory=dict)
    #: ``payer/*`` and ``debt/*`` of the touched accounts, ``quota/*`` of the touched gateways, ``transit/*`` of the touched payback.
    balances: Mapping[str, Balances] = field(default_factory=dict)
    payers: Mapping[AccountId, Payer] = field(default_factory=dict)
    quotas: Mapping[QuotaId, Quota] = field(default_factory=dict)
    #: How many quotas with status open each touched account has, over all gateways.
    open_quotas: Mapping[AccountId, int] = field(default_factory=dict)
    claimed: Mapping[ClaimKey, Claimed] = field(default_factory=dict)
    #: Claim of the request → another authorization whose stored claim overlaps it.
    overlaps: Mapping[ClaimKey, AuthorizationId] = field(default_factory=dict)
    #: The case of each touched claim that is still open.
    open_cases: Mapping[ClaimKey, int] = field(default_factory=dict)
    #: Of touched claims: what carried ends billed beyond holds and their own gateway has not claimed since, micros.
    carried_beyond: Mapping[ClaimKey, int] = field(default_factory=dict)
    chain: Chain | None = None
    batch: PostedBatch | None = None
    quota_request: QuotaRequested | None = None
    payment: Payment | None = None
    case: Case | None = None
    #: The directive that the wish became before, if it did.
    wish_version: int | None = None
    #: Of the touched accounts, those that the wish's gateway was told of.
    told: frozenset[AccountId] = frozenset()
    #: (gateway, account) → proven spending on the floor that waits for the account's debt to be settled; micros.
    floors: Mapping[tuple[GatewayId, AccountId], int] = field(default_factory=dict)
    decision: Decision | None = None
    #: Claims of the touched gateways that are not final, the newest first; only where the touch asks for incarnations.
    open_claims: tuple[Claimed, ...] = ()
    demand: Mapping[tuple[GatewayId, AccountId], Demand] = field(default_factory=dict)
    #: Only for an exclusive touch.
    clearings: tuple[SiteClearing, ...] = ()
    #: The correction that was posted under this id before.
    correction: Correction | None = None
    dispute: Correction | None = None
    #: How the dispute ended; None while it lasts.
    dispute_ended: Correction | None = None
    #: What was taken back of the payment so far, micros.
    taken_back_micros: int = 0
    payback: Correction | None = None
    #: What was said of the payback so far, in order; and whatever else names this reference of the bank.
    payback_said: tuple[Correction, ...] = ()
    plan: CorrectionPlan | None = None
    review: ImportReview | None = None
