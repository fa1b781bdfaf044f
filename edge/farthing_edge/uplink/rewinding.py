"""What a gateway does for a ledger that was restored from a backup: shows what the cloud signed, and sends batches again.

Rule 1: only what the cloud signed is shown, as it stands in the journal, and in its order.
Rule 2: batches of earlier incarnations go before those of the present one: the same bytes and signatures as ever. A receipt for one that was
receipted before changes nothing here.
Rule 3: an earlier chain that the ledger refuses for what it is ends where it is, and holds nothing else up: only people can help.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from farthing.device.cose import VerifyingKey
from farthing.evidence.batches import batch_hash
from farthing.ids import GatewayId
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_edge.uplink.signed import NotSigned, check_receipt

if TYPE_CHECKING:
    from farthing.v1.gateway_sync_pb2_grpc import GatewaySyncAsyncStub

_log = structlog.get_logger(__name__)

#: Directives in one message: a tariff is the largest, most are a few hundred bytes.
DIRECTIVES_AT_ONCE = 64
#: Batches of an earlier incarnation sent before their receipts are waited for.
BATCHES_AT_ONCE = 16
#: How the door refuses a batch for good (by names of ``grpc.StatusCode``): another one stands in its place, its key has no word any more, it does not
#: read, one before it is missing. Anything else passes: another gateway has yet to show what it was told, the line broke.
REFUSED_FOR_GOOD: Final = frozenset({"ALREADY_EXISTS", "PERMISSION_DENIED", "INVALID_ARGUMENT", "OUT_OF_RANGE"})


class SignedDirective(Protocol):
    """A directive as the journal keeps it."""

    @property
    def version(self) -> int: ...
    @property
    def raw(self) -> bytes: ...
    @property
    def signature(self) -> bytes: ...
    @property
    def key_id(self) -> bytes: ...


class SignedBatch(Protocol):
    """A sealed batch as the journal keeps it."""

    @property
    def sequence(self) -> int: ...
    @property
    def batch(self) -> bytes: ...
    @property
    def signature(self) -> bytes: ...
    @property
    def key_id(self) -> bytes: ...


class Journal(Protocol):
    """What is asked of the engine about the past."""

    async def directives(self, after_version: int, most: int, /) -> Sequence[SignedDirective]:
        """Directives after a version, in order, no more than ``most``."""
        ...

    async def directive_links(self) -> Sequence[tuple[int, bytes]]:
        """(version, hash), the newest first, at distances that double, the oldest that the journal has last."""
        ...

    def last_receipt(self) -> tuple[bytes, bytes, bytes]:
        """The last receipt, its signature and key id; empty before the first."""
        ...

    async def earlier_incarnations(self) -> Sequence[int]:
        """The incarnations before the present one of which the journal has batches, ascending."""
        ...

    async def earlier_batches(self, incarnation: int, after_sequence: int, most: int, /) -> Sequence[SignedBatch]:
        """Signed batches of an earlier incarnation after a sequence, in order, no more than ``most``."""
        ...

    def receipt_keys(self) -> Sequence[VerifyingKey]:
        """The keys that the present incarnation's welcome named."""
        ...


async def last_directive(journal: Journal, version: int) -> directive_pb2.SignedDirective | None:
    """The directive at ``version`` as it was signed; None where there is none, or it is pruned."""
    rows = await journal.directives(version - 1, 1) if version else ()
    return _message(rows[0]) if rows and rows[0].version == version else None


def last_receipt(journal: Journal) -> batch_pb2.SignedReceipt | None:
    """The last receipt as it was signed; None where there is none, or an older program kept no signature."""
    raw, signature, key_id = journal.last_receipt()
    return batch_pb2.SignedReceipt(receipt=raw, signature=signature, key_id=key_id) if signature else None


async def show(
    stub: "GatewaySyncAsyncStub", journal: Journal, version: int, *, timeout_s: float
) -> gateway_sync_pb2.ShowDirectivesResponse:
    """Hand back every directive up to ``version`` that the ledger does not have; what it made of them."""
    links = await journal.directive_links()
    call = stub.ShowDirectives(timeout=timeout_s)  # type: ignore[call-arg]  # the stubs forget that aio's iterator is optional
    await call.write(
        gateway_sync_pb2.ShowDirectivesRequest(
            links=[gateway_sync_pb2.ChainLink(version=at, hash=digest) for at, digest in links if at <= version],
            last_receipt=last_receipt(journal),
        )
    )
    answer = await call.read()
    if not isinstance(answer, gateway_sync_pb2.ShowDirectivesResponse):
        raise NotSigned("the cloud ended a showing before it began")
    await _write(call, _missing(journal, answer.after_version, version))
    answer = await call.read()
    if not isinstance(answer, gateway_sync_pb2.ShowDirectivesResponse):
        raise NotSigned("the cloud did not say what it took back")
    return answer


async def _missing(
    journal: Journal, after_version: int, version: int
) -> AsyncIterator[gateway_sync_pb2.ShowDirectivesRequest]:
    at = after_version
    while at < version:
        rows = [row for row in await journal.directives(at, DIRECTIVES_AT_ONCE) if row.version <= version]
        if not rows or rows[0].version != at + 1:
            raise NotSigned(
                f"directive {at + 1} is not in the journal any more, and the cloud's backup is older: people have to decide about this gateway"
            )
        at = rows[-1].version
        yield gateway_sync_pb2.ShowDirectivesRequest(directives=[_message(row) for row in rows], last=at == version)
    if after_version >= version:
        yield gateway_sync_pb2.ShowDirectivesRequest(last=True)


async def send_earlier(
    stub: "GatewaySyncAsyncStub",
    journal: Journal,
    gateway: GatewayId,
    posted: dict[int, int],
    *,
    timeout_s: float,
) -> int:
    """Send the batches of earlier incarnations after what is ``posted`` of each; how many were taken."""
    from grpc import aio

    sent = 0
    for incarnation in await journal.earlier_incarnations():
        at = posted.get(incarnation, 0)
        # The first of a chain goes alone: where it is refused, nothing is being written that could hide why.
        most = 1
        while rows := await journal.earlier_batches(incarnation, at, most):
            most = BATCHES_AT_ONCE
            if rows[0].sequence != at + 1:
                break  # pruned, so older than any backup: or people have decided that the rest is lost
            call = stub.PushBatches(timeout=timeout_s)  # type: ignore[call-arg]  # as above
            await _write(call, _signed(rows))
            try:
                for row in rows:
                    signed = await call.read()
                    if not isinstance(signed, batch_pb2.SignedReceipt):
                        raise NotSigned("the cloud ended the stream of receipts")
                    arrived = check_receipt(
                        signed, keys=journal.receipt_keys(), gateway=gateway, incarnation=incarnation
                    )
                    if arrived.receipt.batch_hash != batch_hash(row.batch):
                        raise NotSigned(f"the receipt for batch {row.sequence} is for another batch")
                    at = row.sequence
                    sent += 1
            except aio.AioRpcError as err:
                if err.code().name not in REFUSED_FOR_GOOD:
                    raise
                # Every session would end here, and nothing that this gateway says or hears would pass any more.
                _log.warning("earlier_batches_refused", incarnation=incarnation, batch=at + 1, reason=err.details())
                break
    return sent


async def _write(call: Any, messages: AsyncIterable[object]) -> None:
    """All that is to be said, as far as the cloud hears it: where it ends the call before, what is read from it says why."""
    try:
        async for message in messages:
            await call.write(message)
        await call.done_writing()
    except asyncio.InvalidStateError:
        return


async def _signed(rows: Sequence[SignedBatch]) -> AsyncIterator[batch_pb2.SignedBatch]:
    for row in rows:
        yield batch_pb2.SignedBatch(batch=row.batch, signature=row.signature, key_id=row.key_id)


def _message(row: SignedDirective) -> directive_pb2.SignedDirective:
    return directive_pb2.SignedDirective(directive=row.raw, signature=row.signature, key_id=row.key_id)
