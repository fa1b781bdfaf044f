"""What the ledger needs of a store.

Rule 1: ``load`` locks the rows it returns until the transaction ends; two transactions lock in the same order.
Rule 2: ``post`` writes a posting whole or not at all, and adds the audit link.
Rule 3: nothing is ever read back that was not committed.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, TypeVar

from farthing.clock import SECOND_US, Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import Currency
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.core.keys import BatchKey
from farthing_cloud.ledger.core.posting import Posting, Transfer
from farthing_cloud.ledger.core.restoring import Tail
from farthing_cloud.ledger.core.rows import (
    Balances,
    Chain,
    Claimed,
    Correction,
    CorrectionPlan,
    Decision,
    Epoch,
    Gateway,
    GatewayCase,
    ImportReview,
    Quota,
    Rewinding,
    Touch,
    View,
)
from farthing_cloud.ledger.core.uses import UseHistory

T = TypeVar("T")

#: A gateway whose stream stands is heard every few seconds; its row is not written for less than this, business time.
CONTACT_STEP_US: Final = 30 * SECOND_US
#: Batches of one gateway that are kept although they do not fit its chain, each at most 4 MiB: enough to see what it does, and no more.
MAX_FORKS: Final = 256
#: Batches of a revoked gateway that wait for review: a fortnight at one a minute.
MAX_IMPORTED: Final = 20_000


class StoreError(Exception):
    """The store cannot be used now; nothing was written. The caller may ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """What the store added to a posting."""

    posting_id: int
    audit_head: bytes
    #: Ids of ``Posting.cases``, in order.
    case_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptContent:
    """What a receipt says: fixed when its batch was posted."""

    ledger_epoch: int
    gateway_id: GatewayId
    incarnation: int
    sequence: int
    batch_hash: bytes
    posted_at: Instant
    parked: tuple[tuple[int, str], ...]
    audit_head: bytes

    def encode(self) -> bytes:
        """The receipt's bytes: the same content gives the same bytes."""
        return batch_pb2.Receipt(
            ledger_epoch=self.ledger_epoch,
            gateway_id=self.gateway_id,
            incarnation=self.incarnation,
            sequence=self.sequence,
            batch_hash=self.batch_hash,
            posted_at_us=self.posted_at,
            parked=[batch_pb2.ParkedLine(line=line, reason=reason) for line, reason in self.parked],
            audit_head=self.audit_head,
        ).SerializeToString(deterministic=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """Bytes with the signature that was made for them."""

    body: bytes
    signature: bytes
    key_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDirective:
    """A link of a gateway's chain; ``signature`` and ``key_id`` are empty until it is signed."""

    gateway_id: GatewayId
    version: int
    body: bytes
    body_hash: bytes
    signature: bytes
    key_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A posted batch as its evidence is checked."""

    batch: bytes
    batch_hash: bytes
    beyond_micros: int
    proven: bool
    receipt: ReceiptContent
    #: What accounts paid, or owe, of what it billed on the floor; micros.
    floor: Mapping[AccountId, int]
    #: Which of its gateway's keys signed it.
    key_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """A batch's detail to be kept: whose claims stand in the batch, and its leaves as uploaded (zlib of CBOR)."""

    authorizations: tuple[AuthorizationId, ...]
    leaves: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailedBatch:
    """A posted batch with the detail that was kept; ``leaves`` is None where none is."""

    incarnation: int
    sequence: int
    batch: Signed
    proven: bool
    leaf_count: int
    leaves: bytes | None
    receipt: Signed | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingBatch:
    """A posted batch as mass corrections read it; ``leaves`` is None where no detail is kept. ``place`` orders them."""

    place: int
    posting_id: int
    gateway_id: GatewayId
    batch: bytes
    leaves: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedBatch:
    """A revoked gateway's batch, parked; ``leaves`` are empty where there are none."""

    incarnation: int
    sequence: int
    batch: Signed
    leaves: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGatewayCase:
    """A gateway's case as stored; ``closed_at`` None while it is open."""

    case_id: int
    case: GatewayCase
    opened_at: Instant
    closed_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRewinding:
    """How far a gateway is in the ledger's present epoch. ``posted_sequence``: of the incarnation of its last receipt."""

    gateway_id: GatewayId
    operator_id: OperatorId
    has_shown: bool
    rewinding: Rewinding | None
    posted_sequence: int

    @property
    def unposted(self) -> Rewinding | None:
        """What it has shown, where batches are missing that it has receipts for; None where none are, or nothing is shown."""
        back = self.rewinding
        return back if back is not None and self.posted_sequence < back.sequence else None

    @property
    def wants_batches(self) -> bool:
        """Whether it may have receipts for batches that are not posted here yet; also of one that was given up: nothing that it has is lost."""
        return not self.has_shown or self.unposted is not None

    @property
    def is_done(self) -> bool:
        """Whether the ledger waits for it no longer."""
        back = self.unposted
        return self.has_shown and (back is None or back.given_up)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cursor:
    """Where a reader of the outbox stands."""

    transaction_id: int = 0
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """A row of the outbox."""

    cursor: Cursor
    kind: str
    key: str
    at: Instant
    value: bytes
    traceparent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What ``verify`` found; ``fault`` is the first one in words, empty when all is well."""

    fault: str
    transfers: int
    accounts: int
    batches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """How far ``verify`` is: which of its steps it is at, from 1, and how many rows it has read one by one in it (0 where the database does it all)."""

    step: int
    steps: int
    what: str
    rows: int = 0


#: Is told how far ``verify`` is.
Tell: TypeAlias = Callable[[Looked], Awaitable[None]]
#: Is told that so many rows more were read.
Read: TypeAlias = Callable[[int], Awaitable[None]]


async def nobody(looked: Looked) -> None:
    """Who is told where nobody waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchWithParked:
    """A posted batch that brought statements which its gateway could not take; ``place`` grows with each posting."""

    place: int
    gateway_id: GatewayId
    incarnation: int
    sequence: int
    posted_at: Instant
    batch: bytes
    #: The incarnation that its gateway is in now: another one has another journal.
    present_incarnation: int


class Transaction(Protocol):
    """One unit of work."""

    async def load(self, touch: Touch) -> View:
        """Lock and return the rows."""

    async def use(
        self, operator_id: OperatorId, currency: Currency, claim: Claimed, postings: Sequence[int] = ()
    ) -> UseHistory:
        """All that was posted for a use; its register is locked, so that no more is added meanwhile.

        ``postings``: those of its batches, where they are known; without them the gateway's batches are searched.
        """

    async def batch_keys(self, gateway_id: GatewayId) -> Sequence[BatchKey]:
        """The batch keys of a gateway whose row is loaded, by number."""

    async def post(self, posting: Posting) -> Posted:
        """Write a posting."""

    async def post_batches(self, postings: AsyncIterable[Posting]) -> Sequence[tuple[Posting, Posted]]:
        """Write the postings of several batches of one gateway, in order, at one moment; the next is asked for while one is written.

        Each is ordinary (``core.several``): no case, no directive, no claim that another gateway raised.
        """

    async def keep_detail(
        self, gateway_id: GatewayId, incarnation: int, sequence: int, detail: Detail, *, now: Instant
    ) -> None:
        """Keep a posted batch's detail; the one kept first wins."""

    async def take_all_books(self) -> Sequence[tuple[OperatorId, Currency]]:
        """Lock all books alone: nobody posts anything until the transaction ends. To be asked first."""

    async def set_epoch(self, epoch: Epoch) -> None:
        """What the ledger may do from now on; all books are locked alone. An epoch that opens makes silence begin anew."""

    async def tail(self, gateway_id: GatewayId, after_version: int) -> Sequence[Tail]:
        """A gateway's directives after a version; its row is locked."""

    # What the store reads too. Work asks its transaction and not the store: a second connection, taken while this one is held, may never
    # come free where as many wait for theirs as the pool has.

    async def epoch(self) -> Epoch:
        """As :meth:`LedgerStore.epoch`."""

    async def rewindings(self) -> Sequence[GatewayRewinding]:
        """As :meth:`LedgerStore.rewindings`."""

    async def overdrawn(self, limit: int) -> Sequence[tuple[OperatorId, Currency, AccountId]]:
        """As :meth:`LedgerStore.overdrawn`."""

    async def directives(self, gateway_id: GatewayId, after_version: int, limit: int) -> Sequence[StoredDirective]:
        """As :meth:`LedgerStore.directives`."""


class LedgerStore(Protocol):
    """Rows of the ledger."""

    async def run(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Do ``work`` in one transaction; again, a bounded number of times, where it collided with another one.

        Raises ``StoreError`` where the store cannot be reached, and whatever ``work`` raises, with nothing written.
        """

    async def epoch(self) -> Epoch:
        """Counts up when the ledger was restored; and what it may do."""

    async def rewindings(self) -> Sequence[GatewayRewinding]:
        """How far each gateway is in the present epoch, by operator and id."""

    async def overdrawn(self, limit: int) -> Sequence[tuple[OperatorId, Currency, AccountId]]:
        """Accounts that hold and have spent more than they have; only while a ledger is restored, or after an outside event."""

    async def chains(self, gateway_id: GatewayId) -> Sequence[Chain]:
        """The batches of each incarnation, the oldest first."""

    async def gateway(self, gateway_id: GatewayId) -> Gateway | None:
        """As committed last."""

    async def chain(self, gateway_id: GatewayId, incarnation: int) -> Chain:
        """As committed last."""

    async def batch(self, gateway_id: GatewayId, incarnation: int, sequence: int) -> StoredBatch | None:
        """A posted batch."""

    async def unproven_before(self, gateway_id: GatewayId, incarnation: int, most: int) -> Sequence[tuple[int, int]]:
        """(incarnation, sequence) of posted batches of incarnations before this one that have leaves and are not proven, the oldest first."""

    async def receipts(self, names: Sequence[tuple[GatewayId, int, int]]) -> Sequence[ReceiptContent]:
        """What the receipts of posted batches (gateway, incarnation, sequence) say, in that order; who was not posted is left out."""

    async def claims_of(self, operator_id: OperatorId, authorization_id: AuthorizationId) -> Sequence[Claimed]:
        """The highest claims of an authorization, one for each gateway that claims it."""

    async def detailed_batches(
        self,
        gateway_id: GatewayId,
        authorization_id: AuthorizationId,
        last: tuple[int, int],
        before: tuple[int, int] | None,
        limit: int,
    ) -> Sequence[DetailedBatch]:
        """Batches whose kept detail is of the authorization, and the batch ``last`` (incarnation, sequence) in any case; the newest first.

        With ``before`` (incarnation, sequence), only earlier ones.
        """

    async def forget_details(self, before: Instant, limit: int) -> int:
        """Forget details kept before an instant, the oldest first; how many there were, at most ``limit``."""

    async def kept_receipt(self, batch_hash: bytes) -> Signed | None:
        """The receipt that was signed for a batch."""

    async def keep_receipts(self, receipts: Sequence[tuple[bytes, Signed]]) -> Sequence[Signed]:
        """Keep the signed receipts of some batches (by their hashes) for ever; of each the one kept first wins and is returned."""

    async def park_fork(self, gateway_id: GatewayId, incarnation: int, sequence: int, batch: Signed, why: str) -> None:
        """Keep a batch that does not fit its chain; the first ``MAX_FORKS`` of a gateway."""

    async def witness(
        self,
        gateway_id: GatewayId,
        incarnation: int,
        *,
        start_id: bytes,
        position: int,
        sealed_sequence: int,
        now: Instant,
    ) -> None:
        """Remember the furthest position that the journal of the present incarnation has shown; not of a gateway that waits."""

    async def contact(self, gateway_id: GatewayId, *, now: Instant) -> None:
        """Remember that a gateway was heard, if it was not heard in the last ``CONTACT_STEP_US``."""

    async def listen(self, *, now: Instant, break_us: int) -> Instant:
        """Say that the ledger listens now; since when it has done so without a break longer than ``break_us``."""

    async def exposures(self, operator_id: str) -> Sequence[tuple[Gateway, int]]:
        """Gateways with what is held for their quotas, micros, by operator, site and id; an empty operator stands for all."""

    async def overdue_quotas(
        self, *, now: Instant, outage_us: int, limit: int
    ) -> Sequence[tuple[GatewayId, tuple[QuotaId, ...]]]:
        """Quotas that silence has ended (``core.silence``), the longest overdue first, by gateway; ``limit`` counts quotas."""

    async def books_of_decision(self, decision_id: str) -> tuple[OperatorId, Currency, GatewayId] | None:
        """Whose decision it is."""

    async def decisions(self, operator_id: OperatorId) -> Sequence[Decision]:
        """Proposed and approved, oldest first."""

    async def gateway_cases(self, operator_id: OperatorId, *, open_only: bool) -> Sequence[StoredGatewayCase]:
        """What people have to look at, oldest first."""

    async def directives(self, gateway_id: GatewayId, after_version: int, limit: int) -> Sequence[StoredDirective]:
        """The next links of a chain, signed or not."""

    async def unsigned(self, limit: int) -> Sequence[StoredDirective]:
        """Links not signed yet, by gateway and version."""

    async def keep_signatures(self, signed: Sequence[StoredDirective]) -> None:
        """The signatures of links; the one kept first wins."""

    async def told(self, operator_id: OperatorId, account_id: AccountId) -> Sequence[GatewayId]:
        """The gateways that know an account, in id order."""

    async def open_quotas(
        self, operator_id: OperatorId, gateway_id: str, account_id: str
    ) -> Sequence[tuple[GatewayId, AccountId, QuotaId]]:
        """Quotas with status open; an empty gateway or account stands for all."""

    async def settled_floors(self, limit: int) -> Sequence[tuple[GatewayId, AccountId]]:
        """Gateways and accounts whose proven spending on the floor waits, and owes nothing any more."""

    async def currency_of(self, operator_id: OperatorId, account_id: AccountId) -> Currency | None:
        """The currency of a payer's account."""

    async def books_of_case(self, case_id: int) -> tuple[OperatorId, Currency] | None:
        """Whose case it is."""

    async def claimed(self, authorization_id: AuthorizationId, gateway_id: GatewayId) -> Claimed | None:
        """The highest claim of an authorization, as committed last."""

    async def account_quotas(self, operator_id: OperatorId, account_id: AccountId) -> Sequence[Quota]:
        """Every quota of an account that is not closed, in id order."""

    async def correction(self, operator_id: OperatorId, correction_id: str) -> tuple[Currency, Correction] | None:
        """What was posted under a correction's id."""

    async def corrections(
        self, operator_id: OperatorId, after_correction_id: str, limit: int
    ) -> Sequence[tuple[Currency, Correction]]:
        """Corrections in the order of posting, without their parts; an unknown id stands before the first."""

    async def plan(self, plan_id: str) -> CorrectionPlan | None:
        """A plan of corrections, with its content."""

    async def plans(self, operator_id: OperatorId) -> Sequence[CorrectionPlan]:
        """Plans, oldest first, without their contents."""

    async def plan_corrections(self, operator_id: OperatorId, plan_id: str) -> Sequence[Correction]:
        """What was posted of a plan, in the order of posting, without parts."""

    async def site_batches(
        self, operator_id: OperatorId, currency: Currency, site_id: SiteId, *, since: Instant, after: int, limit: int
    ) -> Sequence[BillingBatch]:
        """Batches of a site sealed since an instant, without leaves, after a place; an unknown place stands before the first."""

    async def billing_batches(
        self, gateway_id: GatewayId, authorization_ids: Sequence[AuthorizationId], *, after: int, limit: int
    ) -> Sequence[BillingBatch]:
        """A gateway's batches whose kept detail is of any of these, with it, after a place."""

    async def batches_with_parked(
        self, operator_id: OperatorId, gateway_id: str, *, before: int, limit: int
    ) -> Sequence[BatchWithParked]:
        """Batches that brought parked statements, the newest first, from before a place (0: from the newest); an empty gateway stands for all."""

    async def batch_keys(self, gateway_id: GatewayId) -> Sequence[BatchKey]:
        """A gateway's batch keys, the present one and those before it, by number."""

    async def revoked(self, gateway_id: GatewayId) -> bool:
        """Whether it was revoked."""

    async def keep_imported(self, gateway_id: GatewayId, imported: ImportedBatch, *, person: str, now: Instant) -> bool:
        """Park a revoked gateway's batch, once; False where it has ``MAX_IMPORTED`` already."""

    async def imported(self, gateway_id: GatewayId, after: ImportedBatch | None, limit: int) -> Sequence[ImportedBatch]:
        """A gateway's parked batches after one, by incarnation, sequence and hash."""

    async def review(self, review_id: str) -> ImportReview | None:
        """A review of parked batches."""

    async def reviews(self, operator_id: OperatorId) -> Sequence[ImportReview]:
        """Reviews, oldest first."""

    async def closing(self, operator_id: OperatorId, currency: Currency, window: str) -> bytes | None:
        """What closing a window answered; None while it was not closed."""

    async def balances(self, operator_id: OperatorId, path_prefix: str) -> Sequence[tuple[str, Currency, Balances]]:
        """Ledger accounts by path."""

    async def balances_at(
        self, operator_id: OperatorId, path_prefix: str, at: Instant, *, by_business: bool
    ) -> Sequence[tuple[str, Currency, Balances]]:
        """Ledger accounts by path, as the postings dated up to ``at`` left them; those on which nothing stood are not there.

        By the date of posting, or by business date: a batch's is when its gateway sealed it.
        """

    async def transfers(self, operator_id: OperatorId) -> Sequence[Transfer]:
        """All transfers in order; for tests and simulations: a live ledger is listed page by page."""

    async def events(self, after: Cursor, limit: int, kinds: Sequence[str]) -> Sequence[StoredEvent]:
        """Outbox rows after a cursor that no transaction still under way can precede."""

    async def events_passed(self, reader: str, up_to: Cursor, *, now: Instant) -> None:
        """A reader of the outbox has handled everything up to a place, durably: as it says, also where that is further back."""

    async def prune_events(self, readers: Sequence[str], before: Instant, limit: int) -> int:
        """Take away outbox rows from before an instant, from the beginning and at most ``limit``; how many there were.

        None that a reader who ever said how far it is has not passed, and none at all while one of ``readers`` never has.
        """

    async def events_pruned(self) -> Cursor:
        """Up to where the outbox was pruned."""

    async def verify(self, tell: Tell = nobody) -> Verdict:
        """Replay everything and name the first fault; ``tell`` hears how far it is."""
