"""What people and services may see of the ledger; reading only, each answer from one snapshot."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import psycopg
import psycopg_pool
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.v1 import directive_pb2, ledger_pb2
from farthing_cloud.database import Pool, sentence
from farthing_cloud.ledger.orders import message_of
from farthing_cloud.ledger.store.corrections import correction_of
from farthing_cloud.ledger.store.interface import StoreError
from farthing_cloud.ledger.store.partitions import Connection, balances_at, reconciled

T = TypeVar("T")

_PACKAGE: Final = "farthing_cloud.ledger"
LIST_PAYERS = sentence(_PACKAGE, "list_payers")
LIST_BALANCES = sentence(_PACKAGE, "list_balances")
LIST_TRANSFERS = sentence(_PACKAGE, "list_transfers")
LIST_QUOTAS = sentence(_PACKAGE, "list_quotas")
LIST_BATCHES = sentence(_PACKAGE, "list_batches")
LIST_CLAIMS = sentence(_PACKAGE, "list_claims")
LIST_CASES = sentence(_PACKAGE, "list_cases")
LIST_PAYBACKS = sentence(_PACKAGE, "list_paybacks")

_STATUS: Final = {
    "active": directive_pb2.ACCOUNT_STATUS_ACTIVE,
    "suspended": directive_pb2.ACCOUNT_STATUS_SUSPENDED,
    "closed": directive_pb2.ACCOUNT_STATUS_CLOSED,
}


class Reports:
    """Lists and sums."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def _asked(self, ask: Callable[[Connection, Mapping[str, Any]], Awaitable[T]], named: Mapping[str, Any]) -> T:
        try:
            async with self._pool.connection() as connection:
                return await ask(connection, named)
        except (psycopg.OperationalError, psycopg_pool.PoolTimeout) as err:
            raise StoreError("the ledger's database is out of reach") from err

    async def _rows(self, query: bytes, parameters: Mapping[str, Any]) -> list[TupleRow]:
        async def ask(connection: Connection, named: Mapping[str, Any]) -> list[TupleRow]:
            return await (await connection.execute(query, named)).fetchall()

        return await self._asked(ask, parameters)

    async def payers(
        self, operator_id: str, account_id: str = "", *, after: str = "", limit: int = 1
    ) -> list[ledger_pb2.PayerAccount]:
        """Who pays; one, or a page of an operator's."""
        named = {"operator_id": operator_id, "account_id": account_id, "after_account_id": after, "limit": limit}
        rows = await self._rows(LIST_PAYERS, named)
        return [
            ledger_pb2.PayerAccount(
                operator_id=row[0],
                account_id=row[1],
                currency=row[2],
                status=_STATUS[row[3]],
                credit_limit_micros=row[4],
                debt_limit_micros=row[5],
                preload_micros=row[6],
                funds_micros=row[7],
                posted_micros=row[8],
                held_micros=row[9],
                available_micros=row[10],
                debt_micros=row[11],
            )
            for row in rows
        ]

    async def balances(
        self, operator_id: str, path_prefix: str, *, at_us: int | None = None, by_business: bool = False
    ) -> list[ledger_pb2.Balance]:
        """Ledger accounts by path; now, or as the postings dated up to ``at_us`` left them."""
        named = {"operator_id": operator_id, "path_prefix": path_prefix}
        if at_us is None:
            rows = await self._rows(LIST_BALANCES, named)
        else:
            rows = await self._asked(balances_at, {**named, "at_us": at_us, "by_business": by_business})
        return [
            ledger_pb2.Balance(
                path=row[0],
                currency=row[1],
                debits_pending=str(row[2]),
                debits_posted=str(row[3]),
                credits_pending=str(row[4]),
                credits_posted=str(row[5]),
            )
            for row in rows
        ]

    async def transfers(self, operator_id: str, path: str, after_id: int, limit: int) -> list[ledger_pb2.Transfer]:
        """A page of transfers, of one account or all."""
        rows = await self._rows(
            LIST_TRANSFERS, {"operator_id": operator_id, "path": path, "after_id": after_id, "limit": limit}
        )
        return [
            ledger_pb2.Transfer(
                id=row[0],
                kind=row[1],
                debit_path=row[2],
                credit_path=row[3],
                currency=row[4],
                amount_micros=row[5],
                quota_id=row[6],
                cause=row[7],
                batch=row[8],
                posted_at_us=row[9],
                business_at_us=row[10],
            )
            for row in rows
        ]

    async def quotas(
        self, operator_id: str, gateway_id: str, account_id: str, *, open_only: bool, after: str, limit: int
    ) -> list[ledger_pb2.Quota]:
        """A page of quotas; an empty gateway or account stands for all."""
        rows = await self._rows(
            LIST_QUOTAS,
            {
                "operator_id": operator_id,
                "gateway_id": gateway_id,
                "account_id": account_id,
                "open_only": open_only,
                "after_quota_id": after,
                "limit": limit,
            },
        )
        return [
            ledger_pb2.Quota(
                quota_id=row[0],
                operator_id=row[1],
                gateway_id=row[2],
                account_id=row[3],
                currency=row[4],
                amount_micros=row[5],
                posted_micros=row[6],
                voided_micros=row[7],
                held_micros=row[8],
                spend_until_us=row[9],
                report_until_us=row[10],
                incarnation=row[11],
                status=row[12],
            )
            for row in rows
        ]

    async def batches(
        self, operator_id: str, gateway_id: str, *, parked_only: bool, after: tuple[str, int, int], limit: int
    ) -> list[ledger_pb2.BatchSummary]:
        """A page of posted batches, after (gateway, incarnation, sequence)."""
        named = {
            "operator_id": operator_id,
            "gateway_id": gateway_id,
            "parked_only": parked_only,
            "after_gateway_id": after[0],
            "after_incarnation": after[1],
            "after_sequence": after[2],
            "limit": limit,
        }
        rows = await self._rows(LIST_BATCHES, named)
        return [
            ledger_pb2.BatchSummary(
                gateway_id=row[0],
                incarnation=row[1],
                sequence=row[2],
                hash=row[3],
                sealed_at_us=row[4],
                posted_at_us=row[5],
                lines=row[6],
                claims=row[7],
                leaves=row[8],
                net_micros=row[9],
                tax_micros=row[10],
                proven=row[11],
                parked_lines=row[12],
                parked_micros=row[13],
                parked_reasons=row[14],
            )
            for row in rows
        ]

    async def claims(
        self, operator_id: str, device_id: str, *, after: tuple[bytes, str], limit: int
    ) -> list[ledger_pb2.ClaimSummary]:
        """A page of the highest claims of authorizations, after (authorization, gateway)."""
        named = {
            "operator_id": operator_id,
            "device_id": device_id,
            "after_authorization_id": after[0],
            "after_gateway_id": after[1],
            "limit": limit,
        }
        rows = await self._rows(LIST_CLAIMS, named)
        return [
            ledger_pb2.ClaimSummary(
                authorization_id=row[0],
                gateway_id=row[1],
                device_id=row[2],
                register_id=row[3],
                register_epoch=row[4],
                register_from=int(row[5]),
                register_to=int(row[6]),
                net_micros=row[7],
                tax_micros=row[8],
                final=row[9],
                aside=row[10],
            )
            for row in rows
        ]

    async def cases(self, operator_id: str, *, after: int, limit: int) -> list[ledger_pb2.OverlapCase]:
        """A page of what people decide about, and what became of it. (A case without authorizations is one of exposure.)"""
        named = {"operator_id": operator_id, "after_case_id": after, "limit": limit}
        rows = await self._rows(LIST_CASES, named)
        return [
            ledger_pb2.OverlapCase(
                case_id=row[0],
                authorization_id=row[1],
                other_authorization_id=row[2],
                site_id=row[3],
                device_id=row[4],
                aside_micros=row[5],
                status=row[6],
                kind=row[7],
                detail=row[8],
                missing_micros=row[9],
            )
            for row in rows
        ]

    async def paybacks(self, operator_id: str, *, open_only: bool, after: str, limit: int) -> list[ledger_pb2.Payback]:
        """Paybacks in the order they were posted, from after the one of this id; at most ``limit``."""
        parameters = {"operator_id": operator_id, "open_only": open_only, "after": after, "limit": limit}
        return [
            ledger_pb2.Payback(
                ordered=message_of(*correction_of(row)),
                state=row[14],
                handed_by=row[15],
                handed_at_us=row[16],
                ended_by_correction_id=row[17],
                bank_reference=row[18],
                ended_at_us=row[19],
                approved_by=row[20],
                approved_at_us=row[21],
                content_hash=hashlib.sha256(row[8]).digest(),
            )
            for row in await self._rows(LIST_PAYBACKS, parameters)
        ]

    async def reconcile(self, operator_id: str, *, now: Instant, silent_us: int) -> ledger_pb2.ReconcileResponse:
        """Every sum of an operator, in one statement and so in one snapshot; a gateway not heard for ``silent_us`` is silent."""
        parameters = {"operator_id": operator_id, "now_us": now, "silent_us": silent_us}
        row = await self._asked(reconciled, parameters)
        return ledger_pb2.ReconcileResponse(
            window=row[0],
            claimed_micros=row[1],
            payers_micros=row[2],
            debt_micros=row[3],
            risk_micros=row[4],
            suspense_micros=row[5],
            clearing_micros=row[6],
            agencies_micros=row[7],
            fees_micros=row[8],
            tax_micros=row[9],
            bank_micros=row[10],
            payers_own_micros=row[11],
            overspent_accounts=row[12],
            unproven_batches=row[13],
            unproven_micros=row[14],
            open_quotas=row[15],
            maximum_loss_micros=row[16],
            corrections_micros=row[17],
            transit_micros=row[18],
            parked_micros=row[19],
        )
