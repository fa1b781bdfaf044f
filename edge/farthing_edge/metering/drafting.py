"""Leaves of records that wait for their batch, made while there is nothing to decide: most of what a seal has to do.

Rule 1: a draft is of one record, this very object. Whatever has none, or has another's place in the journal, is drafted by the seal itself.
Rule 2: a draft changes nothing: without it a batch is the same, and takes longer.
"""

import contextlib

from farthing_edge.authorization.state import MAX_SEAL_RECORDS, GatewayState, UsageRecord
from farthing_edge.metering.sealing import draft_leaves, facts_of_record


class LeafDrafts:
    """Drafts by the position of their record, at most of one batch's records."""

    __slots__ = ("_drafts", "_reached")

    def __init__(self) -> None:
        self._drafts: dict[int, tuple[UsageRecord, tuple[bytes, ...]]] = {}
        #: The last position that was looked at.
        self._reached = 0

    def go_on(self, state: GatewayState, most: int) -> bool:
        """Draft the next ``most`` records; whether there are more."""
        first = state.unsealed_up_to(self._reached)
        if first >= MAX_SEAL_RECORDS:
            # More than one batch waits: the one after it is drafted when its turn comes.
            return False
        records = state.unsealed[first : first + most]
        for record in records:
            self._reached = record.position
            # One that no batch can bill is found, and named, by the seal.
            with contextlib.suppress(Exception):
                self._drafts[record.position] = record, draft_leaves(facts_of_record(state, record))
        return first + len(records) < min(len(state.unsealed), MAX_SEAL_RECORDS)

    def waiting(self, state: GatewayState) -> int:
        """How many records of the next batch are still to be drafted."""
        return min(len(state.unsealed), MAX_SEAL_RECORDS) - state.unsealed_up_to(self._reached)

    def of(self, record: UsageRecord) -> tuple[bytes, ...] | None:
        """The leaves of ``record`` on line 0, one for each of its charges."""
        drafted = self._drafts.get(record.position)
        return drafted[1] if drafted is not None and drafted[0] is record else None

    def forget(self, up_to: int) -> None:
        """What stands at or before a position is sealed."""
        self._drafts = {position: draft for position, draft in self._drafts.items() if position > up_to}

    def begin_again(self) -> None:
        """The state was read anew: its records are other ones."""
        self._drafts, self._reached = {}, 0
