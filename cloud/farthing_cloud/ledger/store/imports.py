"""Batches carried by hand and their reviews, in PostgreSQL."""

from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import GatewayId, OperatorId
from farthing.money import Currency
from farthing_cloud.database import sentence
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.rows import ImportReview, Touch
from farthing_cloud.ledger.store.interface import ImportedBatch, Signed

_PACKAGE: Final = "farthing_cloud.ledger"
_REVOKE_GATEWAY: Final = sentence(_PACKAGE, "revoke_gateway")
READ_REVOCATION: Final = sentence(_PACKAGE, "read_revocation")
KEEP_IMPORTED: Final = sentence(_PACKAGE, "keep_imported")
HAS_IMPORTED: Final = sentence(_PACKAGE, "has_imported")
LIST_IMPORTED: Final = sentence(_PACKAGE, "list_imported")
READ_REVIEW: Final = sentence(_PACKAGE, "read_review")
LIST_REVIEWS: Final = sentence(_PACKAGE, "list_reviews")
_TAKE_REVIEW: Final = sentence(_PACKAGE, "take_review")
_KEEP_REVIEW: Final = sentence(_PACKAGE, "keep_review")
_APPROVE_REVIEW: Final = sentence(_PACKAGE, "approve_review")

Connection = psycopg.AsyncConnection[TupleRow]


def review_of(row: TupleRow) -> ImportReview:
    """A row of ``import_reviews``."""
    return ImportReview(
        review_id=row[0],
        operator_id=OperatorId(row[1]),
        currency=Currency(row[2]),
        gateway_id=GatewayId(row[3]),
        content=row[4],
        content_hash=row[5],
        proposed_by=row[6],
        proposed_at=Instant(row[7]),
        approved_by=row[8] or "",
        approved_at=Instant(row[9]) if row[9] is not None else None,
    )


def imported_of(row: TupleRow) -> ImportedBatch:
    """A row of ``list_imported``."""
    signed = Signed(body=row[2], signature=row[3], key_id=row[4])
    return ImportedBatch(incarnation=row[0], sequence=row[1], batch=signed, leaves=row[5])


async def reviewed(connection: Connection, touch: Touch) -> dict[str, Any]:
    """The review that a request touches, its row locked, as a field of a view."""
    if touch.review_id is None:
        return {}
    named = {"review_id": touch.review_id, "operator_id": touch.operator_id, "currency": touch.currency}
    row = await (await connection.execute(_TAKE_REVIEW, named)).fetchone()
    return {"review": review_of(row) if row is not None else None}


async def keep(connection: Connection, posting: Posting) -> None:
    """Write what a posting has of reviews and revocations; nothing for all others."""
    if posting.revoked is not None:
        await connection.execute(_REVOKE_GATEWAY, {"gateway_id": posting.revoked, "at_us": posting.posted_at})
    review = posting.review
    if review is None:
        return
    if review.approved_by:
        await connection.execute(
            _APPROVE_REVIEW,
            {
                "review_id": review.review_id,
                "approved_by": review.approved_by,
                "approved_at_us": review.approved_at,
            },
        )
        return
    await connection.execute(
        _KEEP_REVIEW,
        {
            "review_id": review.review_id,
            "operator_id": review.operator_id,
            "currency": review.currency,
            "gateway_id": review.gateway_id,
            "content": review.content,
            "content_hash": review.content_hash,
            "proposed_by": review.proposed_by,
            "proposed_at_us": review.proposed_at,
        },
    )
