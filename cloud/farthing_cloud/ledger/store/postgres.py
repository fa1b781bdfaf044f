"""The ledger in PostgreSQL (READ COMMITTED): rows locked in one order, one call that posts.

``load`` is one pipeline of sentences: books, gateways, registers, cases, payers, in that order and each by id, so that two
transactions wait for each other but never in a circle. What can still collide (a new account with the same name) is
told by PostgreSQL, and the whole unit of work is done again.
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import psycopg
import psycopg_pool
import structlog
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import Currency
from farthing_cloud.database import sentence
from farthing_cloud.ledger import metrics
from farthing_cloud.ledger.ahead import ahead
from farthing_cloud.ledger.core import audit
from farthing_cloud.ledger.core.keys import BatchKey
from farthing_cloud.ledger.core.posting import DirectiveRow, Posting, Transfer
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
    GatewayCaseKind,
    ImportReview,
    Quota,
)
from farthing_cloud.ledger.core.uses import UseHistory
from farthing_cloud.ledger.store import carried, imports, keys, outbox, parked, partitions, plans, restoring
from farthing_cloud.ledger.store.arrays import names, numbers, octets
from farthing_cloud.ledger.store.corrections import (
    LIST_CORRECTIONS,
    READ_ACCOUNT_QUOTAS,
    READ_CORRECTION,
    READ_CORRECTION_PARTS,
    correction_of,
    find_use,
    keep,
)
from farthing_cloud.ledger.store.interface import (
    CONTACT_STEP_US,
    MAX_FORKS,
    MAX_IMPORTED,
    BatchWithParked,
    BillingBatch,
    Cursor,
    Detail,
    DetailedBatch,
    GatewayRewinding,
    ImportedBatch,
    LedgerStore,
    Posted,
    ReceiptContent,
    Signed,
    StoredBatch,
    StoredDirective,
    StoredEvent,
    StoredGatewayCase,
    StoreError,
    Tell,
    Transaction,
    Verdict,
    nobody,
)
from farthing_cloud.ledger.store.loading import Loading, Places
from farthing_cloud.ledger.store.reading import (
    balances_of,
    chain_of,
    claimed_of,
    decision_of,
    directive_of,
    gateway_of,
    quota_of,
    receipt_of,
    transfer_of,
)
from farthing_cloud.ledger.store.verification import verify
from farthing_cloud.ledger.store.writing import Link, arguments, row_arguments, together_arguments

T = TypeVar("T")
Pool = psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]]

#: A collision is rare and passes: the loser of a deadlock wins its next attempt. Five in a row is a bug of ours.
ATTEMPTS: Final = 5
#: What the metric calls each. Locks are taken in one order, so in normal operation there is none of the first two; and of the third
#: only where two make the same new name.
COLLISIONS: Final[Mapping[type[psycopg.Error], str]] = {
    psycopg.errors.DeadlockDetected: "deadlock",
    psycopg.errors.SerializationFailure: "serialization",
    psycopg.errors.UniqueViolation: "unique",
}

_PACKAGE: Final = "farthing_cloud.ledger"
_log = structlog.stdlib.get_logger(__name__)


def _sql(name: str) -> bytes:
    return sentence(_PACKAGE, name)


READ_GATEWAY = _sql("read_gateway")
READ_CLAIMS = _sql("read_claims")
READ_CHAIN = _sql("read_chain")
LIST_SETTLED_FLOORS = _sql("list_settled_floors")
NEXT_CASE_IDS = _sql("next_case_ids")
POST = _sql("post")
POST_ROWS = _sql("post_rows")
POST_REST = _sql("post_rest")
READ_BATCH = _sql("read_batch")
READ_RECEIPTS = _sql("read_receipts")
LIST_UNPROVEN_BEFORE = _sql("list_unproven_before")
KEEP_DETAIL = _sql("keep_detail")
LIST_DETAILS = _sql("list_details")
FORGET_DETAILS = _sql("forget_details")
FIND_CLAIMS = _sql("find_claims")
READ_RECEIPT = _sql("read_receipt")
KEEP_RECEIPTS = _sql("keep_receipts")
PARK_BATCH = _sql("park_batch")
WITNESS = _sql("witness")
CONTACT = _sql("contact")
READ_DECISION_BOOKS = _sql("read_decision_books")
LIST_DECISIONS = _sql("list_decisions")
LIST_GATEWAY_CASES = _sql("list_gateway_cases")
LIST_OVERDUE_QUOTAS = _sql("list_overdue_quotas")
LISTEN = _sql("listen")
LIST_EXPOSURES = _sql("list_exposures")
READ_DIRECTIVES = _sql("read_directives")
READ_UNSIGNED = _sql("read_unsigned")
KEEP_SIGNATURES = _sql("keep_signatures")
READ_TOLD = _sql("read_told")
LIST_OPEN_QUOTAS = _sql("list_open_quotas")
READ_CURRENCY_OF = _sql("read_currency_of")
READ_BOOKS_OF_CASE = _sql("read_books_of_case")
READ_CLOSING = _sql("read_closing")
LIST_BALANCES = _sql("list_balances")
LIST_ALL_TRANSFERS = _sql("list_all_transfers")


# --- one transaction --------------------------------------------------------------------------------------------------


class _PostgresTransaction(Loading):
    async def use(
        self, operator_id: OperatorId, currency: Currency, claim: Claimed, postings: Sequence[int] = ()
    ) -> UseHistory:
        return await find_use(self._connection, operator_id, currency, claim, postings)

    async def post(self, posting: Posting) -> Posted:
        case_ids = await self._case_ids(posting)
        await restoring.make_room(self._connection, posting)
        row = await (await self._connection.execute(POST, arguments(posting, case_ids, self.places))).fetchone()
        assert row is not None
        await keep(self._connection, posting, row[0])
        await plans.keep(self._connection, posting)
        await restoring.keep(self._connection, posting)
        handed_back = [row for row in posting.directives if row.signature]
        if handed_back:
            await self._connection.execute(KEEP_SIGNATURES, _signatures(handed_back))
        await imports.keep(self._connection, posting)
        await keys.keep(self._connection, posting)
        await carried.keep(self._connection, posting)
        return Posted(posting_id=row[0], audit_head=row[1], case_ids=case_ids)

    async def post_batches(self, postings: AsyncIterable[Posting]) -> Sequence[tuple[Posting, Posted]]:
        links: list[Link] = []
        known = set(self.places.known)

        async def encoded(posting: Posting) -> tuple[Posting, dict[str, Any], bytes, bytes]:
            # Thousands of rows: not on the event loop, and while PostgreSQL writes those of the batch before.
            parameters, digest, body = await asyncio.to_thread(_encoded, posting, replace(self.places, known=known))
            known.update(claim.key for claim in posting.claims)
            return posting, parameters, digest, body

        async with aclosing(ahead(postings, encoded)) as ready:
            async for posting, parameters, digest, body in ready:
                row = await (await self._connection.execute(POST_ROWS, parameters)).fetchone()
                assert row is not None
                links.append(Link(posting=posting, posting_id=row[0], digest=digest, body=body))
        if not links:
            return ()
        row = await (await self._connection.execute(POST_REST, together_arguments(links))).fetchone()
        assert row is not None
        return [
            (link.posting, Posted(posting_id=link.posting_id, audit_head=head, case_ids=()))
            for link, head in zip(links, row[0], strict=True)
        ]

    async def keep_detail(
        self, gateway_id: GatewayId, incarnation: int, sequence: int, detail: Detail, *, now: Instant
    ) -> None:
        await self._connection.execute(
            KEEP_DETAIL,
            {
                "gateway_id": gateway_id,
                "incarnation": incarnation,
                "sequence": sequence,
                "kept_at_us": now,
                "authorizations": octets(detail.authorizations),
                "leaves": detail.leaves,
            },
        )

    async def take_all_books(self) -> Sequence[tuple[OperatorId, Currency]]:
        rows = await (await self._connection.execute(restoring.TAKE_ALL_BOOKS)).fetchall()
        return [(OperatorId(row[0]), Currency(row[1])) for row in rows]

    async def set_epoch(self, epoch: Epoch) -> None:
        state = {"epoch": epoch.number, "state": epoch.state.value, "since_us": epoch.since, "why": epoch.why}
        await self._connection.execute(restoring.SET_EPOCH, state)
        await self._connection.execute(restoring.LISTEN_ANEW, {"now_us": epoch.since})

    async def batch_keys(self, gateway_id: GatewayId) -> Sequence[BatchKey]:
        return await keys.of(self._connection, gateway_id)

    async def tail(self, gateway_id: GatewayId, after_version: int) -> Sequence[Tail]:
        return await restoring.tail(self._connection, gateway_id, after_version)

    async def epoch(self) -> Epoch:
        return await restoring.epoch(self._connection)

    async def rewindings(self) -> Sequence[GatewayRewinding]:
        return await restoring.rewindings(self._connection)

    async def overdrawn(self, limit: int) -> Sequence[tuple[OperatorId, Currency, AccountId]]:
        return await restoring.overdrawn(self._connection, limit)

    async def directives(self, gateway_id: GatewayId, after_version: int, limit: int) -> Sequence[StoredDirective]:
        named = {"gateway_id": gateway_id, "after_version": after_version, "limit": limit}
        return [directive_of(row) for row in await (await self._connection.execute(READ_DIRECTIVES, named)).fetchall()]

    async def _case_ids(self, posting: Posting) -> tuple[int, ...]:
        """Ids of new cases first: their events carry them. Rare, so the extra round trip is too."""
        count = sum(case.case_id is None for case in posting.cases)
        fresh: list[int] = []
        if count:
            fresh = [r[0] for r in await (await self._connection.execute(NEXT_CASE_IDS, {"count": count})).fetchall()]
        return tuple(case.case_id if case.case_id is not None else fresh.pop(0) for case in posting.cases)


def _encoded(posting: Posting, places: Places) -> tuple[dict[str, Any], bytes, bytes]:
    """The parameters of its rows, the digest of its transfers, what its link adds to the audit chain."""
    digest = audit.digest(posting.transfers)
    return row_arguments(posting, places), digest, audit.link_body(posting, digest)


def _signatures(rows: Sequence[StoredDirective | DirectiveRow]) -> dict[str, str]:
    return {
        "gateways": names(row.gateway_id for row in rows),
        "versions": numbers(row.version for row in rows),
        "signatures": octets(row.signature for row in rows),
        "key_ids": octets(row.key_id for row in rows),
    }


# --- the store --------------------------------------------------------------------------------------------------------


class PostgresStore:
    """A :class:`LedgerStore` in PostgreSQL; the pool's ``search_path`` is the ledger's schema."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        collision: psycopg.Error | None = None
        for _ in range(ATTEMPTS):
            try:
                async with self._pool.connection() as connection, connection.transaction():
                    return await work(_PostgresTransaction(connection))
            except tuple(COLLISIONS) as err:
                collision = err
                kind = COLLISIONS[type(err)]
                metrics.COLLISIONS.labels(kind).inc()
                _log.warning("collided, and is done again", kind=kind, cause=str(err))
            except psycopg.errors.CheckViolation as err:
                if not partitions.is_missing(err):
                    raise
                raise StoreError("no partition takes the transfers of this posting; nothing was written") from err
            except (psycopg.OperationalError, psycopg_pool.PoolTimeout) as err:
                raise StoreError("the ledger's database is out of reach; nothing was written") from err
        raise StoreError(f"collided {ATTEMPTS} times; nothing was written") from collision

    async def _read(self, reading: Callable[[psycopg.AsyncConnection[TupleRow]], Awaitable[T]]) -> T:
        try:
            async with self._pool.connection() as connection:
                return await reading(connection)
        except (psycopg.OperationalError, psycopg_pool.PoolTimeout) as err:
            raise StoreError("the ledger's database is out of reach") from err

    async def _rows(self, query: bytes, parameters: Mapping[str, Any]) -> list[TupleRow]:
        async def rows(connection: psycopg.AsyncConnection[TupleRow]) -> list[TupleRow]:
            return await (await connection.execute(query, parameters)).fetchall()

        return await self._read(rows)

    async def _row(self, query: bytes, parameters: Mapping[str, Any]) -> TupleRow | None:
        rows = await self._rows(query, parameters)
        return rows[0] if rows else None

    async def _write(self, *sentences: tuple[bytes, Mapping[str, Any]]) -> None:
        try:
            async with self._pool.connection() as connection, connection.transaction():
                for query, parameters in sentences:
                    await connection.execute(query, parameters)
        except (psycopg.OperationalError, psycopg_pool.PoolTimeout) as err:
            raise StoreError("the ledger's database is out of reach; nothing was written") from err

    async def epoch(self) -> Epoch:
        return await self._read(restoring.epoch)

    async def rewindings(self) -> Sequence[GatewayRewinding]:
        return await self._read(restoring.rewindings)

    async def overdrawn(self, limit: int) -> Sequence[tuple[OperatorId, Currency, AccountId]]:
        return await self._read(partial(restoring.overdrawn, limit=limit))

    async def chains(self, gateway_id: GatewayId) -> Sequence[Chain]:
        rows = await self._rows(restoring.LIST_CHAINS, {"gateway_id": gateway_id})
        return [chain_of(row[0], row[1:]) for row in rows]

    async def gateway(self, gateway_id: GatewayId) -> Gateway | None:
        row = await self._row(READ_GATEWAY, {"gateway_id": gateway_id})
        return gateway_of(row) if row is not None else None

    async def chain(self, gateway_id: GatewayId, incarnation: int) -> Chain:
        return chain_of(
            incarnation, await self._row(READ_CHAIN, {"gateway_id": gateway_id, "incarnation": incarnation})
        )

    async def batch(self, gateway_id: GatewayId, incarnation: int, sequence: int) -> StoredBatch | None:
        row = await self._row(READ_BATCH, {"gateway_id": gateway_id, "incarnation": incarnation, "sequence": sequence})
        if row is None:
            return None
        return StoredBatch(
            batch=row[0],
            batch_hash=row[1],
            beyond_micros=row[2],
            proven=row[3],
            receipt=ReceiptContent(
                ledger_epoch=row[4],
                gateway_id=gateway_id,
                incarnation=incarnation,
                sequence=sequence,
                batch_hash=row[1],
                posted_at=Instant(row[5]),
                parked=tuple((line, reason) for line, reason in row[7]),
                audit_head=row[6],
            ),
            floor={AccountId(account_id): micros for account_id, micros in row[8].items()},
            key_id=row[9],
        )

    async def unproven_before(self, gateway_id: GatewayId, incarnation: int, most: int) -> Sequence[tuple[int, int]]:
        named = {"gateway_id": gateway_id, "incarnation": incarnation, "most": most}
        return [(row[0], row[1]) for row in await self._rows(LIST_UNPROVEN_BEFORE, named)]

    async def receipts(self, names: Sequence[tuple[GatewayId, int, int]]) -> Sequence[ReceiptContent]:
        rows = await self._rows(
            READ_RECEIPTS,
            {
                "gateway_ids": [name[0] for name in names],
                "incarnations": [name[1] for name in names],
                "sequences": [name[2] for name in names],
            },
        )
        return [receipt_of(row) for row in rows]

    async def claims_of(self, operator_id: OperatorId, authorization_id: AuthorizationId) -> Sequence[Claimed]:
        rows = await self._rows(FIND_CLAIMS, {"operator_id": operator_id, "authorization_id": authorization_id})
        return [claimed_of(row) for row in rows]

    async def detailed_batches(
        self,
        gateway_id: GatewayId,
        authorization_id: AuthorizationId,
        last: tuple[int, int],
        before: tuple[int, int] | None,
        limit: int,
    ) -> Sequence[DetailedBatch]:
        rows = await self._rows(
            LIST_DETAILS,
            {
                "gateway_id": gateway_id,
                "authorization_id": authorization_id,
                "incarnation": last[0],
                "sequence": last[1],
                "before_incarnation": before[0] if before is not None else None,
                "before_sequence": before[1] if before is not None else None,
                "limit": limit,
            },
        )
        return [
            DetailedBatch(
                incarnation=row[0],
                sequence=row[1],
                batch=Signed(body=row[2], signature=row[3], key_id=row[4]),
                proven=row[5],
                leaf_count=row[6],
                leaves=row[7],
                receipt=Signed(body=row[8], signature=row[9], key_id=row[10]) if row[8] is not None else None,
            )
            for row in rows
        ]

    async def forget_details(self, before: Instant, limit: int) -> int:
        row = await self._row(FORGET_DETAILS, {"before_us": before, "limit": limit})
        assert row is not None
        gone: int = row[0]
        return gone

    async def kept_receipt(self, batch_hash: bytes) -> Signed | None:
        row = await self._row(READ_RECEIPT, {"batch_hash": batch_hash})
        return Signed(body=row[0], signature=row[1], key_id=row[2]) if row is not None else None

    async def keep_receipts(self, receipts: Sequence[tuple[bytes, Signed]]) -> Sequence[Signed]:
        rows = await self._rows(
            KEEP_RECEIPTS,
            {
                "batch_hashes": octets(batch_hash for batch_hash, _ in receipts),
                "receipts": octets(receipt.body for _, receipt in receipts),
                "signatures": octets(receipt.signature for _, receipt in receipts),
                "key_ids": octets(receipt.key_id for _, receipt in receipts),
            },
        )
        kept = {row[0] for row in rows}
        # Where somebody else's was first, it stands.
        return [
            receipt if batch_hash in kept else await self._first_kept(batch_hash) for batch_hash, receipt in receipts
        ]

    async def _first_kept(self, batch_hash: bytes) -> Signed:
        kept = await self.kept_receipt(batch_hash)
        assert kept is not None
        return kept

    async def park_fork(self, gateway_id: GatewayId, incarnation: int, sequence: int, batch: Signed, why: str) -> None:
        parked = {
            "batch_hash": audit.next_head(b"", batch.body),
            "gateway_id": gateway_id,
            "incarnation": incarnation,
            "sequence": sequence,
            "batch": batch.body,
            "signature": batch.signature,
            "key_id": batch.key_id,
            "reason": why,
            "most": MAX_FORKS,
        }
        await self._write((PARK_BATCH, parked))

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
        heard = {
            "gateway_id": gateway_id,
            "incarnation": incarnation,
            "start_id": start_id,
            "position": position,
            "sealed_sequence": sealed_sequence,
            "contact_at_us": now,
        }
        await self._write((WITNESS, heard))

    async def contact(self, gateway_id: GatewayId, *, now: Instant) -> None:
        await self._write((CONTACT, {"gateway_id": gateway_id, "contact_at_us": now, "step_us": CONTACT_STEP_US}))

    async def listen(self, *, now: Instant, break_us: int) -> Instant:
        row = await self._row(LISTEN, {"now_us": now, "break_us": break_us})
        assert row is not None
        return Instant(row[0])

    async def exposures(self, operator_id: str) -> Sequence[tuple[Gateway, int]]:
        rows = await self._rows(LIST_EXPOSURES, {"operator_id": operator_id})
        return [(gateway_of(row), int(row[26])) for row in rows]

    async def overdue_quotas(
        self, *, now: Instant, outage_us: int, limit: int
    ) -> Sequence[tuple[GatewayId, tuple[QuotaId, ...]]]:
        rows = await self._rows(LIST_OVERDUE_QUOTAS, {"now_us": now, "outage_us": outage_us, "limit": limit})
        overdue: dict[GatewayId, list[QuotaId]] = {}
        for row in rows:
            overdue.setdefault(GatewayId(row[0]), []).append(QuotaId(row[1]))
        return [(gateway_id, tuple(quota_ids)) for gateway_id, quota_ids in overdue.items()]

    async def books_of_decision(self, decision_id: str) -> tuple[OperatorId, Currency, GatewayId] | None:
        row = await self._row(READ_DECISION_BOOKS, {"decision_id": decision_id})
        return (OperatorId(row[0]), Currency(row[1]), GatewayId(row[2])) if row is not None else None

    async def decisions(self, operator_id: OperatorId) -> Sequence[Decision]:
        return [decision_of(row) for row in await self._rows(LIST_DECISIONS, {"operator_id": operator_id})]

    async def gateway_cases(self, operator_id: OperatorId, *, open_only: bool) -> Sequence[StoredGatewayCase]:
        rows = await self._rows(LIST_GATEWAY_CASES, {"operator_id": operator_id, "open_only": open_only})
        return [
            StoredGatewayCase(
                case_id=row[0],
                case=GatewayCase(
                    gateway_id=GatewayId(row[1]),
                    incarnation=row[2],
                    kind=GatewayCaseKind(row[3]),
                    detail=row[4],
                ),
                opened_at=Instant(row[6]),
                closed_at=Instant(row[7]) if row[5] == "closed" else None,
            )
            for row in rows
        ]

    async def directives(self, gateway_id: GatewayId, after_version: int, limit: int) -> Sequence[StoredDirective]:
        rows = await self._rows(
            READ_DIRECTIVES, {"gateway_id": gateway_id, "after_version": after_version, "limit": limit}
        )
        return [directive_of(row) for row in rows]

    async def unsigned(self, limit: int) -> Sequence[StoredDirective]:
        return [directive_of(row) for row in await self._rows(READ_UNSIGNED, {"limit": limit})]

    async def keep_signatures(self, signed: Sequence[StoredDirective]) -> None:
        await self._write((KEEP_SIGNATURES, _signatures(signed)))

    async def told(self, operator_id: OperatorId, account_id: AccountId) -> Sequence[GatewayId]:
        rows = await self._rows(READ_TOLD, {"operator_id": operator_id, "account_id": account_id})
        return [GatewayId(row[0]) for row in rows]

    async def open_quotas(
        self, operator_id: OperatorId, gateway_id: str, account_id: str
    ) -> Sequence[tuple[GatewayId, AccountId, QuotaId]]:
        rows = await self._rows(
            LIST_OPEN_QUOTAS, {"operator_id": operator_id, "gateway_id": gateway_id, "account_id": account_id}
        )
        return [(GatewayId(row[0]), AccountId(row[1]), QuotaId(row[2])) for row in rows]

    async def settled_floors(self, limit: int) -> Sequence[tuple[GatewayId, AccountId]]:
        rows = await self._rows(LIST_SETTLED_FLOORS, {"limit": limit})
        return [(GatewayId(row[0]), AccountId(row[1])) for row in rows]

    async def currency_of(self, operator_id: OperatorId, account_id: AccountId) -> Currency | None:
        row = await self._row(READ_CURRENCY_OF, {"operator_id": operator_id, "account_id": account_id})
        return Currency(row[0]) if row is not None else None

    async def books_of_case(self, case_id: int) -> tuple[OperatorId, Currency] | None:
        row = await self._row(READ_BOOKS_OF_CASE, {"case_id": case_id})
        return (OperatorId(row[0]), Currency(row[1])) if row is not None else None

    async def claimed(self, authorization_id: AuthorizationId, gateway_id: GatewayId) -> Claimed | None:
        named = {"authorizations": octets((authorization_id,)), "claim_gateways": names((gateway_id,))}
        row = await self._row(READ_CLAIMS, named)
        return claimed_of(row) if row is not None else None

    async def batch_keys(self, gateway_id: GatewayId) -> Sequence[BatchKey]:
        return [keys.key_of(row) for row in await self._rows(keys.LIST_BATCH_KEYS, {"gateway_id": gateway_id})]

    async def revoked(self, gateway_id: GatewayId) -> bool:
        return await self._row(imports.READ_REVOCATION, {"gateway_id": gateway_id}) is not None

    async def keep_imported(self, gateway_id: GatewayId, imported: ImportedBatch, *, person: str, now: Instant) -> bool:
        named = {
            "gateway_id": gateway_id,
            "incarnation": imported.incarnation,
            "sequence": imported.sequence,
            "batch": imported.batch.body,
            "signature": imported.batch.signature,
            "key_id": imported.batch.key_id,
            "leaves": imported.leaves,
            "person": person,
            "at_us": now,
            "most": MAX_IMPORTED,
        }
        await self._write((imports.KEEP_IMPORTED, named))
        row = await self._row(imports.HAS_IMPORTED, named)
        return row is not None and bool(row[0])

    async def imported(self, gateway_id: GatewayId, after: ImportedBatch | None, limit: int) -> Sequence[ImportedBatch]:
        named = {
            "gateway_id": gateway_id,
            "incarnation": after.incarnation if after is not None else 0,
            "sequence": after.sequence if after is not None else 0,
            "batch_hash": audit.next_head(b"", after.batch.body) if after is not None else b"",
            "limit": limit,
        }
        return [imports.imported_of(row) for row in await self._rows(imports.LIST_IMPORTED, named)]

    async def review(self, review_id: str) -> ImportReview | None:
        row = await self._row(imports.READ_REVIEW, {"review_id": review_id})
        return imports.review_of(row) if row is not None else None

    async def reviews(self, operator_id: OperatorId) -> Sequence[ImportReview]:
        rows = await self._rows(imports.LIST_REVIEWS, {"operator_id": operator_id})
        return [imports.review_of(row) for row in rows]

    async def plan(self, plan_id: str) -> CorrectionPlan | None:
        row = await self._row(plans.READ_PLAN, {"plan_id": plan_id})
        return plans.plan_of(row) if row is not None else None

    async def plans(self, operator_id: OperatorId) -> Sequence[CorrectionPlan]:
        return [plans.plan_of(row) for row in await self._rows(plans.LIST_PLANS, {"operator_id": operator_id})]

    async def plan_corrections(self, operator_id: OperatorId, plan_id: str) -> Sequence[Correction]:
        named = {"operator_id": operator_id, "plan_id": plan_id}
        return [correction_of(row)[1] for row in await self._rows(plans.LIST_PLAN_CORRECTIONS, named)]

    async def site_batches(
        self, operator_id: OperatorId, currency: Currency, site_id: SiteId, *, since: Instant, after: int, limit: int
    ) -> Sequence[BillingBatch]:
        named = {
            "operator_id": operator_id,
            "currency": currency,
            "site_id": site_id,
            "since_us": since,
            "after": after,
            "limit": limit,
        }
        return [plans.billing_batch_of(row) for row in await self._rows(plans.LIST_SITE_BATCHES, named)]

    async def billing_batches(
        self, gateway_id: GatewayId, authorization_ids: Sequence[AuthorizationId], *, after: int, limit: int
    ) -> Sequence[BillingBatch]:
        named = {
            "gateway_id": gateway_id,
            "authorization_ids": octets(authorization_ids),
            "after": after,
            "limit": limit,
        }
        return [plans.billing_batch_of(row) for row in await self._rows(plans.LIST_BILLING_BATCHES, named)]

    async def batches_with_parked(
        self, operator_id: OperatorId, gateway_id: str, *, before: int, limit: int
    ) -> Sequence[BatchWithParked]:
        named = {"operator_id": operator_id, "gateway_id": gateway_id, "before": before, "limit": limit}
        return [parked.batch_of(row) for row in await self._rows(parked.LIST_BATCHES_WITH_PARKED, named)]

    async def account_quotas(self, operator_id: OperatorId, account_id: AccountId) -> Sequence[Quota]:
        named = {"operator_id": operator_id, "account_ids": [account_id]}
        return [quota_of(row) for row in await self._rows(READ_ACCOUNT_QUOTAS, named)]

    async def correction(self, operator_id: OperatorId, correction_id: str) -> tuple[Currency, Correction] | None:
        named = {"operator_id": operator_id, "correction_id": correction_id}
        row = await self._row(READ_CORRECTION, named)
        return correction_of(row, await self._rows(READ_CORRECTION_PARTS, named)) if row is not None else None

    async def corrections(
        self, operator_id: OperatorId, after_correction_id: str, limit: int
    ) -> Sequence[tuple[Currency, Correction]]:
        named = {"operator_id": operator_id, "after": after_correction_id, "limit": limit}
        return [correction_of(row) for row in await self._rows(LIST_CORRECTIONS, named)]

    async def closing(self, operator_id: OperatorId, currency: Currency, window: str) -> bytes | None:
        row = await self._row(READ_CLOSING, {"operator_id": operator_id, "currency": currency, "window": window})
        return row[0] if row is not None else None

    async def balances(self, operator_id: OperatorId, path_prefix: str) -> Sequence[tuple[str, Currency, Balances]]:
        rows = await self._rows(LIST_BALANCES, {"operator_id": operator_id, "path_prefix": path_prefix})
        return [(row[0], Currency(row[1]), balances_of(row[2:])) for row in rows]

    async def balances_at(
        self, operator_id: OperatorId, path_prefix: str, at: Instant, *, by_business: bool
    ) -> Sequence[tuple[str, Currency, Balances]]:
        named = {"operator_id": operator_id, "path_prefix": path_prefix, "at_us": at, "by_business": by_business}
        rows = await self._read(partial(partitions.balances_at, named=named))
        return [(row[0], Currency(row[1]), balances_of(row[2:])) for row in rows]

    async def transfers(self, operator_id: OperatorId) -> Sequence[Transfer]:
        return [transfer_of(row) for row in await self._rows(LIST_ALL_TRANSFERS, {"operator_id": operator_id})]

    async def events(self, after: Cursor, limit: int, kinds: Sequence[str]) -> Sequence[StoredEvent]:
        rows = await self._rows(
            outbox.READ_EVENTS,
            {
                "transaction_id": str(after.transaction_id),
                "sequence": after.sequence,
                "kinds": list(kinds),
                "limit": limit,
            },
        )
        return [
            StoredEvent(
                cursor=Cursor(transaction_id=int(row[0]), sequence=row[1]),
                kind=row[2],
                key=row[3],
                at=Instant(row[4]),
                value=row[5],
                traceparent=row[6],
            )
            for row in rows
        ]

    async def events_passed(self, reader: str, up_to: Cursor, *, now: Instant) -> None:
        await self._write((outbox.PUT_READER, outbox.passed(reader, up_to, now)))

    async def prune_events(self, readers: Sequence[str], before: Instant, limit: int) -> int:
        row = await self._row(outbox.PRUNE, outbox.old(readers, before, limit))
        assert row is not None
        gone: int = row[0]
        return gone

    async def events_pruned(self) -> Cursor:
        row = await self._row(outbox.READ_PRUNED, {})
        return Cursor(transaction_id=int(row[0]), sequence=row[1]) if row is not None else Cursor()

    async def verify(self, tell: Tell = nobody) -> Verdict:
        async with self._pool.connection() as connection:
            return await verify(connection, tell)


def _is_a_store(store: PostgresStore) -> LedgerStore:
    return store  # mypy checks here that the store keeps the interface
