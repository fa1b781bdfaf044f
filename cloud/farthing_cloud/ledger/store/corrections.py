"""Corrections and what they look for, in PostgreSQL; in the caller's transaction."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import AuthorizationId, GatewayId, OperatorId, SiteId
from farthing.money import Currency
from farthing_cloud.database import sentence
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.rows import (
    CaseStatus,
    Claimed,
    CorrectedPart,
    Correction,
    CorrectionKind,
    KeptSplit,
    Touch,
)
from farthing_cloud.ledger.core.uses import UseBatch, UseCase, UseHistory
from farthing_cloud.ledger.store.partitions import must_be_here
from farthing_cloud.ledger.store.reading import aside_of, transfer_of

_PACKAGE: Final = "farthing_cloud.ledger"
READ_CORRECTION: Final = sentence(_PACKAGE, "read_correction")
READ_CORRECTION_PARTS: Final = sentence(_PACKAGE, "read_correction_parts")
READ_DISPUTE_END: Final = sentence(_PACKAGE, "read_dispute_end")
READ_PAYBACK_SAID: Final = sentence(_PACKAGE, "read_payback_said")
SUM_TAKEN_BACK: Final = sentence(_PACKAGE, "sum_taken_back")
LIST_CORRECTIONS: Final = sentence(_PACKAGE, "list_corrections")
READ_ACCOUNT_QUOTAS: Final = sentence(_PACKAGE, "read_account_quotas")
_KEEP_CORRECTION: Final = sentence(_PACKAGE, "keep_correction")
_KEEP_CORRECTION_PARTS: Final = sentence(_PACKAGE, "keep_correction_parts")
_KEEP_CLOSED_SPLITS: Final = sentence(_PACKAGE, "keep_closed_splits")
_FORGET_FLOORS: Final = sentence(_PACKAGE, "forget_floors")
_READ_USE_CASES: Final = sentence(_PACKAGE, "read_use_cases")
_READ_USE_BATCHES: Final = sentence(_PACKAGE, "read_use_batches")
_READ_USE_TRANSFERS: Final = sentence(_PACKAGE, "read_use_transfers")
_READ_USE_CORRECTIONS: Final = sentence(_PACKAGE, "read_use_corrections")
_READ_CLOSED_SPLITS: Final = sentence(_PACKAGE, "read_closed_splits")
READ_ASIDES: Final = sentence(_PACKAGE, "read_asides")

Connection = psycopg.AsyncConnection[TupleRow]


def correction_of(row: TupleRow, parts: Sequence[TupleRow] = ()) -> tuple[Currency, Correction]:
    """A row of ``corrections`` with its parts."""
    return Currency(row[11]), Correction(
        correction_id=row[0],
        kind=CorrectionKind(row[1]),
        account_id=row[2],
        authorization_id=row[3],
        gateway_id=row[4],
        payment_id=row[5],
        dispute_id=row[6],
        amount_micros=int(row[7]),
        content=row[8],
        person=row[9],
        at=Instant(row[10]),
        parts=tuple(_part(part) for part in parts),
        plan_id=row[12],
        payback_id=row[13],
    )


def _part(row: TupleRow) -> CorrectedPart:
    return CorrectedPart(
        posting_id=row[0],
        line=row[1],
        authorization_id=AuthorizationId(row[2]),
        gateway_id=GatewayId(row[3]),
        net_micros=row[4],
        tax_micros=row[5],
        risk_micros=row[6],
        set_aside=tuple((path, micros) for path, micros in row[7]),
    )


async def find_correction(
    connection: Connection, operator_id: OperatorId, correction_id: str | None
) -> tuple[Currency, Correction] | None:
    """What was posted under an id."""
    if correction_id is None:
        return None
    named = {"operator_id": operator_id, "correction_id": correction_id}
    row = await (await connection.execute(READ_CORRECTION, named)).fetchone()
    if row is None:
        return None
    return correction_of(row, await (await connection.execute(READ_CORRECTION_PARTS, named)).fetchall())


async def corrected(connection: Connection, touch: Touch) -> dict[str, Any]:
    """The fields of a view that corrections need, by name; the caller holds the rows' locks."""
    if touch.correction_id is None:
        return {}
    before = await find_correction(connection, touch.operator_id, touch.correction_id)
    dispute = await find_correction(connection, touch.operator_id, touch.dispute_id)
    named = {
        "operator_id": touch.operator_id,
        "currency": touch.currency,
        "dispute_id": touch.dispute_id or "",
        "payment_id": touch.payment_id or "",
    }
    ended = await (await connection.execute(READ_DISPUTE_END, named)).fetchone()
    said = (
        await (await connection.execute(READ_PAYBACK_SAID, {**named, "payback_id": touch.payback_id or ""})).fetchall()
        if touch.payback_id is not None
        else []
    )
    payback = await find_correction(connection, touch.operator_id, touch.payback_id)
    taken_back = await (await connection.execute(SUM_TAKEN_BACK, named)).fetchone()
    assert taken_back is not None
    return {
        "correction": before[1] if before is not None else None,
        "dispute": dispute[1] if dispute is not None else None,
        "dispute_ended": correction_of(ended)[1] if ended is not None else None,
        "taken_back_micros": int(taken_back[0]),
        "payback": payback[1] if payback is not None else None,
        "payback_said": tuple(correction_of(row)[1] for row in said),
    }


async def keep(connection: Connection, posting: Posting, posting_id: int) -> None:
    """Write what a posting has of corrections; nothing for all others."""
    if posting.correction is not None:
        await _keep_correction(connection, posting, posting.correction, posting_id)
    if posting.floors_forgotten:
        forgotten = {"operator_id": posting.operator_id, "account_ids": list(posting.floors_forgotten)}
        await connection.execute(_FORGET_FLOORS, forgotten)
    if posting.window_closed is not None and posting.window_closed.splits:
        splits = [
            {
                "site_id": split.site_id,
                "rule_version": split.rule_version,
                "parts": split.parts,
                "remainder_path": split.remainder_path,
            }
            for split in posting.window_closed.splits
        ]
        await connection.execute(
            _KEEP_CLOSED_SPLITS,
            {
                "operator_id": posting.operator_id,
                "currency": posting.currency,
                "closed": posting.window_closed.window,
                "splits": json.dumps(splits),
            },
        )


async def _keep_correction(connection: Connection, posting: Posting, correction: Correction, posting_id: int) -> None:
    named: Mapping[str, Any] = {
        "operator_id": posting.operator_id,
        "correction_id": correction.correction_id,
        "currency": posting.currency,
        "kind": correction.kind.value,
        "account_id": correction.account_id,
        "authorization_id": correction.authorization_id,
        "gateway_id": correction.gateway_id,
        "payment_id": correction.payment_id,
        "dispute_id": correction.dispute_id,
        "amount_micros": correction.amount_micros,
        "content": correction.content,
        "person": correction.person,
        "at_us": correction.at,
        "posting_id": posting_id,
        "plan_id": correction.plan_id,
        "payback_id": correction.payback_id,
    }
    await connection.execute(_KEEP_CORRECTION, named)
    parts = [
        {
            "place": place,
            "part_posting_id": part.posting_id,
            "line": part.line,
            "authorization_id": "\\x" + part.authorization_id.hex(),
            "gateway_id": part.gateway_id,
            "net_micros": part.net_micros,
            "tax_micros": part.tax_micros,
            "risk_micros": part.risk_micros,
            "set_aside": part.set_aside,
        }
        for place, part in enumerate(correction.parts)
    ]
    await connection.execute(_KEEP_CORRECTION_PARTS, {**named, "parts": json.dumps(parts)})


async def find_use(
    connection: Connection,
    operator_id: OperatorId,
    currency: Currency,
    claim: Claimed,
    postings: Sequence[int] = (),
) -> UseHistory:
    """All that was posted for a use. Reads the gateway's batches: a person asked, nobody waits in a queue behind it.

    With ``postings``, those of its batches, only these are read.
    """
    named: dict[str, Any] = {
        "operator_id": operator_id,
        "currency": currency,
        "authorization_id": claim.authorization_id,
        "gateway_id": claim.gateway_id,
        "carried": json.dumps([{"authorization_id": claim.authorization_id.hex(), "gateway_id": claim.gateway_id}]),
    }

    async def rows(query: bytes, more: Mapping[str, Any]) -> list[TupleRow]:
        return await (await connection.execute(query, {**named, **more})).fetchall()

    cases = await rows(_READ_USE_CASES, {})
    asides = {row[0]: await rows(READ_ASIDES, {"case_id": row[0]}) for row in cases}
    known = {"case_ids": list(asides), "postings": list(postings) or None}
    batches = await rows(_READ_USE_BATCHES, known)
    posting_ids = [row[0] for row in batches] + [row[2] for row in cases if row[2] is not None]
    await must_be_here(connection, posting_ids)
    transfers = await rows(_READ_USE_TRANSFERS, {"posting_ids": posting_ids})
    taken = await rows(_READ_USE_CORRECTIONS, {"posting_ids": posting_ids})
    closings = await rows(_READ_CLOSED_SPLITS, {"after": min(posting_ids, default=0)})
    return UseHistory(
        batches=tuple(
            UseBatch(
                posting_id=row[0],
                key=(GatewayId(row[1]), row[2], row[3]),
                site_id=SiteId(row[4]),
                batch=row[5],
                proven=row[6],
                proven_by=row[7],
                parked=frozenset(row[8]),
                carried=(row[9][0], row[9][1]) if row[9] is not None else None,
            )
            for row in batches
        ),
        cases=tuple(
            UseCase(
                status=CaseStatus(row[1]), asides=tuple(aside_of(aside) for aside in asides[row[0]]), decided_by=row[2]
            )
            for row in cases
        ),
        transfers=tuple((row[0], transfer_of(row[1:])) for row in transfers),
        corrected=tuple((CorrectionKind(row[0]), _part(row[1:])) for row in taken),
        closings=tuple(
            (
                row[0],
                row[1],
                tuple(
                    KeptSplit(
                        site_id=SiteId(site_id),
                        rule_version=version,
                        parts=tuple((path, share) for path, share in parts),
                        remainder_path=remainder,
                    )
                    for site_id, version, parts, remainder in row[2]
                ),
            )
            for row in closings
        ),
    )
