"""Plans of corrections and the batches that they are made from, in PostgreSQL."""

from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import GatewayId, OperatorId
from farthing.money import Currency
from farthing_cloud.database import sentence
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.rows import CorrectionPlan, Touch
from farthing_cloud.ledger.store.interface import BillingBatch

_PACKAGE: Final = "farthing_cloud.ledger"
READ_PLAN: Final = sentence(_PACKAGE, "read_plan")
LIST_PLANS: Final = sentence(_PACKAGE, "list_plans")
LIST_PLAN_CORRECTIONS: Final = sentence(_PACKAGE, "list_plan_corrections")
LIST_SITE_BATCHES: Final = sentence(_PACKAGE, "list_site_batches")
LIST_BILLING_BATCHES: Final = sentence(_PACKAGE, "list_billing_batches")
_TAKE_PLAN: Final = sentence(_PACKAGE, "take_plan")
_KEEP_PLAN: Final = sentence(_PACKAGE, "keep_plan")
_APPROVE_PLAN: Final = sentence(_PACKAGE, "approve_plan")

Connection = psycopg.AsyncConnection[TupleRow]


def plan_of(row: TupleRow) -> CorrectionPlan:
    """A row of ``correction_plans``."""
    return CorrectionPlan(
        plan_id=row[0],
        operator_id=OperatorId(row[1]),
        currency=Currency(row[2]),
        content=row[3],
        content_hash=row[4],
        items=row[5],
        refunds=row[6],
        back_micros=int(row[7]),
        planned_by=row[8],
        planned_at=Instant(row[9]),
        approved_by=row[10] or "",
        approved_at=Instant(row[11]) if row[11] is not None else None,
    )


def billing_batch_of(row: TupleRow) -> BillingBatch:
    """A row of ``list_site_batches`` or ``list_billing_batches``."""
    return BillingBatch(place=row[0], posting_id=row[1], gateway_id=GatewayId(row[2]), batch=row[3], leaves=row[4])


async def planned(connection: Connection, touch: Touch) -> dict[str, Any]:
    """The plan that a request touches, its row locked, as a field of a view."""
    if touch.plan_id is None:
        return {}
    named = {"plan_id": touch.plan_id, "operator_id": touch.operator_id, "currency": touch.currency}
    row = await (await connection.execute(_TAKE_PLAN, named)).fetchone()
    return {"plan": plan_of(row) if row is not None else None}


async def keep(connection: Connection, posting: Posting) -> None:
    """Write what a posting has of plans; nothing for all others."""
    if posting.planned is not None:
        plan = posting.planned
        await connection.execute(
            _KEEP_PLAN,
            {
                "plan_id": plan.plan_id,
                "operator_id": plan.operator_id,
                "currency": plan.currency,
                "content": plan.content,
                "content_hash": plan.content_hash,
                "items": plan.items,
                "refunds": plan.refunds,
                "back_micros": plan.back_micros,
                "planned_by": plan.planned_by,
                "planned_at_us": plan.planned_at,
            },
        )
    if posting.plan_approved is not None:
        plan = posting.plan_approved
        approved = {"plan_id": plan.plan_id, "approved_by": plan.approved_by, "approved_at_us": plan.approved_at}
        await connection.execute(_APPROVE_PLAN, approved)
