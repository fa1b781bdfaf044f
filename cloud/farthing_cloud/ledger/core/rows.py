"""The rows a decision looks at, as they were when they were locked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import Currency

#: What stands before the first batch, directive or audit link of a chain.
ZERO_HASH = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balances:
    """The four balances of a ledger account, micros, none below 0."""

    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0


class AccountStatus(StrEnum):
    """Whether a payer's account may be given quotas. Posting never asks."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """The terms of who pays."""

    account_id: AccountId
    status: AccountStatus
    credit_limit_micros: int
    debt_limit_micros: int
    preload_micros: int


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
    #: It signed two batches with one sequence: it is given no quota until a person has looked.
    quarantined: bool
    directive_version: int
    directive_hash: bytes
    time_zone: str
    #: SubjectPublicKeyInfo (DER).
    batch_key: bytes
    grant_key: bytes
    witness_start_id: bytes
    witness_position: int


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
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A part of an account's funds that one incarnation of one gateway may spend; micros."""

    quota_id: QuotaId
    gateway_id: GatewayId
    incarnation: int
    account_id: AccountId
    amount_micros: int
    posted_micros: int = 0
    voided_micros: int = 0
    status: QuotaStatus = QuotaStatus.OPEN
    spend_until: Instant
    report_until: Instant
    request_counter: int

    @property
    def held_micros(self) -> int:
        """What the cloud still holds for it."""
        return self.amount_micros - self.posted_micros - self.voided_micros


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RegisterKey:
    """A register of a device in one of its epochs: what two authorizations may not claim twice."""

    device_id: str
    register_id: str
    register_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The highest claim of an authorization. (gateway, incarnation, sequence) name the batch that raised it last."""

    authorization_id: AuthorizationId
    register: RegisterKey
    register_from: int
    register_to: int
    net_micros: int
    tax_micros: int
    final: bool
    #: It overlapped another authorization: what it adds is set aside, from then on.
    aside: bool
    gateway_id: GatewayId
    incarnation: int
    sequence: int


class CaseKind(StrEnum):
    """Why a person has to look."""

    OVERLAP = "overlap"
    EXPOSURE = "exposure"
    WENT_DOWN = "went-down"
    REGISTER_DIFFERS = "register-differs"
    SHARES_MISSING = "shares-missing"


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
    #: Authorization → (register, from, to) of its claim in the request, which is by the gateway of ``chain``.
    claims: Mapping[AuthorizationId, tuple[RegisterKey, int, int]] = field(default_factory=dict)
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
    #: Take the books for closing: nobody posts meanwhile.
    exclusive: bool = False


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
    ledger_epoch: int
    gateways: Mapping[GatewayId, Gateway] = field(default_factory=dict)
    #: ``payer/*`` and ``debt/*`` of the touched accounts, ``quota/*`` of the touched gateways.
    balances: Mapping[str, Balances] = field(default_factory=dict)
    payers: Mapping[AccountId, Payer] = field(default_factory=dict)
    quotas: Mapping[QuotaId, Quota] = field(default_factory=dict)
    #: How many quotas with status open each touched account has, over all gateways.
    open_quotas: Mapping[AccountId, int] = field(default_factory=dict)
    claimed: Mapping[AuthorizationId, Claimed] = field(default_factory=dict)
    #: Authorization of the request → another one whose stored claim overlaps it.
    overlaps: Mapping[AuthorizationId, AuthorizationId] = field(default_factory=dict)
    #: The case of each touched authorization that is still open.
    open_cases: Mapping[AuthorizationId, int] = field(default_factory=dict)
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
    #: Only for an exclusive touch.
    clearings: tuple[SiteClearing, ...] = ()
