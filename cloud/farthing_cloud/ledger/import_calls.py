"""The ledger's calls on batches carried by hand, and on the reviews of what revoked gateways sealed."""

from collections.abc import AsyncIterator

from typing_extensions import override

from farthing.ids import GatewayId, OperatorId, parse_bytes, parse_id
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.core.corrections import MAX_TEXT
from farthing_cloud.ledger.core.received import HASH_SIZE
from farthing_cloud.ledger.core.rows import ImportReview
from farthing_cloud.ledger.imports import Imports
from farthing_cloud.ledger.plan_calls import PlanServicer
from farthing_cloud.ledger.refusals import Context, malformed, refusals


class ImportServicer(PlanServicer):
    """Imports; see ``ledger.proto``."""

    _imports: Imports

    @override
    async def ImportBatches(
        self, request_iterator: AsyncIterator[ledger_pb2.ImportBatchesRequest], context: Context
    ) -> AsyncIterator[ledger_pb2.ImportBatchesResponse]:
        """Take batches in as if their gateway had pushed them, one after the other."""
        async with refusals(context):
            # Read before anything is refused: a caller that still writes would hear of a broken stream only.
            first = await anext(request_iterator, None)
            person = self._person(context)
            if first is None or first.WhichOneof("item") != "begins":
                raise malformed("an import begins with its gateway")
            _reason(first.begins.reason)
            gateway = await self._imports.gateway(GatewayId(parse_id(first.begins.gateway_id)))
            file_hash = parse_bytes(first.begins.file_hash, HASH_SIZE)
            await self._imports.begin(gateway, file_hash=file_hash, person=person, now=self._clock.now())
            async for request in request_iterator:
                if request.WhichOneof("item") != "batch":
                    raise malformed("after its beginning, an import has batches")
                yield await self._imports.take(gateway, request.batch, person=person, now=self._clock.now())

    @override
    async def ListImportReviews(
        self, request: ledger_pb2.ListImportReviewsRequest, context: Context
    ) -> ledger_pb2.ListImportReviewsResponse:
        """Proposed and approved."""
        async with refusals(context):
            found = await self._imports.of_operator(OperatorId(parse_id(request.operator_id)))
        return ledger_pb2.ListImportReviewsResponse(reviews=[_message(review) for review in found])

    @override
    async def ProposeImportReview(
        self, request: ledger_pb2.ProposeImportReviewRequest, context: Context
    ) -> ledger_pb2.ProposeImportReviewResponse:
        """One person proposes to post what waits of a gateway."""
        async with refusals(context):
            person = self._person(context)
            review = await self._imports.propose(
                GatewayId(parse_id(request.gateway_id)),
                reason=_reason(request.reason),
                person=person,
                now=self._clock.now(),
            )
        return ledger_pb2.ProposeImportReviewResponse(review=_message(review))

    @override
    async def ApproveImportReview(
        self, request: ledger_pb2.ApproveImportReviewRequest, context: Context
    ) -> AsyncIterator[ledger_pb2.ApproveImportReviewResponse]:
        """Another person approves it, and what devices signed is posted."""
        async with refusals(context):
            review = await self._imports.approve(
                request.review_id,
                content_hash=request.content_hash,
                person=self._person(context),
                now=self._clock.now(),
            )
            async for batch in self._imports.execute(review):
                yield ledger_pb2.ApproveImportReviewResponse(batch=batch)


def _reason(text: str) -> str:
    if not 1 <= len(text) <= MAX_TEXT or not text.isprintable():
        raise malformed(f"reason is 1 to {MAX_TEXT} printable characters")
    return text


def _message(review: ImportReview) -> ledger_pb2.ImportReview:
    return ledger_pb2.ImportReview(
        review_id=review.review_id,
        content=review.content,
        content_hash=review.content_hash,
        approved_by=review.approved_by,
        approved_at_us=review.approved_at or 0,
    )
