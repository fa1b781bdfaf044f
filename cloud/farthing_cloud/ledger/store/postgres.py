"""The ledger in PostgreSQL (READ COMMITTED): rows locked in one order, one call that posts.

``load`` is one pipeline of sentences: books, gateways, registers, cases, payers, in that order and each by id, so that two
transactions wait for each other but never in a circle. What can still collide (a new account with the same name) is
told by PostgreSQL, and the whole unit of work is done again.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import psycopg
import psycopg_pool
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import Currency
from farthing.v1 import events_pb2
from farthing_cloud.database import sentence
from farthing_cloud.ledger.core import audit, paths
from farthing_cloud.ledger.core.incarnations import MAX_OPEN_CLAIMS
from farthing_cloud.ledger.core.posting import Cause, Posting, Transfer, TransferKind
from farthing_cloud.ledger.core.rows import (
    AccountStatus,
    Aside,
    Balances,
    Case,
    CaseKind,
    CaseStatus,
    Chain,
    Claimed,
    Correction,
    CorrectionPlan,
    Decision,
    DecisionKind,
    Demand,
    Gateway,
    GatewayCase,
    GatewayCaseKind,
    Payer,
    Payment,
    PostedBatch,
    Quota,
    QuotaRequested,
    QuotaStatus,
    RegisterKey,
    SiteClearing,
    Touch,
    View,
)
from farthing_cloud.ledger.core.uses import UseHistory
from farthing_cloud.ledger.store import plans
from farthing_cloud.ledger.store.corrections import (
    LIST_CORRECTIONS,
    READ_ACCOUNT_QUOTAS,
    READ_CORRECTION,
    READ_CORRECTION_PARTS,
    corrected,
    correction_of,
    find_use,
    keep,
)
from farthing_cloud.ledger.store.interface import (
    CONTACT_STEP_US,
    MAX_FORKS,
    BillingBatch,
    Cursor,
    Detail,
    DetailedBatch,
    LedgerStore,
    Posted,
    ReceiptContent,
    Signed,
    StoredBatch,
    StoredDirective,
    StoredEvent,
    StoredGatewayCase,
    StoreError,
    Transaction,
    Verdict,
)
from farthing_cloud.ledger.store.verification import verify

T = TypeVar("T")
Pool = psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]]

#: A collision is rare and passes: the loser of a deadlock wins its next attempt. Five in a row is a bug of ours.
ATTEMPTS: Final = 5

_PACKAGE: Final = "farthing_cloud.ledger"


def _sql(name: str) -> bytes:
    return sentence(_PACKAGE, name)


TAKE_BOOKS = _sql("take_books")
TAKE_BOOKS_ALONE = _sql("take_books_alone")
OPEN_BOOKS = _sql("open_books")
TAKE_GATEWAYS = _sql("take_gateways")
READ_GATEWAY = _sql("read_gateway")
ADD_REGISTERS = _sql("add_registers")
TAKE_REGISTERS = _sql("take_registers")
READ_CLAIMS = _sql("read_claims")
FIND_OVERLAPS = _sql("find_overlaps")
FIND_OPEN_CASES = _sql("find_open_cases")
READ_QUOTAS = _sql("read_quotas")
TAKE_PAYERS = _sql("take_payers")
READ_PAYERS = _sql("read_payers")
COUNT_OPEN_QUOTAS = _sql("count_open_quotas")
READ_CHAIN = _sql("read_chain")
READ_POSTED_BATCH = _sql("read_posted_batch")
READ_QUOTA_REQUEST = _sql("read_quota_request")
READ_PAYMENT = _sql("read_payment")
TAKE_CASE = _sql("take_case")
READ_ASIDES = _sql("read_asides")
READ_WISH = _sql("read_wish")
READ_TOLD_ACCOUNTS = _sql("read_told_accounts")
READ_CLEARINGS = _sql("read_clearings")
READ_FLOORS = _sql("read_floors")
LIST_SETTLED_FLOORS = _sql("list_settled_floors")
NEXT_CASE_IDS = _sql("next_case_ids")
POST = _sql("post")
READ_BATCH = _sql("read_batch")
KEEP_DETAIL = _sql("keep_detail")
LIST_DETAILS = _sql("list_details")
FORGET_DETAILS = _sql("forget_details")
FIND_CLAIMS = _sql("find_claims")
READ_RECEIPT = _sql("read_receipt")
KEEP_RECEIPT = _sql("keep_receipt")
PARK_BATCH = _sql("park_batch")
WITNESS = _sql("witness")
CONTACT = _sql("contact")
READ_OPEN_CLAIMS = _sql("read_open_claims")
READ_LIVE_QUOTAS = _sql("read_live_quotas")
READ_DECISION = _sql("read_decision")
READ_DECISION_BOOKS = _sql("read_decision_books")
LIST_DECISIONS = _sql("list_decisions")
LIST_GATEWAY_CASES = _sql("list_gateway_cases")
LIST_OVERDUE_QUOTAS = _sql("list_overdue_quotas")
READ_DEMAND = _sql("read_demand")
LISTEN = _sql("listen")
LIST_EXPOSURES = _sql("list_exposures")
READ_DIRECTIVES = _sql("read_directives")
READ_UNSIGNED = _sql("read_unsigned")
KEEP_SIGNATURES = _sql("keep_signatures")
READ_EPOCH = _sql("read_epoch")
READ_TOLD = _sql("read_told")
LIST_OPEN_QUOTAS = _sql("list_open_quotas")
READ_CURRENCY_OF = _sql("read_currency_of")
READ_BOOKS_OF_CASE = _sql("read_books_of_case")
READ_CLOSING = _sql("read_closing")
LIST_BALANCES = _sql("list_balances")
LIST_ALL_TRANSFERS = _sql("list_all_transfers")
READ_EVENTS = _sql("read_events")


# --- arrays: PostgreSQL's own text form, which psycopg passes through; its list dumper takes ten times as long --------


def _numbers(values: Iterable[int]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def _flags(values: Iterable[bool]) -> str:
    return "{" + ",".join("t" if value else "f" for value in values) + "}"


def _names(values: Iterable[str]) -> str:
    # Names come from ``parse_id``, paths and enums: none holds a quote, a backslash or a brace; the quotes keep "" and NULL.
    return '{"' + '","'.join(values) + '"}' if (values := list(values)) else "{}"


def _texts(values: Iterable[str]) -> str:
    quoted = [value.replace("\\", "\\\\").replace('"', '\\"') for value in values]
    return '{"' + '","'.join(quoted) + '"}' if quoted else "{}"


def _bytes(values: Iterable[bytes]) -> str:
    encoded = [value.hex() for value in values]
    return '{"\\\\x' + '","\\\\x'.join(encoded) + '"}' if encoded else "{}"


def _hex(value: bytes) -> str:
    return "\\x" + value.hex()


# --- rows -------------------------------------------------------------------------------------------------------------


def _gateway(row: TupleRow) -> Gateway:
    return Gateway(
        gateway_id=GatewayId(row[0]),
        operator_id=OperatorId(row[1]),
        site_id=SiteId(row[2]),
        currency=Currency(row[3]),
        exposure_micros=row[4],
        beyond_micros=int(row[5]),
        floor_micros=row[6],
        incarnation=row[7],
        adopted=row[8],
        quarantined=row[9],
        directive_version=row[10],
        directive_hash=row[11],
        time_zone=row[12],
        batch_key=row[13],
        grant_key=row[14],
        witness_start_id=row[15],
        witness_position=row[16],
        contact_at=Instant(row[17]),
        sealed_sequence=row[18],
        late_micros=int(row[19]),
        waits_because=row[20],
        waits_start_id=row[21],
    )


def _quota(row: TupleRow) -> Quota:
    return Quota(
        quota_id=QuotaId(row[0]),
        gateway_id=GatewayId(row[1]),
        incarnation=row[2],
        account_id=AccountId(row[3]),
        amount_micros=row[4],
        posted_micros=row[5],
        voided_micros=row[6],
        status=QuotaStatus(row[7]),
        spend_until=Instant(row[8]),
        report_until=Instant(row[9]),
        request_counter=row[10],
        in_use_at=Instant(row[11]) if row[11] is not None else None,
    )


def _claimed(row: TupleRow) -> Claimed:
    return Claimed(
        authorization_id=AuthorizationId(row[0]),
        register=RegisterKey(device_id=row[1], register_id=row[2], register_epoch=row[3]),
        register_from=int(row[4]),
        register_to=int(row[5]),
        net_micros=row[6],
        tax_micros=row[7],
        final=row[8],
        aside=row[9],
        gateway_id=GatewayId(row[10]),
        incarnation=row[11],
        sequence=row[12],
        raised_by=GatewayId(row[13]) if row[13] is not None else None,
    )


def _decision(row: TupleRow) -> Decision:
    return Decision(
        decision_id=row[0],
        kind=DecisionKind(row[1]),
        gateway_id=GatewayId(row[2]),
        incarnation=row[3],
        reason=row[4],
        content=row[5],
        content_hash=row[6],
        proposed_by=row[7],
        proposed_at=Instant(row[8]),
        approved_by=row[9],
        approved_at=Instant(row[10]) if row[9] else None,
    )


def _balances(row: TupleRow) -> Balances:
    return Balances(
        debits_pending=int(row[0]), debits_posted=int(row[1]), credits_pending=int(row[2]), credits_posted=int(row[3])
    )


def _directive(row: TupleRow) -> StoredDirective:
    return StoredDirective(
        gateway_id=GatewayId(row[0]),
        version=row[1],
        body=row[2],
        body_hash=row[3],
        signature=row[4],
        key_id=row[5],
    )


# --- one transaction --------------------------------------------------------------------------------------------------


class _PostgresTransaction:
    def __init__(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        self._connection = connection

    async def _with_live_quotas(self, touch: Touch) -> Touch:
        """Name every quota that is not closed. With its gateway's row locked none can be added any more."""
        run = self._connection.execute
        await run(TAKE_BOOKS, {"operator_id": touch.operator_id, "currency": touch.currency})
        gateways = {"gateway_ids": list(touch.gateway_ids)}
        await run(TAKE_GATEWAYS, gateways)
        live = await (await run(READ_LIVE_QUOTAS, gateways)).fetchall()
        return replace(touch, quota_ids=(*touch.quota_ids, *(QuotaId(row[0]) for row in live)))

    async def load(self, touch: Touch) -> View:
        if touch.incarnations:
            touch = await self._with_live_quotas(touch)
        operator = {"operator_id": touch.operator_id, "currency": touch.currency}
        take_books = TAKE_BOOKS_ALONE if touch.exclusive else TAKE_BOOKS
        registers = sorted({register for register, _, _ in touch.claims.values()})
        claims: dict[str, Any] = {
            "devices": _names(r.device_id for r in registers),
            "registers": _names(r.register_id for r in registers),
            "epochs": _numbers(r.register_epoch for r in registers),
            "authorizations": _bytes(authorization_id for authorization_id, _ in touch.claims),
            "claim_gateways": _names(gateway_id for _, gateway_id in touch.claims),
            "claim_devices": _names(r.device_id for r, _, _ in touch.claims.values()),
            "claim_registers": _names(r.register_id for r, _, _ in touch.claims.values()),
            "claim_epochs": _numbers(r.register_epoch for r, _, _ in touch.claims.values()),
            "froms": _numbers(start for _, start, _ in touch.claims.values()),
            "tos": _numbers(end for _, _, end in touch.claims.values()),
            "operator_id": touch.operator_id,
        }
        named: dict[str, Any] = {
            **operator,
            "account_ids": list(touch.account_ids),
            "quota_ids": list(touch.quota_ids),
            "case_id": touch.case_id,
            "decision_id": touch.decision_id,
            "gateway_ids": list(touch.gateway_ids),
            "open_claims": MAX_OPEN_CLAIMS,
            "paths": [
                *(paths.quota(gateway_id) for gateway_id in touch.gateway_ids),
                *(path(account_id) for account_id in touch.account_ids for path in (paths.payer, paths.debt)),
            ],
        }
        run = self._connection.execute
        async with self._connection.pipeline():
            books = await run(take_books, operator)
            gateways = await run(TAKE_GATEWAYS, {"gateway_ids": list(touch.gateway_ids)})
            case = await run(TAKE_CASE, named) if touch.case_id is not None else None
            asides = await run(READ_ASIDES, named) if touch.case_id is not None else None
            if touch.claims:
                await run(ADD_REGISTERS, claims)
                await run(TAKE_REGISTERS, claims)
                claimed = await run(READ_CLAIMS, claims)
                overlaps = await run(FIND_OVERLAPS, claims)
                open_cases = await run(FIND_OPEN_CASES, claims)
            balances = await run(TAKE_PAYERS, named)
            payers = await run(READ_PAYERS, named)
            quotas = await run(READ_QUOTAS, named) if touch.quota_ids else None
            account_quotas = await run(READ_ACCOUNT_QUOTAS, named) if touch.account_quotas else None
            chain = posted = asked = open_quotas = payment = wish = told = floors = decision = open_claims = demand = (
                None
            )
            if touch.chain is not None:
                link = dict(zip(("gateway_id", "incarnation", "sequence"), touch.chain, strict=True))
                chain, posted = await run(READ_CHAIN, link), await run(READ_POSTED_BATCH, link)
            if touch.quota_request is not None:
                request = dict(zip(("gateway_id", "incarnation", "counter"), touch.quota_request, strict=True))
                asked, open_quotas = await run(READ_QUOTA_REQUEST, request), await run(COUNT_OPEN_QUOTAS, named)
            if touch.payment_id is not None:
                payment = await run(READ_PAYMENT, {**operator, "payment_id": touch.payment_id})
            if touch.wish is not None:
                wish = await run(READ_WISH, {"gateway_id": touch.wish[0], "key": touch.wish[1]})
                told = await run(READ_TOLD_ACCOUNTS, {**named, "gateway_id": touch.wish[0]})
            if touch.floors:
                floors = await run(READ_FLOORS, named)
            if touch.decision_id is not None:
                decision = await run(READ_DECISION, named)
            if touch.incarnations:
                open_claims = await run(READ_OPEN_CLAIMS, named)
            if touch.demand:
                demand = await run(READ_DEMAND, named)
        window, epoch = await self._books(await books.fetchone(), take_books, operator)
        chain_row = await chain.fetchone() if chain is not None else None
        posted_row = await posted.fetchone() if posted is not None else None
        asked_row = await asked.fetchone() if asked is not None else None
        payment_row = await payment.fetchone() if payment is not None else None
        wish_row = await wish.fetchone() if wish is not None else None
        decision_row = await decision.fetchone() if decision is not None else None
        return View(
            operator_id=touch.operator_id,
            currency=touch.currency,
            window=window,
            ledger_epoch=epoch,
            gateways={GatewayId(row[0]): _gateway(row) for row in await gateways.fetchall()},
            balances={row[0]: _balances(row[1:]) for row in await balances.fetchall()},
            payers={
                AccountId(row[0]): Payer(
                    account_id=AccountId(row[0]),
                    status=AccountStatus(row[1]),
                    credit_limit_micros=row[2],
                    debt_limit_micros=row[3],
                    preload_micros=row[4],
                )
                for row in await payers.fetchall()
            },
            quotas={
                QuotaId(row[0]): _quota(row)
                for cursor in (quotas, account_quotas)
                if cursor is not None
                for row in await cursor.fetchall()
            },
            open_quotas={AccountId(row[0]): row[1] for row in await open_quotas.fetchall()}
            if open_quotas is not None
            else {},
            claimed={claim.key: claim for row in await claimed.fetchall() for claim in (_claimed(row),)}
            if touch.claims
            else {},
            overlaps={
                (AuthorizationId(row[0]), GatewayId(row[1])): AuthorizationId(row[2])
                for row in await overlaps.fetchall()
            }
            if touch.claims
            else {},
            open_cases={(AuthorizationId(row[0]), GatewayId(row[1])): row[2] for row in await open_cases.fetchall()}
            if touch.claims
            else {},
            chain=_chain(touch.chain[1], chain_row) if touch.chain is not None else None,
            batch=PostedBatch(
                gateway_id=touch.chain[0],
                incarnation=touch.chain[1],
                sequence=touch.chain[2],
                batch_hash=posted_row[0],
                proven=posted_row[1],
            )
            if touch.chain is not None and posted_row is not None
            else None,
            quota_request=QuotaRequested(
                counter=int(asked_row[0]),
                account_id=asked_row[1],
                wanted_micros=asked_row[2],
                answer=asked_row[3],
                quota_id=asked_row[4],
                amount_micros=asked_row[5],
            )
            if asked_row is not None
            else None,
            payment=Payment(
                payment_id=payment_row[0],
                account_id=payment_row[1],
                amount_micros=payment_row[2],
                source=payment_row[3],
            )
            if payment_row is not None
            else None,
            case=await self._case(case, asides),
            wish_version=wish_row[0] if wish_row is not None else None,
            told=frozenset(AccountId(row[0]) for row in await told.fetchall()) if told is not None else frozenset(),
            floors={(GatewayId(row[0]), AccountId(row[1])): row[2] for row in await floors.fetchall()}
            if floors is not None
            else {},
            decision=_decision(decision_row) if decision_row is not None else None,
            open_claims=tuple(_claimed(row) for row in await open_claims.fetchall()) if open_claims is not None else (),
            demand={
                (GatewayId(row[0]), AccountId(row[1])): Demand(micros=row[2], at=Instant(row[3]))
                for row in await demand.fetchall()
            }
            if demand is not None
            else {},
            clearings=await self._clearings(operator, window) if touch.exclusive else (),
            **await corrected(self._connection, touch),
            **await plans.planned(self._connection, touch),
        )

    async def _books(self, row: TupleRow | None, take_books: bytes, operator: Mapping[str, str]) -> tuple[str, int]:
        if row is None:
            # The first of this operator and currency: there is nothing yet that a lock could have come too late for.
            await self._connection.execute(OPEN_BOOKS, operator)
            row = await (await self._connection.execute(take_books, operator)).fetchone()
            assert row is not None
        return row[0], row[1]

    async def _case(
        self, case: psycopg.AsyncCursor[TupleRow] | None, asides: psycopg.AsyncCursor[TupleRow] | None
    ) -> Case | None:
        row = await case.fetchone() if case is not None else None
        if row is None or asides is None:
            return None
        return Case(
            case_id=row[0],
            kind=CaseKind(row[1]),
            status=CaseStatus(row[2]),
            device_id=row[3],
            authorization_id=row[4],
            other_authorization_id=row[5],
            asides=tuple(
                Aside(
                    gateway_id=GatewayId(aside[0]),
                    incarnation=aside[1],
                    sequence=aside[2],
                    line=aside[3],
                    account_id=AccountId(aside[4]),
                    site_id=SiteId(aside[5]),
                    rate_ppm=aside[6],
                    net_micros=aside[7],
                    tax_micros=aside[8],
                )
                for aside in await asides.fetchall()
            ),
        )

    async def _clearings(self, operator: Mapping[str, str], window: str) -> tuple[SiteClearing, ...]:
        rows = await self._connection.execute(READ_CLEARINGS, {**operator, "window": window})
        return tuple(
            SiteClearing(site_id=SiteId(row[0]), balance_micros=int(row[1]), unproven_micros=int(row[2]))
            for row in await rows.fetchall()
        )

    async def use(
        self, operator_id: OperatorId, currency: Currency, claim: Claimed, postings: Sequence[int] = ()
    ) -> UseHistory:
        return await find_use(self._connection, operator_id, currency, claim, postings)

    async def post(self, posting: Posting) -> Posted:
        case_ids = await self._case_ids(posting)
        row = await (await self._connection.execute(POST, arguments(posting, case_ids))).fetchone()
        assert row is not None
        await keep(self._connection, posting, row[0])
        await plans.keep(self._connection, posting)
        return Posted(posting_id=row[0], audit_head=row[1], case_ids=case_ids)

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
                "authorizations": _bytes(detail.authorizations),
                "leaves": detail.leaves,
            },
        )

    async def _case_ids(self, posting: Posting) -> tuple[int, ...]:
        """Ids of new cases first: their events carry them. Rare, so the extra round trip is too."""
        count = sum(case.case_id is None for case in posting.cases)
        fresh: list[int] = []
        if count:
            fresh = [r[0] for r in await (await self._connection.execute(NEXT_CASE_IDS, {"count": count})).fetchall()]
        return tuple(case.case_id if case.case_id is not None else fresh.pop(0) for case in posting.cases)


def _chain(incarnation: int, row: TupleRow | None) -> Chain:
    if row is None:
        return Chain(incarnation=incarnation)
    return Chain(incarnation=incarnation, sequence=row[0], head_hash=row[1], proven_sequence=row[2])


def arguments(posting: Posting, case_ids: Sequence[int]) -> dict[str, Any]:
    """A posting as the parameters of ``post``."""
    changes = posting.changes
    # An index for each path; transfers name accounts by it.
    place = {path: index for index, path in enumerate(changes, 1)}
    transfers = posting.transfers
    digest = audit.digest(transfers)
    claims = [claim for claim in posting.claims if claim.raised_by is None]
    events = [
        event.value if event.case is None else _with_case_id(event.value, case_ids[event.case])
        for event in posting.events
    ]
    return {
        "operator_id": posting.operator_id,
        "currency": posting.currency,
        "kind": posting.kind,
        "subject": audit.subject(posting),
        "posted_at_us": posting.posted_at,
        "business_at_us": posting.business_at,
        "body": audit.link_body(posting, digest),
        "digest": digest,
        "a_path": _names(changes),
        "a_debits_pending": _numbers(change.debits_pending for change in changes.values()),
        "a_debits_posted": _numbers(change.debits_posted for change in changes.values()),
        "a_credits_pending": _numbers(change.credits_pending for change in changes.values()),
        "a_credits_posted": _numbers(change.credits_posted for change in changes.values()),
        "t_kind": _names(t.kind for t in transfers),
        "t_debit": _numbers(place[t.debit] for t in transfers),
        "t_credit": _numbers(place[t.credit] for t in transfers),
        "t_amount": _numbers(t.amount_micros for t in transfers),
        "t_quota": _names(t.quota_id or "" for t in transfers),
        "t_cause": _names(t.cause for t in transfers),
        "t_line": _numbers(-1 if t.line is None else t.line for t in transfers),
        "t_authorization": _bytes(t.authorization_id or b"" for t in transfers),
        "q_id": _names(quota.quota_id for quota in posting.quotas),
        "q_posted": _numbers(quota.posted_micros for quota in posting.quotas),
        "q_voided": _numbers(quota.voided_micros for quota in posting.quotas),
        "q_status": _names(quota.status for quota in posting.quotas),
        "c_authorization": _bytes(claim.authorization_id for claim in claims),
        "c_device": _names(claim.register.device_id for claim in claims),
        "c_register": _names(claim.register.register_id for claim in claims),
        "c_epoch": _numbers(claim.register.register_epoch for claim in claims),
        "c_from": _numbers(claim.register_from for claim in claims),
        "c_to": _numbers(claim.register_to for claim in claims),
        "c_net": _numbers(claim.net_micros for claim in claims),
        "c_tax": _numbers(claim.tax_micros for claim in claims),
        "c_final": _flags(claim.final for claim in claims),
        "c_aside": _flags(claim.aside for claim in claims),
        "c_gateway": claims[0].gateway_id if claims else "",
        "c_incarnation": claims[0].incarnation if claims else 0,
        "c_sequence": claims[0].sequence if claims else 0,
        "e_kind": _names(event.kind for event in posting.events),
        "e_key": _names(event.key for event in posting.events),
        "e_value": _bytes(events),
        "e_traceparent": _texts(event.traceparent for event in posting.events),
        "batch": posting.batch.batch if posting.batch is not None else None,
        "rest": json.dumps(_rest(posting, case_ids)),
    }


def _with_case_id(value: bytes, case_id: int) -> bytes:
    opened = events_pb2.CaseOpened.FromString(value)
    opened.case_id = case_id
    return opened.SerializeToString()


def _rest(posting: Posting, case_ids: Sequence[int]) -> dict[str, Any]:
    """The rows there are few of, by table."""
    rest: dict[str, Any] = {
        "payers": [
            {
                "account_id": payer.account_id,
                "status": payer.status.value,
                "credit_limit_micros": payer.credit_limit_micros,
                "debt_limit_micros": payer.debt_limit_micros,
                "preload_micros": payer.preload_micros,
            }
            for payer in posting.payers
        ],
        "gateways": [
            {
                "gateway_id": gateway.gateway_id,
                "operator_id": gateway.operator_id,
                "site_id": gateway.site_id,
                "currency": gateway.currency,
                "exposure_micros": gateway.exposure_micros,
                "beyond_micros": gateway.beyond_micros,
                "floor_micros": gateway.floor_micros,
                "incarnation": gateway.incarnation,
                "adopted": gateway.adopted,
                "quarantined": gateway.quarantined,
                "directive_version": gateway.directive_version,
                "directive_hash": _hex(gateway.directive_hash),
                "time_zone": gateway.time_zone,
                "batch_key": _hex(gateway.batch_key),
                "grant_key": _hex(gateway.grant_key),
                "witness_start_id": _hex(gateway.witness_start_id),
                "witness_position": gateway.witness_position,
                "contact_at_us": gateway.contact_at,
                "sealed_sequence": gateway.sealed_sequence,
                "late_micros": gateway.late_micros,
                "waits_because": gateway.waits_because,
                "waits_start_id": _hex(gateway.waits_start_id),
            }
            for gateway in posting.gateways
        ],
        "quotas": [
            {
                "quota_id": quota.quota_id,
                "gateway_id": quota.gateway_id,
                "incarnation": quota.incarnation,
                "account_id": quota.account_id,
                "amount_micros": quota.amount_micros,
                "status": quota.status.value,
                "spend_until_us": quota.spend_until,
                "report_until_us": quota.report_until,
                "request_counter": quota.request_counter,
            }
            for quota in posting.quotas_granted
        ],
        "cases": [
            {
                "id": case_id,
                "kind": case.kind.value,
                "site_id": case.asides[0].site_id if case.asides else _site_of(posting),
                "device_id": case.device_id,
                "authorization_id": _hex(case.authorization_id),
                "other_authorization_id": _hex(case.other_authorization_id),
                "missing_micros": case.missing_micros,
                "detail": case.detail,
            }
            for case_id, case in zip(case_ids, posting.cases, strict=True)
            if case.case_id is None
        ],
        "asides": [
            {
                "case_id": case_id,
                "gateway_id": aside.gateway_id,
                "incarnation": aside.incarnation,
                "sequence": aside.sequence,
                "line": aside.line,
                "account_id": aside.account_id,
                "site_id": aside.site_id,
                "rate_ppm": aside.rate_ppm,
                "net_micros": aside.net_micros,
                "tax_micros": aside.tax_micros,
            }
            for case_id, case in zip(case_ids, posting.cases, strict=True)
            for aside in case.asides
        ],
        "directives": [
            {
                "gateway_id": row.gateway_id,
                "version": row.version,
                "previous_hash": _hex(row.previous_hash),
                "body": _hex(row.body),
                "body_hash": _hex(row.body_hash),
                "idempotency_key": row.idempotency_key or None,
            }
            for row in posting.directives
        ],
        "floors": [
            {"gateway_id": gateway_id, "account_id": account_id, "spent_micros": micros}
            for gateway_id, account_id, micros in posting.floors
        ],
        "told": [{"gateway_id": gateway_id, "account_id": account_id} for gateway_id, account_id in posting.told],
        "released": [
            {
                "gateway_id": released.gateway_id,
                "incarnation": released.incarnation,
                "sequence": released.sequence,
                "net_micros": released.net_micros,
            }
            for released in posting.released
        ],
        **_incarnation_rest(posting),
    }
    if posting.chain is not None:
        gateway_id, chain = posting.chain
        rest["chains"] = [
            {
                "gateway_id": gateway_id,
                "incarnation": chain.incarnation,
                "sequence": chain.sequence,
                "head_hash": _hex(chain.head_hash),
                "proven_sequence": chain.proven_sequence,
            }
        ]
    if posting.case_decided is not None:
        decided = posting.case_decided
        rest["decided"] = [{"case_id": decided.case_id, "status": decided.status.value}]
    if posting.quota_request is not None:
        gateway_id, incarnation, answered = posting.quota_request
        rest["requests"] = [
            {
                "gateway_id": gateway_id,
                "incarnation": incarnation,
                "counter": answered.counter,
                "account_id": answered.account_id,
                "wanted_micros": answered.wanted_micros,
                "answer": answered.answer,
                "quota_id": answered.quota_id,
                "amount_micros": answered.amount_micros,
            }
        ]
    if posting.payment is not None:
        payment = posting.payment
        rest["payments"] = [
            {
                "payment_id": payment.payment_id,
                "account_id": payment.account_id,
                "amount_micros": payment.amount_micros,
                "source": payment.source,
            }
        ]
    if posting.window_closed is not None:
        closed = posting.window_closed
        rest["closings"] = [{"closed": closed.window, "next_window": closed.next_window, "answer": _hex(closed.answer)}]
    if posting.proven is not None:
        proven = posting.proven
        rest["proven"] = [
            {"gateway_id": proven.gateway_id, "incarnation": proven.incarnation, "sequence": proven.sequence}
        ]
    if posting.batch is not None:
        added = posting.batch
        rest["batch"] = {
            "batch_hash": _hex(added.batch_hash),
            "gateway_id": added.gateway_id,
            "incarnation": added.incarnation,
            "sequence": added.sequence,
            "site_id": added.site_id,
            "previous_hash": _hex(added.previous_hash),
            "signature": _hex(added.signature),
            "key_id": _hex(added.key_id),
            "start_id": _hex(added.start_id),
            "first_position": added.first_position,
            "last_position": added.last_position,
            "directive_version": added.directive_version,
            "sealed_at_us": added.sealed_at,
            "merkle_root": _hex(added.merkle_root),
            "leaf_count": added.leaf_count,
            "lines": added.lines,
            "claims": added.claims,
            "due_micros": added.due_micros,
            "net_micros": added.net_micros,
            "tax_micros": added.tax_micros,
            "aside_micros": added.aside_micros,
            "parked_micros": added.parked_micros,
            "beyond_micros": added.beyond_micros,
            "proven": added.proven,
            "floor": dict(added.floor),
            "clearing_micros": added.clearing_micros,
            "carried": [
                {
                    "authorization_id": claim.authorization_id.hex(),
                    "gateway_id": claim.gateway_id,
                    "register_to": claim.register_to,
                    "net_micros": claim.net_micros,
                    "tax_micros": claim.tax_micros,
                }
                for claim in added.carried
            ],
        }
        rest["parked"] = [
            {
                "line": parked.line,
                "reason": parked.reason,
                "net_micros": parked.net_micros,
                "tax_micros": parked.tax_micros,
            }
            for parked in added.parked
        ]
    return rest


def _incarnation_rest(posting: Posting) -> dict[str, Any]:
    """Rows of incarnations, silence and demand; only those there are."""
    rest: dict[str, Any] = {
        "carried_claims": [
            {
                "authorization_id": _hex(claim.authorization_id),
                "device_id": claim.register.device_id,
                "register_id": claim.register.register_id,
                "register_epoch": claim.register.register_epoch,
                "register_from": claim.register_from,
                "register_to": claim.register_to,
                "net_micros": claim.net_micros,
                "tax_micros": claim.tax_micros,
                "final": claim.final,
                "aside": claim.aside,
                "gateway_id": claim.gateway_id,
                "incarnation": claim.incarnation,
                "sequence": claim.sequence,
                "raised_by": claim.raised_by,
            }
            for claim in posting.claims
            if claim.raised_by is not None
        ],
        "in_use": [{"quota_id": quota_id, "at_us": at} for quota_id, at in posting.in_use],
        "gateway_cases": [_gateway_case(case) for case in posting.gateway_cases],
        "gateway_cases_closed": [_gateway_case(case) for case in posting.gateway_cases_closed],
        "demand": [
            {"gateway_id": gateway_id, "account_id": account_id, "micros": demand.micros, "at_us": demand.at}
            for gateway_id, account_id, demand in posting.demand
        ],
    }
    if posting.proposed is not None:
        proposed = posting.proposed
        rest["proposed"] = [
            {
                "decision_id": proposed.decision_id,
                "kind": proposed.kind.value,
                "gateway_id": proposed.gateway_id,
                "incarnation": proposed.incarnation,
                "reason": proposed.reason,
                "content": _hex(proposed.content),
                "content_hash": _hex(proposed.content_hash),
                "proposed_by": proposed.proposed_by,
                "proposed_at_us": proposed.proposed_at,
            }
        ]
    if posting.approved is not None:
        approved = posting.approved
        rest["approved"] = [
            {
                "decision_id": approved.decision_id,
                "approved_by": approved.approved_by,
                "approved_at_us": approved.approved_at,
            }
        ]
    return {name: rows for name, rows in rest.items() if rows}


def _gateway_case(case: GatewayCase) -> dict[str, Any]:
    return {
        "gateway_id": case.gateway_id,
        "incarnation": case.incarnation,
        "kind": case.kind.value,
        "detail": case.detail,
    }


def _site_of(posting: Posting) -> str:
    return posting.batch.site_id if posting.batch is not None else ""


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
            except (
                psycopg.errors.DeadlockDetected,
                psycopg.errors.SerializationFailure,
                psycopg.errors.UniqueViolation,
            ) as err:
                collision = err
            except (psycopg.OperationalError, psycopg_pool.PoolTimeout) as err:
                raise StoreError("the ledger's database is out of reach; nothing was written") from err
        raise StoreError(f"collided {ATTEMPTS} times; nothing was written") from collision

    async def _rows(self, query: bytes, parameters: Mapping[str, Any]) -> list[TupleRow]:
        try:
            async with self._pool.connection() as connection:
                return await (await connection.execute(query, parameters)).fetchall()
        except (psycopg.OperationalError, psycopg_pool.PoolTimeout) as err:
            raise StoreError("the ledger's database is out of reach") from err

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

    async def ledger_epoch(self) -> int:
        row = await self._row(READ_EPOCH, {})
        assert row is not None
        epoch: int = row[0]
        return epoch

    async def gateway(self, gateway_id: GatewayId) -> Gateway | None:
        row = await self._row(READ_GATEWAY, {"gateway_id": gateway_id})
        return _gateway(row) if row is not None else None

    async def chain(self, gateway_id: GatewayId, incarnation: int) -> Chain:
        return _chain(incarnation, await self._row(READ_CHAIN, {"gateway_id": gateway_id, "incarnation": incarnation}))

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
        )

    async def claims_of(self, operator_id: OperatorId, authorization_id: AuthorizationId) -> Sequence[Claimed]:
        rows = await self._rows(FIND_CLAIMS, {"operator_id": operator_id, "authorization_id": authorization_id})
        return [_claimed(row) for row in rows]

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

    async def keep_receipt(self, batch_hash: bytes, receipt: Signed) -> Signed:
        row = await self._row(
            KEEP_RECEIPT,
            {
                "batch_hash": batch_hash,
                "receipt": receipt.body,
                "signature": receipt.signature,
                "key_id": receipt.key_id,
            },
        )
        if row is not None:
            return receipt
        # Somebody else's was first: it stands.
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
        return [(_gateway(row), int(row[22])) for row in rows]

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
        return [_decision(row) for row in await self._rows(LIST_DECISIONS, {"operator_id": operator_id})]

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
        return [_directive(row) for row in rows]

    async def unsigned(self, limit: int) -> Sequence[StoredDirective]:
        return [_directive(row) for row in await self._rows(READ_UNSIGNED, {"limit": limit})]

    async def keep_signatures(self, signed: Sequence[StoredDirective]) -> None:
        await self._write(
            (
                KEEP_SIGNATURES,
                {
                    "gateways": _names(row.gateway_id for row in signed),
                    "versions": _numbers(row.version for row in signed),
                    "signatures": _bytes(row.signature for row in signed),
                    "key_ids": _bytes(row.key_id for row in signed),
                },
            )
        )

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
        named = {"authorizations": _bytes((authorization_id,)), "claim_gateways": _names((gateway_id,))}
        row = await self._row(READ_CLAIMS, named)
        return _claimed(row) if row is not None else None

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
            "authorization_ids": _bytes(authorization_ids),
            "after": after,
            "limit": limit,
        }
        return [plans.billing_batch_of(row) for row in await self._rows(plans.LIST_BILLING_BATCHES, named)]

    async def account_quotas(self, operator_id: OperatorId, account_id: AccountId) -> Sequence[Quota]:
        named = {"operator_id": operator_id, "account_ids": [account_id]}
        return [_quota(row) for row in await self._rows(READ_ACCOUNT_QUOTAS, named)]

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
        return [(row[0], Currency(row[1]), _balances(row[2:])) for row in rows]

    async def transfers(self, operator_id: OperatorId) -> Sequence[Transfer]:
        return [
            Transfer(
                TransferKind(row[0]),
                row[1],
                row[2],
                row[3],
                QuotaId(row[4]) if row[4] else None,
                Cause(row[5]),
                row[6],
                row[7],
            )
            for row in await self._rows(LIST_ALL_TRANSFERS, {"operator_id": operator_id})
        ]

    async def events(self, after: Cursor, limit: int, kinds: Sequence[str]) -> Sequence[StoredEvent]:
        rows = await self._rows(
            READ_EVENTS,
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

    async def verify(self) -> Verdict:
        async with self._pool.connection() as connection:
            return await verify(connection)


def _is_a_store(store: PostgresStore) -> LedgerStore:
    return store  # mypy checks here that the store keeps the interface
