"""Batches of one gateway that wait, in one transaction (ADR 32)."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import structlog

from farthing.clock import Instant
from farthing.money import Currency
from farthing_cloud.ledger.core import restoring, several
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.posting import BatchAdded, Posting
from farthing_cloud.ledger.core.received import ReceivedBatch
from farthing_cloud.ledger.core.rows import Epoch
from farthing_cloud.ledger.store.interface import LedgerStore, Posted, ReceiptContent, Transaction

#: Fewer batches than these gain nothing from going together.
FEWEST_TOGETHER: Final = 2

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOutcome:
    """How a batch fitted its chain; ``receipt`` is there for NEXT and REPLAY. ``expected`` is the sequence to send next."""

    step: ChainStep
    expected: int
    receipt: ReceiptContent | None


def outcome_of(batch: BatchAdded, posted: Posted, epoch: Epoch, now: Instant) -> BatchOutcome:
    """What a batch that was posted just now is told."""
    receipt = ReceiptContent(
        ledger_epoch=epoch.number,
        gateway_id=batch.gateway_id,
        incarnation=batch.incarnation,
        sequence=batch.sequence,
        batch_hash=batch.batch_hash,
        posted_at=now,
        parked=tuple((parked.line, parked.reason) for parked in batch.parked),
        audit_head=posted.audit_head,
    )
    return BatchOutcome(step=ChainStep.NEXT, expected=batch.sequence + 1, receipt=receipt)


async def post_together(
    store: LedgerStore, waiting: Sequence[ReceivedBatch], *, currency: Currency, now: Instant
) -> Sequence[BatchOutcome]:
    """See :meth:`farthing_cloud.ledger.operations.Ledger.post_batches`."""
    if len(waiting) < FEWEST_TOGETHER:
        return ()
    group, touch = await asyncio.to_thread(several.front, waiting, currency)
    if len(group) < FEWEST_TOGETHER or touch is None:
        return ()

    async def work(tx: Transaction) -> Sequence[BatchOutcome]:
        view = await tx.load(touch)
        restoring.must_have_shown(view.gateways.values(), view.epoch)
        plans = several.Several(view)

        async def planned() -> AsyncGenerator[Posting]:
            for batch in group:
                # Thousands of lines: not on the event loop, and while PostgreSQL writes those of the batch before.
                posting = await asyncio.to_thread(plans.plan, batch, now=now)
                if posting is None:
                    return
                yield posting

        async with aclosing(planned()) as postings:
            written = await tx.post_batches(postings)
        return [
            outcome_of(posting.batch, posted, view.epoch, now)
            for posting, posted in written
            if posting.batch is not None
        ]

    try:
        return await store.run(work)
    except restoring.LedgerRestoring:
        raise  # no batch's own: each would hear it
    except Exception as err:  # noqa: BLE001  # whatever it is: alone, whose it is raises it again, and the others are posted
        _log.warning("batches that wait go one by one", gateway=group[0].gateway_id, cause=repr(err))
        return ()
