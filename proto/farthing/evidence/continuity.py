"""Whether a use stands where the record before it left it, over several batches (only a tariff that places asks).

Within a batch the check of its claim sees to it. What was billed before a record names the record it goes on from, also where a later
incarnation sealed some of them again: whichever earlier record has that total.
"""

from collections.abc import Sequence
from enum import Enum

from farthing.evidence.detail import VerifiedLeaf, follows


class Continuity(Enum):
    """What earlier records say of where a record's use stood before it."""

    #: Nothing to ask: it is the first of its authorization, or its tariff does not place.
    UNASKED = "unasked"
    FOLLOWS = "follows"
    #: The records before it are not there.
    UNKNOWN = "unknown"
    BROKEN = "broken"


def continuity(earlier: Sequence[VerifiedLeaf], first: VerifiedLeaf) -> Continuity:
    """Judge the first record of a batch by the records of earlier batches; each is given by one leaf of it."""
    if first.leaf.stood is None:
        return Continuity.UNASKED
    before = [item for item in earlier if total(item) == first.worth]
    if not before:
        return Continuity.UNKNOWN
    return Continuity.FOLLOWS if any(follows(item, first) for item in before) else Continuity.BROKEN


def total(item: VerifiedLeaf) -> tuple[int, int]:
    """Net and tax of the authorization after a record, micros."""
    return item.leaf.total_net_micros, item.leaf.total_tax_micros


#: What a record that does not follow is told.
BROKEN = "stood elsewhere than the record before it left the use"
