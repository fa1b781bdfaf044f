"""What a decision writes: an immutable posting, stored whole or not at all.

Rule: a store adds nothing of its own but ids, times of commit and the audit link.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import Currency
from farthing_cloud.ledger.core.keys import BatchKey
from farthing_cloud.ledger.core.rows import (
    Aside,
    Balances,
    CaseKind,
    CaseStatus,
    Chain,
    Claimed,
    ClaimKey,
    Correction,
    CorrectionPlan,
    Decision,
    Demand,
    Gateway,
    GatewayCase,
    ImportReview,
    ImportRun,
    KeptSplit,
    Payer,
    Payment,
    Quota,
    QuotaRequested,
    Rewinding,
)


class TransferKind(StrEnum):
    """``post`` moves money (and ends that part of a hold when it names a quota), ``hold`` and ``void`` move pendings."""

    POST = "post"
    HOLD = "hold"
    VOID = "void"


class Cause(StrEnum):
    """Why a transfer was made."""

    FUND = "fund"
    GRANT = "grant"
    USE = "use"  # from its hold
    OVERRUN = "overrun"
    LATE = "late"
    FLOOR = "floor"
    SECOND_CLAIM = "second-claim"
    EXPOSURE = "exposure"
    EVIDENCE_CLASS = "evidence-class"
    UNKNOWN_NAME = "unknown-name"
    ABOVE_HELD = "above-held"
    CLOSED = "closed"
    SILENCE = "silence"
    FORCED = "forced"
    DEBT = "debt"
    REVERSED = "reversed"
    CARRIED = "carried"
    SPLIT = "split"
    REFUND = "refund"
    #: A split goes back, by the rule version of then.
    SPLIT_BACK = "split-back"
    GOODWILL = "goodwill"
    PAYBACK = "payback"
    PAYBACK_SENT = "payback-sent"
    PAYBACK_FAILED = "payback-failed"
    PAYBACK_RETURNED = "payback-returned"
    CHARGEBACK = "chargeback"
    DISPUTE = "dispute"
    DISPUTE_WON = "dispute-won"
    DISPUTE_LOST = "dispute-lost"
    WRITE_OFF = "write-off"
    #: A hold that the restored ledger takes back, and the part of it that the account no longer has.
    REINSTATED = "reinstated"
    SHORT = "short"


class Transfer(NamedTuple):
    """One amount from one ledger account to another; ``line`` is the batch's line it stands for. (A tuple: a batch makes thousands.)"""

    kind: TransferKind
    debit: str
    credit: str
    amount_micros: int
    quota_id: QuotaId | None
    cause: Cause
    line: int | None
    authorization_id: bytes | None


class QuotaAfter(NamedTuple):
    """A quota after the posting. (A tuple, as a transfer.)"""

    quota_id: QuotaId
    posted_micros: int
    voided_micros: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseAdded:
    """A case to open, or (``case_id`` set) more to set aside in an open one."""

    case_id: int | None
    kind: CaseKind
    device_id: str
    authorization_id: bytes
    other_authorization_id: bytes
    asides: tuple[Aside, ...]
    #: What has no line to stand on (``SHARES_MISSING``).
    missing_micros: int = 0
    #: Where and why, for people.
    detail: str = ""

    @property
    def aside_micros(self) -> int:
        """What this adds to suspense."""
        return sum(aside.gross_micros for aside in self.asides)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseDecided:
    """The end of a case."""

    case_id: int
    status: CaseStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A row of the outbox; ``value`` is the message of events.proto that ``kind`` names.

    ``value_by_case``: the value carries an id the store gives (``case.opened``): index into ``Posting.cases``.
    """

    kind: str
    key: str
    value: bytes
    traceparent: str = ""
    case: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectiveRow:
    """The next link of a gateway's chain, not signed yet."""

    gateway_id: GatewayId
    version: int
    previous_hash: bytes
    body: bytes
    body_hash: bytes
    #: Names the wish of another service; empty when the ledger caused it itself.
    idempotency_key: str = ""
    #: Only of one that its gateway handed back to a restored ledger.
    signature: bytes = b""
    key_id: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A line that could not be understood, and how much of it is due and waits in no case."""

    line: int
    reason: str
    net_micros: int
    tax_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAdded:
    """The identity of a batch for ever, and the figures ``verify`` holds against the transfers; micros."""

    gateway_id: GatewayId
    site_id: SiteId
    incarnation: int
    sequence: int
    batch_hash: bytes
    previous_hash: bytes
    batch: bytes
    signature: bytes
    key_id: bytes
    start_id: bytes
    first_position: int
    last_position: int
    directive_version: int
    sealed_at: Instant
    merkle_root: bytes
    leaf_count: int
    lines: int
    claims: int
    #: Due in this batch: posted + set aside + parked (with what shares do not cover).
    due_micros: int
    #: Net and tax that were posted (from whatever account).
    net_micros: int
    tax_micros: int
    aside_micros: int
    parked_micros: int
    beyond_micros: int
    #: A batch that bills nothing has nothing left to prove.
    proven: bool
    parked: tuple[Parked, ...]
    #: Statements that its gateway could not take, in its bytes: people look at them, nothing is billed by them.
    parked_statements: int
    #: Net of its lines that stands in clearing and waits for proof. (What carried ends billed was proven when it was posted.)
    clearing_micros: int
    #: Claims on other gateways' authorizations, as the ledger computed them from carried ends.
    carried: tuple[Claimed, ...]
    #: What each account paid of its spending on the floor, or owes for it. What nobody paid gives no room back.
    floor: Mapping[AccountId, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProven:
    """The detail of a posted batch was verified."""

    gateway_id: GatewayId
    incarnation: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReleased:
    """A released case posted ``net_micros`` to clearing that a batch had claimed; a refund took them back (below 0)."""

    gateway_id: GatewayId
    incarnation: int
    sequence: int
    net_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowClosed:
    """The window that ends with this posting; ``answer`` is what closing it again gives."""

    window: str
    next_window: str
    answer: bytes
    #: The rules it was split by: a later correction reverses the split by them.
    splits: tuple[KeptSplit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """Everything one decision writes, in order."""

    kind: str
    operator_id: OperatorId
    currency: Currency
    posted_at: Instant
    business_at: Instant
    transfers: tuple[Transfer, ...] = ()
    #: What each touched path gains in each of its four balances.
    changes: Mapping[str, Balances] = field(default_factory=dict)
    payers: tuple[Payer, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    chain: tuple[GatewayId, Chain] | None = None
    quotas_granted: tuple[Quota, ...] = ()
    quotas: tuple[QuotaAfter, ...] = ()
    claims: tuple[Claimed, ...] = ()
    #: Of each: what carried ends billed beyond holds and its own gateway has not claimed since, micros.
    carried_beyond: Mapping[ClaimKey, int] = field(default_factory=dict)
    cases: tuple[CaseAdded, ...] = ()
    case_decided: CaseDecided | None = None
    directives: tuple[DirectiveRow, ...] = ()
    events: tuple[Event, ...] = ()
    batch: BatchAdded | None = None
    proven: BatchProven | None = None
    released: tuple[BatchReleased, ...] = ()
    quota_request: tuple[GatewayId, int, QuotaRequested] | None = None
    payment: Payment | None = None
    window_closed: WindowClosed | None = None
    #: (gateway, account, micros): what now waits of an account's spending on a gateway's floor.
    floors: tuple[tuple[GatewayId, AccountId, int], ...] = ()
    #: (gateway, account) pairs: the gateway was told of the account.
    told: tuple[tuple[GatewayId, AccountId], ...] = ()
    #: Quotas of which the gateway said that holds are in use (when), or that none are (None).
    in_use: tuple[tuple[QuotaId, Instant | None], ...] = ()
    gateway_cases: tuple[GatewayCase, ...] = ()
    gateway_cases_closed: tuple[GatewayCase, ...] = ()
    proposed: Decision | None = None
    approved: Decision | None = None
    demand: tuple[tuple[GatewayId, AccountId, Demand], ...] = ()
    correction: Correction | None = None
    planned: CorrectionPlan | None = None
    plan_approved: CorrectionPlan | None = None
    imported: ImportRun | None = None
    #: Proposed, or, where it names who approved it, approved.
    review: ImportReview | None = None
    #: Accounts whose spending on floors waits for nothing any more: the operator bears it, so no room returns.
    floors_forgotten: tuple[AccountId, ...] = ()
    #: Requests that directives handed back show to have been granted.
    requests_shown: tuple[tuple[GatewayId, int, QuotaRequested], ...] = ()
    #: Gateways whose chain is whole in an epoch.
    gateway_epochs: tuple[tuple[GatewayId, int], ...] = ()
    rewinding: Rewinding | None = None
    #: What was voided of each gateway's quotas because their account had less after a restore.
    short: tuple[tuple[GatewayId, int], ...] = ()
    #: The gateway's directives after this version are not the ledger's any more: kept apart, and what ``directives`` says takes their place.
    chain_replaced: tuple[GatewayId, int] | None = None
    #: The epoch that begins with this posting, and the decision that began it.
    epoch_begun: tuple[int, str] | None = None
    #: A gateway that was put: its site's least evidence class, and the earlier grant keys.
    put: Gateway | None = None
    #: The gateway may never connect again: what it seals waits for people.
    revoked: GatewayId | None = None
    #: Stretches of batch keys that are new, or have ended or were revoked.
    batch_keys: tuple[tuple[GatewayId, BatchKey], ...] = ()

    def authorizations(self) -> tuple[AuthorizationId, ...]:
        """Those whose claim this raises."""
        return tuple(claim.authorization_id for claim in self.claims)
