"""The ledger's calls on plans of corrections: made, shown, approved and executed by people."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from typing_extensions import override

from farthing.clock import BusinessClock, Instant
from farthing.ids import OperatorId, SiteId, parse_id
from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.callers import Caller
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.core.plans import Wish
from farthing_cloud.ledger.core.rows import CorrectionPlan
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.refusals import Context, Refused, malformed, refusals

#: A quarter of what one message of gRPC may have.
PART_SIZE: Final = 1024 * 1024
#: A tariff as gateways take it stays below one directive; more versions than this no tariff had at once.
MAX_TARIFF_SIZE: Final = 256 * 1024
MAX_VERSIONS: Final = 100


class PlanServicer(ledger_pb2_grpc.LedgerServicer):
    """Plans of corrections; see ``ledger.proto``."""

    _caller: Callable[[Any], Caller]
    _clock: BusinessClock
    _events: Bell
    _plans: CorrectionPlans

    def _person(self, context: Context) -> str:
        who = self._caller(context)
        if who.kind != "person":
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, "only people decide")
        return who.id

    @override
    async def PlanCorrections(
        self, request: ledger_pb2.PlanCorrectionsRequest, context: Context
    ) -> ledger_pb2.PlanCorrectionsResponse:
        """One person plans what goes back for many uses."""
        async with refusals(context):
            person = self._person(context)
            if len(request.by_ocpi_json) > MAX_TARIFF_SIZE or len(request.tariff_versions) > MAX_VERSIONS:
                raise malformed(f"a tariff has at most {MAX_TARIFF_SIZE} bytes, a plan {MAX_VERSIONS} versions")
            wish = Wish(
                operator_id=OperatorId(parse_id(request.operator_id)),
                site_id=SiteId(parse_id(request.site_id)),
                tariff_id=request.tariff_id,
                tariff_versions=frozenset(request.tariff_versions),
                from_at=Instant(request.from_us),
                to_at=Instant(request.to_us),
                by_ocpi_json=request.by_ocpi_json,
                by_name=request.by_name,
                reason=request.reason,
            )
            plan = await self._plans.make(wish, person=person, now=self._clock.now())
        return ledger_pb2.PlanCorrectionsResponse(plan=_message(plan))

    @override
    async def ListCorrectionPlans(
        self, request: ledger_pb2.ListCorrectionPlansRequest, context: Context
    ) -> ledger_pb2.ListCorrectionPlansResponse:
        """All plans of an operator."""
        async with refusals(context):
            found = await self._plans.of_operator(OperatorId(parse_id(request.operator_id)))
        return ledger_pb2.ListCorrectionPlansResponse(plans=[_message(plan) for plan in found])

    @override
    async def ShowCorrectionPlan(
        self, request: ledger_pb2.ShowCorrectionPlanRequest, context: Context
    ) -> AsyncIterator[ledger_pb2.ShowCorrectionPlanResponse]:
        """A plan, its content byte for byte, and what was posted of it."""
        async with refusals(context):
            plan, done = await self._plans.shown(request.plan_id)
            yield ledger_pb2.ShowCorrectionPlanResponse(plan=_message(plan))
            for start in range(0, len(plan.content), PART_SIZE):
                yield ledger_pb2.ShowCorrectionPlanResponse(content_part=plan.content[start : start + PART_SIZE])
            for correction in done:
                yield ledger_pb2.ShowCorrectionPlanResponse(
                    done=ledger_pb2.CorrectionPlanDone(
                        item=ledger_pb2.CorrectionContent.FromString(correction.content).plan_item,
                        amount_micros=correction.amount_micros,
                        person=correction.person,
                        posted_at_us=correction.at,
                    )
                )

    @override
    async def ApproveCorrectionPlan(
        self, request: ledger_pb2.ApproveCorrectionPlanRequest, context: Context
    ) -> ledger_pb2.ApproveCorrectionPlanResponse:
        """Another person approves exactly what was planned, by its hash."""
        async with refusals(context):
            changed = await self._plans.approve(
                request.plan_id,
                content_hash=request.content_hash,
                person=self._person(context),
                now=self._clock.now(),
            )
        return ledger_pb2.ApproveCorrectionPlanResponse(changed=changed)

    @override
    async def ExecuteCorrectionPlan(
        self, request: ledger_pb2.ExecuteCorrectionPlanRequest, context: Context
    ) -> ledger_pb2.ExecuteCorrectionPlanResponse:
        """Post the next items, a bounded number; what was posted before is passed over."""
        async with refusals(context):
            person = self._person(context)
            done = await self._plans.execute(
                request.plan_id, first_item=request.first_item, person=person, now=self._clock.now()
            )
        if done.posted:
            self._events.ring()
        return ledger_pb2.ExecuteCorrectionPlanResponse(
            next_item=done.next_item,
            posted=done.posted,
            waiting=[ledger_pb2.CorrectionPlanWaiting(item=item, why=why) for item, why in done.waiting],
        )


def _message(plan: CorrectionPlan) -> ledger_pb2.CorrectionPlan:
    return ledger_pb2.CorrectionPlan(
        plan_id=plan.plan_id,
        content_hash=plan.content_hash,
        operator_id=plan.operator_id,
        currency=plan.currency,
        planned_by=plan.planned_by,
        planned_at_us=plan.planned_at,
        approved_by=plan.approved_by,
        approved_at_us=plan.approved_at or 0,
        items=plan.items,
        refunds=plan.refunds,
        back_micros=plan.back_micros,
    )
