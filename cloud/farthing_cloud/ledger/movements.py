"""What happened to one payer's account, and what one use was billed: what payers' documents are made of.

Rule 1: an answer is of one state of the ledger, and its places are those of the operator's audit chain, which has no gaps: what was
posted up to a place stays what it was.
Rule 2: what an account had at a place is what it has now, less everything after: the balances are the ledger's own.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg.rows import TupleRow
from typing_extensions import override

from farthing.clock import Instant
from farthing.ids import AUTHORIZATION_ID_SIZE, AccountId, AuthorizationId, GatewayId, OperatorId, parse_bytes, parse_id
from farthing.money import Currency
from farthing.v1 import ledger_pb2, movements_pb2, movements_pb2_grpc
from farthing_cloud.database import Pool, sentence, snapshot
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.movements import (
    BilledPart,
    Billing,
    Change,
    MovementsError,
    Posted,
    billed_parts,
    billings_of,
    change_of,
    payers_share,
)
from farthing_cloud.ledger.core.posting import Cause, Transfer
from farthing_cloud.ledger.core.rows import Aside, Claimed, CorrectedPart
from farthing_cloud.ledger.refusals import Context, malformed, refusals
from farthing_cloud.ledger.store.corrections import READ_ASIDES, find_use
from farthing_cloud.ledger.store.interface import LedgerStore, StoreError
from farthing_cloud.ledger.store.partitions import LAST_PLACE, must_be_here_between
from farthing_cloud.ledger.store.reading import aside_of, transfer_of

_PACKAGE: Final = "farthing_cloud.ledger"
_READ_PAYER_PATHS: Final = sentence(_PACKAGE, "read_payer_paths")
_READ_HEAD_POSITION: Final = sentence(_PACKAGE, "read_head_position")
_READ_POSITION_BEFORE: Final = sentence(_PACKAGE, "read_position_before")
_READ_CHAIN_HEAD: Final = sentence(_PACKAGE, "read_chain_head")
_SUM_MOVEMENTS_AFTER: Final = sentence(_PACKAGE, "sum_movements_after")
_LIST_MOVING_POSTINGS: Final = sentence(_PACKAGE, "list_moving_postings")
_LIST_POSTING_TRANSFERS: Final = sentence(_PACKAGE, "list_posting_transfers")
_READ_BATCH_BYTES: Final = sentence(_PACKAGE, "read_batch_bytes")
_READ_CASE_AUTHORIZATION: Final = sentence(_PACKAGE, "read_case_authorization")
_READ_ASIDE_BATCH: Final = sentence(_PACKAGE, "read_aside_batch")
_READ_POSTED_CORRECTION: Final = sentence(_PACKAGE, "read_posted_correction")
_LIST_CORRECTED_POSITIONS: Final = sentence(_PACKAGE, "list_corrected_positions")
_LIST_USE_CORRECTIONS: Final = sentence(_PACKAGE, "list_use_corrections")
_LIST_POSITIONS: Final = sentence(_PACKAGE, "list_positions")

#: Postings whose transfers are read at once: a batch has some hundred.
POSTINGS_AT_ONCE: Final = 50

Connection = psycopg.AsyncConnection[TupleRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Payer:
    operator_id: str
    account_id: AccountId
    currency: Currency
    payer_id: int
    debt_id: int
    now: Change

    @property
    def named(self) -> Mapping[str, Any]:
        return {"operator_id": self.operator_id, "payer_id": self.payer_id, "debt_id": self.debt_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A posting's row."""

    posting_id: int
    position: int
    kind: str
    subject: str
    posted_at: Instant
    business_at: Instant


class Movements:
    """Reads; writes nothing."""

    def __init__(self, pool: Pool, store: LedgerStore) -> None:
        self._pool = pool
        self._store = store

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        """One state of the ledger; posting goes on meanwhile."""
        try:
            async with self._pool.connection() as connection, snapshot(connection):
                yield connection
        except (psycopg.OperationalError, psycopg_pool.PoolTimeout) as err:
            raise StoreError("the ledger's database is out of reach") from err

    async def of_account(
        self, request: movements_pb2.ListMovementsRequest
    ) -> AsyncIterator[movements_pb2.ListMovementsResponse]:
        """The head, then movements, billings and credits. Raises ``UnknownName`` for an account that is not there."""
        operator_id, account_id = parse_id(request.operator_id), AccountId(parse_id(request.account_id))
        async with self._snapshot() as connection:
            payer = await _payer(connection, operator_id, account_id)
            after, to = await _places(connection, request)
            if request.after_head and await _head_at(connection, operator_id, after) != request.after_head:
                raise LedgerRefusal(
                    f"place {after} of the audit chain of {operator_id} is not what it was: the ledger was restored, or is another one"
                )
            # Balances are reckoned back from now.
            await must_be_here_between(connection, operator_id, after, LAST_PLACE)
            opening = payer.now - await _after(connection, payer, after)
            closing = payer.now - await _after(connection, payer, to)
            yield movements_pb2.ListMovementsResponse(
                head=movements_pb2.MovementsHead(
                    operator_id=operator_id,
                    account_id=account_id,
                    currency=payer.currency,
                    after_position=after,
                    to_position=to,
                    opening=_balances(opening),
                    closing=_balances(closing),
                    to_head=await _head_at(connection, operator_id, to),
                )
            )
            places = {**payer.named, "after": after, "to": to}
            rows = [
                _Row(
                    posting_id=row[0],
                    position=row[1],
                    kind=row[2],
                    subject=row[3],
                    posted_at=Instant(row[4]),
                    business_at=Instant(row[5]),
                )
                for row in await _rows(connection, _LIST_MOVING_POSTINGS, places)
            ]
            seen = opening
            for start in range(0, len(rows), POSTINGS_AT_ONCE):
                page = rows[start : start + POSTINGS_AT_ONCE]
                transfers: dict[int, list[tuple[int, Transfer]]] = {row.posting_id: [] for row in page}
                for row in await _rows(connection, _LIST_POSTING_TRANSFERS, {"posting_ids": list(transfers)}):
                    transfers[row[0]].append((row[1], transfer_of(row[2:])))
                for posting in page:
                    for item, change in await _items(connection, payer, posting, transfers[posting.posting_id]):
                        seen += change
                        yield item
            if seen != closing:
                raise MovementsError(
                    f"account {account_id}: what was posted between {after} and {to} does not lead from balance to balance:"
                    " run 'farthing-admin ledger verify'"
                )

    async def of_use(self, request: movements_pb2.ShowUseRequest) -> movements_pb2.ShowUseResponse:
        """One use. Raises ``UnknownName`` for what nobody claims, ``LedgerRefusal`` where several do."""
        operator_id = OperatorId(parse_id(request.operator_id))
        authorization_id = AuthorizationId(parse_bytes(request.authorization_id, AUTHORIZATION_ID_SIZE))
        claim = await self._claim(operator_id, authorization_id, request.gateway_id)
        gateway = await self._store.gateway(claim.gateway_id)
        assert gateway is not None  # claims are of gateways that are known
        async with self._snapshot() as connection:
            history = await find_use(connection, operator_id, gateway.currency, claim)
            parts = billed_parts(history, claim.key)
            named = {
                "operator_id": operator_id,
                "posting_ids": sorted({part.posting_id for part in parts}),
                "authorization_id": authorization_id,
                "gateway_id": claim.gateway_id,
            }
            places = {row[0]: (row[1], row[2]) for row in await _rows(connection, _LIST_POSITIONS, named)}
            corrections = await _rows(connection, _LIST_USE_CORRECTIONS, named)
        return movements_pb2.ShowUseResponse(
            operator_id=operator_id,
            currency=gateway.currency,
            authorization_id=authorization_id,
            gateway_id=claim.gateway_id,
            device_id=claim.register.device_id,
            register_id=claim.register.register_id,
            register_epoch=claim.register.register_epoch,
            register_from=claim.register_from,
            register_to=claim.register_to,
            final=claim.final,
            claimed_net_micros=claim.net_micros,
            claimed_tax_micros=claim.tax_micros,
            time_zone=gateway.time_zone,
            parts=[_part(part, authorization_id, *places[part.posting_id]) for part in parts],
            corrections=[
                movements_pb2.UseCorrection(
                    correction_id=row[0],
                    kind=row[1],
                    posted_at_us=row[2],
                    net_micros=int(row[3]),
                    tax_micros=int(row[4]),
                    risk_micros=int(row[5]),
                )
                for row in corrections
            ],
        )

    async def _claim(self, operator_id: OperatorId, authorization_id: AuthorizationId, gateway_id: str) -> Claimed:
        claims = [
            claim
            for claim in await self._store.claims_of(operator_id, authorization_id)
            if gateway_id in ("", claim.gateway_id)
        ]
        if not claims:
            raise UnknownName(f"nobody has billed authorization {authorization_id.hex()}")
        if len(claims) > 1:
            raise LedgerRefusal(f"several gateways claim it, say which: {', '.join(c.gateway_id for c in claims)}")
        return claims[0]


async def _rows(connection: Connection, query: bytes, named: Mapping[str, Any]) -> list[TupleRow]:
    return await (await connection.execute(query, named)).fetchall()


async def _one(connection: Connection, query: bytes, named: Mapping[str, Any]) -> Any:
    (row,) = await _rows(connection, query, named)
    return row[0]


async def _payer(connection: Connection, operator_id: str, account_id: AccountId) -> _Payer:
    found = await _rows(connection, _READ_PAYER_PATHS, {"operator_id": operator_id, "account_id": account_id})
    if not found:
        raise UnknownName(f"no account {account_id} of operator {operator_id}")
    currency, payer_id, debt_id, *figures = found[0]
    credits_micros, debits_micros, held_micros, debt_micros = map(int, figures)
    return _Payer(
        operator_id=operator_id,
        account_id=account_id,
        currency=Currency(currency),
        payer_id=payer_id,
        debt_id=debt_id,
        now=Change(
            credits_micros=credits_micros, debits_micros=debits_micros, held_micros=held_micros, debt_micros=debt_micros
        ),
    )


async def _places(connection: Connection, request: movements_pb2.ListMovementsRequest) -> tuple[int, int]:
    """After which place, and up to which."""
    named = {"operator_id": request.operator_id}

    async def before(at_us: int) -> int:
        return int(await _one(connection, _READ_POSITION_BEFORE, {**named, "at_us": at_us}))

    head = int(await _one(connection, _READ_HEAD_POSITION, named))
    after = await before(request.from_us) if request.HasField("from_us") else request.after_position
    to = request.to_position or (await before(request.until_us) if request.until_us else head)
    if to > head:
        raise malformed(f"the audit chain of {request.operator_id} ends at {head}, there is no place {to}")
    return after, max(after, to)


async def _head_at(connection: Connection, operator_id: str, position: int) -> bytes:
    found = await _rows(connection, _READ_CHAIN_HEAD, {"operator_id": operator_id, "position": position})
    return bytes(found[0][0]) if found else b""


async def _after(connection: Connection, payer: _Payer, position: int) -> Change:
    """What was added after a place."""
    paths = {payer.payer_id: f"payer/{payer.account_id}", payer.debt_id: f"debt/{payer.account_id}"}
    total = Change()
    for kind, debit, credit, from_hold, amount in await _rows(
        connection, _SUM_MOVEMENTS_AFTER, {**payer.named, "position": position}
    ):
        total += change_of(
            kind,
            paths.get(debit, ""),
            paths.get(credit, ""),
            int(amount),
            from_hold=from_hold,
            account_id=payer.account_id,
        )
    return total


def _balances(change: Change) -> movements_pb2.PayerBalances:
    return movements_pb2.PayerBalances(
        credits_posted=str(change.credits_micros),
        debits_posted=str(change.debits_micros),
        held=str(change.held_micros),
        debt=str(change.debt_micros),
    )


async def _items(
    connection: Connection, payer: _Payer, row: _Row, transfers: Sequence[tuple[int, Transfer]]
) -> list[tuple[movements_pb2.ListMovementsResponse, Change]]:
    """What one posting is for the account: its transfers, what it billed, what it gave back."""
    mine = (f"payer/{payer.account_id}", f"debt/{payer.account_id}")
    found: list[tuple[movements_pb2.ListMovementsResponse, Change]] = []
    for transfer_id, transfer in transfers:
        if transfer.debit not in mine and transfer.credit not in mine:
            continue
        movement = movements_pb2.Movement(
            position=row.position,
            transfer_id=transfer_id,
            posting_kind=row.kind,
            subject=row.subject,
            kind=transfer.kind.value,
            cause=transfer.cause.value,
            debit_path=transfer.debit,
            credit_path=transfer.credit,
            amount_micros=transfer.amount_micros,
            quota_id=transfer.quota_id or "",
            line=-1 if transfer.line is None else transfer.line,
            posted_at_us=row.posted_at,
            business_at_us=row.business_at,
        )
        change = change_of(
            transfer.kind.value,
            transfer.debit,
            transfer.credit,
            transfer.amount_micros,
            from_hold=transfer.quota_id is not None,
            account_id=payer.account_id,
        )
        found.append((movements_pb2.ListMovementsResponse(movement=movement), change))
    plain = tuple(transfer for _, transfer in transfers)
    billings = billings_of(await _posted(connection, row, plain), payer.account_id)
    found += [(movements_pb2.ListMovementsResponse(billing=_billing(each, row)), Change()) for each in billings]
    if row.kind == "correction":
        credits_ = await _credits(connection, payer, row, plain)
        found += [(movements_pb2.ListMovementsResponse(credit=credit), Change()) for credit in credits_]
    return found


async def _posted(connection: Connection, row: _Row, transfers: tuple[Transfer, ...]) -> Posted:
    """The posting with what it stands on."""
    if row.kind == "batch":
        named = {"batch_hash": bytes.fromhex(row.subject)}
        return Posted(
            position=row.position, transfers=transfers, batch=await _one(connection, _READ_BATCH_BYTES, named)
        )
    if row.kind == "case":
        case = {"case_id": int(row.subject)}
        asides: tuple[Aside, ...] = tuple(map(aside_of, await _rows(connection, READ_ASIDES, case)))
        keys = {(aside.gateway_id, aside.incarnation, aside.sequence) for aside in asides}
        return Posted(
            position=row.position,
            transfers=transfers,
            asides=asides,
            case_authorization_id=await _one(connection, _READ_CASE_AUTHORIZATION, case),
            aside_batches={
                key: await _one(
                    connection,
                    _READ_ASIDE_BATCH,
                    {"gateway_id": key[0], "incarnation": key[1], "sequence": key[2]},
                )
                for key in keys
            },
        )
    return Posted(position=row.position, transfers=transfers)


async def _credits(
    connection: Connection, payer: _Payer, row: _Row, transfers: Sequence[Transfer]
) -> list[movements_pb2.Credit]:
    path = f"payer/{payer.account_id}"
    given = sum(t.amount_micros for t in transfers if t.cause is Cause.REFUND and t.credit == path)
    if given == 0:
        return []
    named = {"operator_id": payer.operator_id, "correction_id": row.subject.rsplit("/", 2)[0]}
    ((correction_id, kind, content),) = await _rows(connection, _READ_POSTED_CORRECTION, named)
    reason = ledger_pb2.CorrectionContent.FromString(content).reason
    found = []
    for position, line, of, net, tax, risk in await _rows(connection, _LIST_CORRECTED_POSITIONS, named):
        part = CorrectedPart(
            posting_id=0,
            line=line,
            authorization_id=AuthorizationId(of),
            gateway_id=GatewayId(""),
            net_micros=net,
            tax_micros=tax,
            risk_micros=risk,
        )
        net_micros, tax_micros = payers_share(part)
        if net_micros + tax_micros == 0:
            continue
        found.append(
            movements_pb2.Credit(
                position=row.position,
                correction_id=correction_id,
                kind=kind,
                reason=reason,
                of=movements_pb2.BillingKey(position=position, line=line, authorization_id=of if line < 0 else b""),
                authorization_id=of,
                net_micros=net_micros,
                tax_micros=tax_micros,
                posted_at_us=row.posted_at,
            )
        )
    if sum(credit.net_micros + credit.tax_micros for credit in found) != given:
        raise MovementsError(
            f"correction {correction_id} gives {given} micros to account {payer.account_id}, and its parts differ"
        )
    return found


def _billing(billing: Billing, row: _Row) -> movements_pb2.Billing:
    key, priced = billing.key, billing.priced
    return movements_pb2.Billing(
        key=movements_pb2.BillingKey(position=key.position, line=key.line, authorization_id=key.authorization_id),
        site_id=billing.site_id,
        gateway_id=priced.gateway_id,
        tariff_id=priced.tariff_id,
        tariff_version=priced.tariff_version,
        tax_rate_ppm=priced.rate_ppm,
        evidence_class=priced.evidence_class,  # type: ignore[arg-type]  # the number of the batch's own enum
        quarter=priced.quarter,
        net_micros=billing.net_micros,
        tax_micros=billing.tax_micros,
        debt_micros=billing.debt_micros,
        posted_at_us=row.posted_at,
        business_at_us=row.business_at,
        authorization_ids=priced.authorization_ids,
    )


def _part(part: BilledPart, authorization_id: bytes, position: int, posted_at_us: int) -> movements_pb2.UsePart:
    priced = part.priced
    return movements_pb2.UsePart(
        key=movements_pb2.BillingKey(
            position=position, line=part.line, authorization_id=authorization_id if part.line < 0 else b""
        ),
        account_id=part.account_id,
        site_id=part.site_id,
        tariff_id=priced.tariff_id,
        tariff_version=priced.tariff_version,
        tax_rate_ppm=priced.rate_ppm,
        evidence_class=priced.evidence_class,  # type: ignore[arg-type]  # the number of the batch's own enum
        quarter=priced.quarter,
        net_micros=part.net_micros,
        tax_micros=part.tax_micros,
        balance_micros=part.balance_micros,
        debt_micros=part.debt_micros,
        risk_micros=part.risk_micros,
        unsplit_micros=part.unsplit_micros,
        proven=part.proven,
        posted_at_us=posted_at_us,
    )


class MovementsServicer(movements_pb2_grpc.MovementsServicer):
    """See ``movements.proto``."""

    def __init__(self, movements: Movements) -> None:
        self._movements = movements

    @override
    async def ListMovements(
        self, request: movements_pb2.ListMovementsRequest, context: Context
    ) -> AsyncIterator[movements_pb2.ListMovementsResponse]:
        """What happened to one account."""
        async with refusals(context):
            async for item in self._movements.of_account(request):
                yield item

    @override
    async def ShowUse(self, request: movements_pb2.ShowUseRequest, context: Context) -> movements_pb2.ShowUseResponse:
        """What one authorization was billed."""
        async with refusals(context):
            return await self._movements.of_use(request)
