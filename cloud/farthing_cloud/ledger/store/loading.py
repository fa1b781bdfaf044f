"""Rows of a request, locked in one order, as a view.

One pipeline of sentences: books, gateways, registers, cases, payers, in that order and each by id, so that two transactions wait for
each other but never in a circle.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, QuotaId, SiteId
from farthing_cloud.database import sentence
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.incarnations import MAX_OPEN_CLAIMS
from farthing_cloud.ledger.core.rows import (
    AccountStatus,
    Case,
    CaseKind,
    CaseStatus,
    ClaimKey,
    Demand,
    Payer,
    Payment,
    PostedBatch,
    QuotaRequested,
    RegisterKey,
    SiteClearing,
    Touch,
    View,
)
from farthing_cloud.ledger.store import carried, restoring
from farthing_cloud.ledger.store.arrays import names, numbers, octets
from farthing_cloud.ledger.store.corrections import READ_ACCOUNT_QUOTAS, corrected
from farthing_cloud.ledger.store.imports import reviewed
from farthing_cloud.ledger.store.plans import planned
from farthing_cloud.ledger.store.reading import (
    aside_of,
    balances_of,
    chain_of,
    claimed_of,
    decision_of,
    gateway_of,
    quota_of,
)

_PACKAGE: Final = "farthing_cloud.ledger"


def _sql(name: str) -> bytes:
    return sentence(_PACKAGE, name)


TAKE_BOOKS = _sql("take_books")
TAKE_BOOKS_ALONE = _sql("take_books_alone")
OPEN_BOOKS = _sql("open_books")
TAKE_GATEWAYS = _sql("take_gateways")
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
READ_OPEN_CLAIMS = _sql("read_open_claims")
READ_LIVE_QUOTAS = _sql("read_live_quotas")
READ_DECISION = _sql("read_decision")
READ_DEMAND = _sql("read_demand")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the claims of a request stand: a posting names them by it."""

    #: registers.id of each.
    registers: Mapping[RegisterKey, int] = field(default_factory=dict)
    #: Claims that were there before.
    known: AbstractSet[ClaimKey] = frozenset()


class Loading:
    """What a transaction loads; ``places`` is of the last load."""

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        self._connection = connection
        self._registers: dict[RegisterKey, int] = {}
        self.places = Places()

    async def _with_live_quotas(self, touch: Touch) -> Touch:
        """Name every quota that is not closed. With its gateway's row locked none can be added any more."""
        run = self._connection.execute
        await run(TAKE_BOOKS, {"operator_id": touch.operator_id, "currency": touch.currency})
        gateways = {"gateway_ids": names(touch.gateway_ids)}
        await run(TAKE_GATEWAYS, gateways)
        live = await (await run(READ_LIVE_QUOTAS, gateways)).fetchall()
        return replace(touch, quota_ids=(*touch.quota_ids, *(QuotaId(row[0]) for row in live)))

    async def load(self, touch: Touch) -> View:
        """Lock and return the rows."""
        if touch.incarnations:
            touch = await self._with_live_quotas(touch)
        operator = {"operator_id": touch.operator_id, "currency": touch.currency}
        take_books = TAKE_BOOKS_ALONE if touch.exclusive else TAKE_BOOKS
        named: dict[str, Any] = {
            **operator,
            "account_ids": names(touch.account_ids),
            "quota_ids": names(touch.quota_ids),
            "case_id": touch.case_id,
            "decision_id": touch.decision_id,
            "gateway_ids": names(touch.gateway_ids),
            "open_claims": MAX_OPEN_CLAIMS,
            "paths": names(
                (
                    *map(paths.quota, touch.gateway_ids),
                    *map(paths.payer, touch.account_ids),
                    *map(paths.debt, touch.account_ids),
                    *map(paths.transit, (touch.payback_id,) if touch.payback_id is not None else ()),
                )
            ),
        }
        run = self._connection.execute
        async with self._connection.pipeline():
            books = await run(take_books, operator)
            # After the lock: who stops the ledger holds all of these alone.
            epoch = await run(restoring.READ_EPOCH)
            gateways = await run(TAKE_GATEWAYS, named)
            case = await run(TAKE_CASE, named) if touch.case_id is not None else None
            asides = await run(READ_ASIDES, named) if touch.case_id is not None else None
            if touch.claims:
                self._registers = await self._take_registers(touch)
                claims = self._claims(touch)
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
        known = (
            {claim.key: claim for row in await claimed.fetchall() for claim in (claimed_of(row),)}
            if touch.claims
            else {}
        )
        window = await self._books(await books.fetchone(), take_books, operator)
        chain_row = await chain.fetchone() if chain is not None else None
        posted_row = await posted.fetchone() if posted is not None else None
        asked_row = await asked.fetchone() if asked is not None else None
        payment_row = await payment.fetchone() if payment is not None else None
        wish_row = await wish.fetchone() if wish is not None else None
        decision_row = await decision.fetchone() if decision is not None else None
        self.places = Places(registers=self._registers, known=frozenset(known))
        return View(
            operator_id=touch.operator_id,
            currency=touch.currency,
            window=window,
            epoch=restoring.epoch_of(await epoch.fetchone()),
            gateways={GatewayId(row[0]): gateway_of(row) for row in await gateways.fetchall()},
            balances={row[0]: balances_of(row[1:]) for row in await balances.fetchall()},
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
                QuotaId(row[0]): quota_of(row)
                for cursor in (quotas, account_quotas)
                if cursor is not None
                for row in await cursor.fetchall()
            },
            open_quotas={AccountId(row[0]): row[1] for row in await open_quotas.fetchall()}
            if open_quotas is not None
            else {},
            claimed=known,
            carried_beyond=await carried.beyond(self._connection, known, claims) if touch.claims else {},
            overlaps={
                (AuthorizationId(row[0]), GatewayId(row[1])): AuthorizationId(row[2])
                for row in await overlaps.fetchall()
            }
            if touch.claims
            else {},
            open_cases={(AuthorizationId(row[0]), GatewayId(row[1])): row[2] for row in await open_cases.fetchall()}
            if touch.claims
            else {},
            chain=chain_of(touch.chain[1], chain_row) if touch.chain is not None else None,
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
            decision=decision_of(decision_row) if decision_row is not None else None,
            open_claims=tuple(claimed_of(row) for row in await open_claims.fetchall())
            if open_claims is not None
            else (),
            demand={
                (GatewayId(row[0]), AccountId(row[1])): Demand(micros=row[2], at=Instant(row[3]))
                for row in await demand.fetchall()
            }
            if demand is not None
            else {},
            clearings=await self._clearings(operator, window) if touch.exclusive else (),
            **await corrected(self._connection, touch),
            **await planned(self._connection, touch),
            **await reviewed(self._connection, touch),
        )

    async def _take_registers(self, touch: Touch) -> dict[RegisterKey, int]:
        """Lock the claims' registers, and make those that are not there yet."""
        registers = sorted({register for register, _, _ in touch.claims.values()})
        named = {
            "devices": names(r.device_id for r in registers),
            "registers": names(r.register_id for r in registers),
            "epochs": numbers(r.register_epoch for r in registers),
        }
        rows = await (await self._connection.execute(TAKE_REGISTERS, named)).fetchall()
        if len(rows) < len(registers):
            await self._connection.execute(ADD_REGISTERS, named)
            rows = await (await self._connection.execute(TAKE_REGISTERS, named)).fetchall()
        return {registers[place - 1]: register_id for register_id, place in rows}

    def _claims(self, touch: Touch) -> dict[str, str]:
        registers, froms, tos = zip(*touch.claims.values(), strict=True)
        authorizations, gateways = zip(*touch.claims, strict=True)
        return {
            "authorizations": octets(authorizations),
            "claim_gateways": names(gateways),
            "claim_registers": numbers(map(self._registers.__getitem__, registers)),
            "froms": numbers(froms),
            "tos": numbers(tos),
            "operator_id": touch.operator_id,
        }

    async def _books(self, row: TupleRow | None, take_books: bytes, operator: Mapping[str, str]) -> str:
        if row is None:
            # The first of this operator and currency: there is nothing yet that a lock could have come too late for.
            await self._connection.execute(OPEN_BOOKS, operator)
            row = await (await self._connection.execute(take_books, operator)).fetchone()
            assert row is not None
        window: str = row[0]
        return window

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
            asides=tuple(aside_of(aside) for aside in await asides.fetchall()),
        )

    async def _clearings(self, operator: Mapping[str, str], window: str) -> tuple[SiteClearing, ...]:
        rows = await self._connection.execute(READ_CLEARINGS, {**operator, "window": window})
        return tuple(
            SiteClearing(site_id=SiteId(row[0]), balance_micros=int(row[1]), unproven_micros=int(row[2]))
            for row in await rows.fetchall()
        )
