"""Detail that arrives is asked whether it goes on from the detail before it, and whether what was proven after it goes on from it.

Only uses under a tariff that places are asked (:mod:`farthing.evidence.continuity`); of each, the newest batches whose detail was kept. Where the
records before are not there (not uploaded yet, or kept no more), nothing is said: a bundle says so too.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from farthing.evidence import leaf as leaves_of
from farthing.evidence.batches import decompress_leaves
from farthing.evidence.continuity import BROKEN, Continuity, continuity
from farthing.evidence.detail import EvidenceError, VerifiedLeaf, verify_authorization
from farthing.ids import AuthorizationId, GatewayId
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.facts import GatewayFacts
from farthing_cloud.ledger.store.interface import DetailedBatch, LedgerStore

#: Batches of one use looked at: a session that is read by the quarter of an hour has as many in two hours, and the one before is among them.
BATCHES_LOOKED_AT: Final = 8


async def broken(
    store: LedgerStore,
    gateway_id: GatewayId,
    batch: batch_pb2.Batch,
    verified: Sequence[VerifiedLeaf],
    facts: GatewayFacts,
) -> str:
    """Where detail that was verified does not go on from other detail of its uses; empty where it does, or nobody can tell."""
    here = (batch.incarnation, batch.sequence)
    uses: dict[AuthorizationId, list[VerifiedLeaf]] = {}
    for item in verified:
        if item.placed is not None or item.leaf.stood is not None:
            uses.setdefault(AuthorizationId(item.leaf.authorization), []).append(item)
    for authorization_id, items in uses.items():
        kept = await store.detailed_batches(gateway_id, authorization_id, here, None, BATCHES_LOOKED_AT)
        others = [each for each in kept if (each.incarnation, each.sequence) != here and each.leaves is not None]
        if not others:
            continue
        records = {here: items}
        for each in others:
            records[each.incarnation, each.sequence] = await asyncio.to_thread(_read, each, authorization_id, facts)
        fault = _first_break(records)
        if fault:
            return fault
    return ""


def _first_break(records: dict[tuple[int, int], list[VerifiedLeaf]]) -> str:
    earlier: list[VerifiedLeaf] = []
    for (incarnation, sequence), items in sorted(records.items()):
        if items and continuity(earlier, items[0]) is Continuity.BROKEN:
            return f"batch {incarnation}/{sequence}: leaf {items[0].index} {BROKEN}"
        earlier += items
    return ""


def _read(stored: DetailedBatch, authorization_id: AuthorizationId, facts: GatewayFacts) -> list[VerifiedLeaf]:
    """The use's leaves in a batch that was proven, read again."""
    assert stored.leaves is not None
    batch = batch_pb2.Batch.FromString(stored.batch.body)
    own = {
        index: data
        for index, data in enumerate(decompress_leaves(stored.leaves))
        if leaves_of.decode(data).authorization == authorization_id
    }
    try:
        records = verify_authorization(
            batch,
            authorization_id,
            own,
            device_key=facts.device_key,
            tariff=facts.tariff,
            register=facts.register,
            time_zone=facts.time_zone,
        )
    except EvidenceError:
        # It held when it was proven; what is not known any more proves nothing against the batch that arrives.
        return []
    return [record[0] for record in records]
