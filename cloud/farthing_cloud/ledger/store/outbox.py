"""What consumers read, in PostgreSQL: how far each of them is, and what all of them have passed taken away (ADR 43)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from farthing.clock import Instant
from farthing_cloud.database import sentence
from farthing_cloud.ledger.store.interface import Cursor

_PACKAGE: Final = "farthing_cloud.ledger"
READ_EVENTS: Final = sentence(_PACKAGE, "read_events")
PUT_READER: Final = sentence(_PACKAGE, "put_outbox_reader")
READ_PRUNED: Final = sentence(_PACKAGE, "read_outbox_pruned")
PRUNE: Final = sentence(_PACKAGE, "prune_outbox")


def passed(reader: str, up_to: Cursor, now: Instant) -> Mapping[str, Any]:
    """The parameters of ``put_outbox_reader``."""
    return {
        "reader": reader,
        "transaction_id": str(up_to.transaction_id),
        "sequence": up_to.sequence,
        "said_at_us": now,
    }


def old(readers: Sequence[str], before: Instant, limit: int) -> Mapping[str, Any]:
    """The parameters of ``prune_outbox``."""
    return {"readers": sorted(set(readers)), "before_us": before, "limit": limit}
