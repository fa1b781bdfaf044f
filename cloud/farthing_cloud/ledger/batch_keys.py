"""Whose signature stands under a batch: the gateway's present key at once, an earlier one by what the ledger keeps of it (``core.keys``)."""

import grpc

from farthing.device.cose import VerifyingKey, key_id
from farthing.device.reject import MessageError
from farthing_cloud.ledger.core import keys
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.keys import Standing
from farthing_cloud.ledger.core.received import ReceivedBatch
from farthing_cloud.ledger.core.rows import Gateway
from farthing_cloud.ledger.refusals import Refused, malformed
from farthing_cloud.ledger.store.interface import LedgerStore


class BatchKeys:
    """A gateway's keys over a store; nothing is asked of it for what the present key signed."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    async def named(self, gateway: Gateway, signed_by: bytes) -> VerifyingKey:
        """The key of the gateway with this id, the present one or one before, good or not; raises ``Refused`` for anybody else's."""
        spki = gateway.batch_key
        if not _is_present(gateway, signed_by):
            found = keys.named(await self._store.batch_keys(gateway.gateway_id), signed_by)
            if not found:
                raise malformed(Standing.UNKNOWN.value)
            spki = found[0].key
        try:
            return VerifyingKey.from_spki(spki)
        except MessageError as err:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION, f"the batch key of {gateway.gateway_id} on record is none: {err}"
            ) from err

    async def standing(self, gateway: Gateway, batch: ReceivedBatch) -> Standing:
        """What the key is worth on this batch, whose signature holds. What was posted before stays posted, whatever became of its key."""
        if _is_present(gateway, batch.key_id):
            return Standing.GOOD
        posted = await self._store.batch(gateway.gateway_id, batch.incarnation, batch.sequence)
        if posted is not None and posted.batch_hash == batch.batch_hash:
            return Standing.GOOD
        earlier: bytes | None = b""
        if batch.sequence > 1:
            stored = await self._store.batch(gateway.gateway_id, batch.incarnation, batch.sequence - 1)
            earlier = stored.key_id if stored is not None else None
        known = await self._store.batch_keys(gateway.gateway_id)
        return keys.judge(known, batch.key_id, sealed_at=batch.sealed_at, before=earlier)

    async def must_hold(self, gateway: Gateway, batch: ReceivedBatch) -> None:
        """Raise ``Refused`` for a batch that its key does not stand for."""
        must_be_good(batch, await self.standing(gateway, batch))


def must_be_good(batch: ReceivedBatch, standing: Standing) -> None:
    """Raise ``Refused`` for a batch that its key does not stand for: only people can help, but for one that came too early."""
    if standing is Standing.UNPLACED:
        raise Refused(
            grpc.StatusCode.OUT_OF_RANGE,
            f"{ChainStep.GAP.value}: batch {batch.sequence} of incarnation {batch.incarnation} is {standing.value}",
        )
    if standing is not Standing.GOOD:
        # For good: a precondition is what a gateway waits for.
        raise Refused(
            grpc.StatusCode.PERMISSION_DENIED,
            f"batch {batch.sequence} of incarnation {batch.incarnation} is {standing.value}: carried by hand, people review it",
        )


def is_by_present_key(gateway: Gateway, batch: ReceivedBatch) -> bool:
    """Whether nothing has to be asked of its key."""
    return _is_present(gateway, batch.key_id)


def _is_present(gateway: Gateway, signed_by: bytes) -> bool:
    return bool(gateway.batch_key) and key_id(gateway.batch_key) == signed_by
