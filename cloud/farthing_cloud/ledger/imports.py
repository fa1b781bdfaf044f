"""Batches carried by hand: the same door as over the wire, by a person, recorded; and the review of what a revoked gateway sealed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import grpc

from farthing.clock import Instant
from farthing.evidence.batches import DetailError, decompress_leaves
from farthing.ids import AuthorizationId, GatewayId, OperatorId
from farthing.v1 import batch_pb2, gateway_sync_pb2, ledger_pb2
from farthing_cloud.ledger.core import reviews
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.keys import Standing
from farthing_cloud.ledger.core.received import ReceivedBatch
from farthing_cloud.ledger.core.rows import Gateway, ImportReview, ImportRun, Touch
from farthing_cloud.ledger.facts import Facts, GatewayFacts
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.refusals import Refused
from farthing_cloud.ledger.store.interface import MAX_IMPORTED, ImportedBatch, Signed, Transaction

#: Parked batches read at once: each may have megabytes of detail.
BATCHES_AT_ONCE: Final = 8

_STEPS: Final = {
    grpc.StatusCode.OUT_OF_RANGE: ChainStep.GAP.value,
    grpc.StatusCode.ALREADY_EXISTS: ChainStep.FORK.value,
}


class Door(Protocol):
    """The gateways' door, as far as a hand reaches (:class:`farthing_cloud.ledger.door.GatewaySyncServicer`)."""

    async def check(self, gateway: Gateway, signed: batch_pb2.SignedBatch) -> tuple[ReceivedBatch, Standing]:
        """The batch, if a key of the gateway signed it and it speaks of it, and what that key is worth on it; raises ``Refused``."""

    async def take(
        self,
        gateway: Gateway,
        signed: batch_pb2.SignedBatch,
        keep: Callable[[ReceivedBatch], ReceivedBatch] | None = None,
    ) -> tuple[ChainStep, batch_pb2.SignedReceipt]:
        """Post it, or as much as ``keep`` leaves of it; raises ``Refused`` for what does not fit its chain."""

    async def prove(self, gateway: Gateway, request: gateway_sync_pb2.UploadEvidenceRequest) -> str:
        """Check a posted batch's detail; which rule fails, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Carried:
    """A batch as it was carried."""

    incarnation: int
    sequence: int
    signed: batch_pb2.SignedBatch
    leaves: bytes


class Imports:
    """Imports over a ledger and its door."""

    def __init__(self, ledger: Ledger, door: Door) -> None:
        self._store = ledger.store
        self._door = door
        self._facts = Facts(ledger.store)

    async def gateway(self, gateway_id: GatewayId) -> Gateway:
        """Raise ``UnknownName`` for one that the ledger does not know."""
        gateway = await self._store.gateway(gateway_id)
        if gateway is None:
            raise UnknownName(f"no gateway {gateway_id}")
        return gateway

    async def begin(self, gateway: Gateway, *, file_hash: bytes, person: str, now: Instant) -> None:
        """Record who imports what."""
        run = ImportRun(gateway_id=gateway.gateway_id, file_hash=file_hash, person=person)

        async def work(tx: Transaction) -> None:
            view = await tx.load(Touch(operator_id=gateway.operator_id, currency=gateway.currency))
            await tx.post(reviews.record(view, run, now=now))

        await self._store.run(work)

    async def take(
        self, gateway: Gateway, said: ledger_pb2.ImportedBatch, *, person: str, now: Instant
    ) -> ledger_pb2.ImportBatchesResponse:
        """Take a batch in; what a revoked gateway or key sealed, and was not posted before, is parked."""
        carried = _Carried(
            incarnation=said.incarnation, sequence=said.sequence, signed=said.signed, leaves=said.compressed_leaves
        )
        try:
            batch, standing = await self._door.check(gateway, said.signed)
        except Refused as err:
            return _answer(carried, _STEPS.get(err.code, "refused"), why=err.details)
        revoked = await self._store.revoked(gateway.gateway_id)
        if not revoked and standing in (Standing.GOOD, Standing.UNPLACED):
            return await self._post(gateway, carried)
        posted = await self._store.batch(gateway.gateway_id, batch.incarnation, batch.sequence)
        if posted is not None and posted.batch_hash == batch.batch_hash:
            return await self._post(gateway, carried)
        kept = await self._store.keep_imported(
            gateway.gateway_id,
            ImportedBatch(
                incarnation=batch.incarnation,
                sequence=batch.sequence,
                batch=Signed(body=batch.batch, signature=batch.signature, key_id=batch.key_id),
                leaves=said.compressed_leaves,
            ),
            person=person,
            now=now,
        )
        if not kept:
            raise LedgerRefusal(f"{MAX_IMPORTED} batches of {gateway.gateway_id} wait for review: review them first")
        why = "its gateway is revoked" if revoked else f"it is {standing.value}"
        return _answer(carried, "parked", why=f"{why}: two persons review it")

    async def _post(
        self,
        gateway: Gateway,
        carried: _Carried,
        keep: Callable[[ReceivedBatch], ReceivedBatch] | None = None,
    ) -> ledger_pb2.ImportBatchesResponse:
        try:
            step, receipt = await self._door.take(gateway, carried.signed, keep)
        except Refused as err:
            return _answer(carried, _STEPS.get(err.code, "refused"), why=err.details)
        outcome = "posted" if step is ChainStep.NEXT else step.value
        answer = _answer(carried, outcome)
        answer.receipt.CopyFrom(receipt)
        if carried.leaves:
            batch = batch_pb2.Batch.FromString(carried.signed.batch)
            answer.fault = await self._door.prove(
                gateway,
                gateway_sync_pb2.UploadEvidenceRequest(
                    incarnation=batch.incarnation, sequence=batch.sequence, compressed_leaves=carried.leaves
                ),
            )
            answer.proven = not answer.fault
        return answer

    async def of_operator(self, operator_id: OperatorId) -> Sequence[ImportReview]:
        """Reviews, oldest first."""
        return await self._store.reviews(operator_id)

    # --- reviews ------------------------------------------------------------------------------------------------------

    async def propose(self, gateway_id: GatewayId, *, reason: str, person: str, now: Instant) -> ImportReview:
        """Look at everything that waits of a gateway, and keep what is to be decided."""
        gateway = await self.gateway(gateway_id)
        facts = await self._facts.of(gateway_id)
        hashes: list[bytes] = []
        proven_micros = billed_micros = 0
        async for imported in self._parked(gateway_id):
            digest = hashlib.sha256(imported.batch.body).digest()
            posted = await self._store.batch(gateway_id, imported.incarnation, imported.sequence)
            if posted is not None and posted.batch_hash == digest:
                continue
            hashes.append(digest)
            batch, proven = await asyncio.to_thread(_look, imported, facts)
            proven_micros += sum(proven.values())
            billed_micros += sum(line.net_micros + line.tax_micros for line in batch.lines)

        async def work(tx: Transaction) -> ImportReview:
            view = await tx.load(Touch(operator_id=gateway.operator_id, currency=gateway.currency))
            review, posting = reviews.propose(
                view,
                gateway,
                hashes,
                proven_micros=proven_micros,
                unproven_micros=max(0, billed_micros - proven_micros),
                reason=reason,
                person=person,
                now=now,
            )
            await tx.post(posting)
            return review

        return await self._store.run(work)

    async def approve(self, review_id: str, *, content_hash: bytes, person: str, now: Instant) -> ImportReview:
        """Another person approves; by the same person again, nothing changes."""
        review = await self._store.review(review_id)
        if review is None:
            raise UnknownName(f"no review {review_id}")
        touch = Touch(operator_id=review.operator_id, currency=review.currency, review_id=review_id)

        async def work(tx: Transaction) -> None:
            posting = reviews.approve(
                await tx.load(touch), review_id, content_hash=content_hash, person=person, now=now
            )
            if posting is not None:
                await tx.post(posting)

        await self._store.run(work)
        return review

    async def execute(self, review: ImportReview) -> AsyncIterator[ledger_pb2.ImportBatchesResponse]:
        """Post what devices signed of each reviewed batch, in order; what was posted before is a replay."""
        gateway = await self.gateway(review.gateway_id)
        facts = await self._facts.of(review.gateway_id)
        wanted = set(ledger_pb2.ImportReviewContent.FromString(review.content).batch_hashes)
        async for imported in self._parked(review.gateway_id):
            if hashlib.sha256(imported.batch.body).digest() not in wanted:
                continue
            batch, proven = await asyncio.to_thread(_look, imported, facts)
            signed = batch_pb2.SignedBatch(
                batch=imported.batch.body, signature=imported.batch.signature, key_id=imported.batch.key_id
            )
            carried = _Carried(
                incarnation=imported.incarnation, sequence=imported.sequence, signed=signed, leaves=imported.leaves
            )
            shown = frozenset(proven)
            answer = await self._post(gateway, carried, partial(reviews.only, proven=shown))
            left_out = len(batch.claims) - len(shown)
            if left_out and answer.outcome in ("posted", "replay"):
                answer.why = f"{left_out} of {len(batch.claims)} claims are left out: no device's statements prove them"
            yield answer

    async def _parked(self, gateway_id: GatewayId) -> AsyncIterator[ImportedBatch]:
        """What was parked of a gateway, posted since or not."""
        after: ImportedBatch | None = None
        while page := await self._store.imported(gateway_id, after, BATCHES_AT_ONCE):
            for imported in page:
                yield imported
            after = page[-1]


def _look(imported: ImportedBatch, facts: GatewayFacts) -> tuple[batch_pb2.Batch, dict[AuthorizationId, int]]:
    """The batch, and what of it devices prove."""
    batch = batch_pb2.Batch.FromString(imported.batch.body)
    try:
        leaves = decompress_leaves(imported.leaves) if imported.leaves else []
    except DetailError:
        leaves = []
    proven = reviews.device_signed(
        batch,
        leaves,
        device_key=facts.device_key,
        tariff=facts.tariff,
        register=facts.register,
        time_zone=facts.time_zone,
    )
    return batch, proven


def _answer(carried: _Carried, outcome: str, *, why: str = "") -> ledger_pb2.ImportBatchesResponse:
    return ledger_pb2.ImportBatchesResponse(
        incarnation=carried.incarnation, sequence=carried.sequence, outcome=outcome, why=why
    )
