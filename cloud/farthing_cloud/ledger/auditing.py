"""A batch that was drawn for audit: did its detail come, and does what is kept of it hold?

Gateways upload the detail of every batch by themselves, in quiet times and in their own order; a directive asks for one that was drawn before all others, and gives it
a date. What was verified on arrival is verified again from
what is kept, so that what a payer is shown in two years is looked at before.
"""

import asyncio
import hashlib
from typing import Final

from farthing.clock import Instant
from farthing.evidence.batches import DetailError, decompress_leaves
from farthing.evidence.detail import EvidenceError, verify
from farthing.ids import AUTHORIZATION_ID_SIZE, AuthorizationId, GatewayId
from farthing.v1 import batch_pb2, directive_pb2, ledger_pb2
from farthing_cloud.ledger.core.funds import UnknownName
from farthing_cloud.ledger.core.rows import GatewayCaseKind
from farthing_cloud.ledger.facts import Facts, GatewayFacts
from farthing_cloud.ledger.operations import Ledger

#: No authorization: asked for a batch alone.
_NOBODY: Final = AuthorizationId(bytes(AUTHORIZATION_ID_SIZE))


class Auditor:
    """Judges drawn batches; what fails is a case about their gateway."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._facts = Facts(ledger.store)

    async def audit(
        self, gateway_id: GatewayId, incarnation: int, sequence: int, *, due: bool, now: Instant
    ) -> tuple["ledger_pb2.AuditOutcome.ValueType", str]:
        """The outcome, and why; raises ``UnknownName`` for a batch that was not posted."""
        stored = await self._store.batch(gateway_id, incarnation, sequence)
        if stored is None:
            raise UnknownName(f"batch {incarnation}/{sequence} of {gateway_id} has not been posted")
        name = f"batch {incarnation}/{sequence}, drawn for audit"
        if not stored.proven:
            if not due:
                await self._pull(gateway_id, incarnation, sequence, hashlib.sha256(stored.batch).digest(), now=now)
                return ledger_pb2.AUDIT_OUTCOME_WAITS, "its detail has not come yet"
            why = "its detail has not come, or did not hold"
            await self._suspect(gateway_id, incarnation, f"{name}: {why}", now=now)
            return ledger_pb2.AUDIT_OUTCOME_UNANSWERED, why
        (kept,) = await self._store.detailed_batches(gateway_id, _NOBODY, (incarnation, sequence), None, 1)
        if kept.leaves is None:
            return ledger_pb2.AUDIT_OUTCOME_PASSED, "its detail was verified on arrival, and is not kept any more"
        facts = await self._facts.of(gateway_id)
        fault = await asyncio.to_thread(_fault, kept.batch.body, kept.leaves, facts)
        if fault:
            await self._suspect(gateway_id, incarnation, f"{name}: what is kept of its detail: {fault}", now=now)
            return ledger_pb2.AUDIT_OUTCOME_FALSE, fault
        return ledger_pb2.AUDIT_OUTCOME_PASSED, ""

    async def _pull(
        self, gateway_id: GatewayId, incarnation: int, sequence: int, batch_hash: bytes, *, now: Instant
    ) -> None:
        """Tell the gateway that this batch was drawn, once: its detail comes before all other then."""
        gateway = await self._store.gateway(gateway_id)
        assert gateway is not None, "its batch was posted"
        drawn = directive_pb2.AuditDrawn(incarnation=incarnation, sequence=sequence, batch_hash=batch_hash)
        key = f"audit/{batch_hash.hex()}"
        await self._ledger.issue_directive(gateway.operator_id, gateway_id, drawn, idempotency_key=key, now=now)

    async def _suspect(self, gateway_id: GatewayId, incarnation: int, detail: str, *, now: Instant) -> None:
        await self._ledger.suspect(gateway_id, incarnation, GatewayCaseKind.AUDIT, detail, now=now)


def _fault(body: bytes, leaves: bytes, facts: GatewayFacts) -> str:
    try:
        verify(
            batch_pb2.Batch.FromString(body),
            decompress_leaves(leaves),
            device_key=facts.device_key,
            tariff=facts.tariff,
            register=facts.register,
            time_zone=facts.time_zone,
        )
    except (DetailError, EvidenceError) as err:
        return str(err)
    return ""
