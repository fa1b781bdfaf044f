"""Which key a gateway signs its batches with, which ones it signed with before, and what each is still good for (DESIGN 6).

Rule 1: a batch is judged by the key that was valid when it was sealed: one that was replaced stays good for what was sealed until then.
Rule 2: a sealing time is the gateway's word, so a replaced key does not go on where a later one has gone on before: along a chain, keys
only follow each other.
Rule 3: a key that was revoked has no word of its own, by whenever it says it signed (what a revoked gateway sealed, ADR 26).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from farthing.clock import Instant
from farthing.device.cose import key_id
from farthing_cloud.ledger.core.rows import NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchKey:
    """A key over one stretch of a gateway's life; one that comes back after another has two stretches. Instants of the business clock."""

    #: Counts the gateway's stretches, from 1.
    number: int
    #: SubjectPublicKeyInfo (DER).
    key: bytes
    since: Instant
    #: When another one followed; None while it is the present one.
    until: Instant | None = None
    revoked_at: Instant | None = None


class Standing(StrEnum):
    """What a key's signature is worth on one batch."""

    GOOD = "good"
    UNKNOWN = "signed with a key that is not this gateway's batch key"
    REPLACED = "sealed after its key was replaced"
    WENT_BACK = "signed with an earlier key than the batch before it"
    UNPLACED = "signed with an earlier key, and the batch before it is not here"
    REVOKED = "signed with a key that is revoked"


def settle(keys: Sequence[BatchKey], key: bytes, revoked: Collection[bytes], *, now: Instant) -> dict[int, BatchKey]:
    """The gateway's stretches, by number, once ``key`` is the present one and those in ``revoked`` are revoked, beside those that were before.

    A revoked key is nobody's present one: a gateway that was given no other has none.
    """
    after = {each.number: each for each in keys}

    def end(each: BatchKey) -> Instant:
        # The business clock may have been set back since.
        return each.until if each.until is not None else max(now, each.since)

    def add(key: bytes, *, since: Instant, until: Instant | None = None, revoked_at: Instant | None = None) -> None:
        number = 1 + max(after, default=0)
        after[number] = BatchKey(number=number, key=key, since=since, until=until, revoked_at=revoked_at)

    for lost in revoked:
        if not any(each.key == lost for each in after.values()):
            # One that signed nothing here yet is remembered all the same.
            add(lost, since=now, until=now, revoked_at=now)
    for each in list(after.values()):
        if each.key in revoked and each.revoked_at is None:
            after[each.number] = replace(each, until=end(each), revoked_at=now)
    if any(each.key == key and each.revoked_at is not None for each in after.values()):
        key = b""
    present = present_of(after.values())
    if present is not None and present.key != key:
        after[present.number] = replace(present, until=end(present))
        present = None
    if present is None and key:
        # The first one is good for all that came before it was known here.
        add(key, since=now if after else NEVER)
    return after


def present_of(keys: Iterable[BatchKey]) -> BatchKey | None:
    """The present key; None where the gateway has none."""
    return next((each for each in keys if each.until is None), None)


def named(keys: Sequence[BatchKey], signed_by: bytes) -> Sequence[BatchKey]:
    """The stretches of the key with this id (8 bytes)."""
    return [each for each in keys if key_id(each.key) == signed_by]


def judge(keys: Sequence[BatchKey], signed_by: bytes, *, sealed_at: Instant, before: bytes | None) -> Standing:
    """What the key with the id ``signed_by``, not the present one, is worth on a batch.

    ``before`` is the id of the key that signed the batch before it in its chain: empty where it is the first, None where it is not here.
    """
    mine = named(keys, signed_by)
    if not mine:
        return Standing.UNKNOWN
    if any(each.revoked_at is not None for each in mine):
        return Standing.REVOKED
    good = [each for each in mine if each.until is None or sealed_at <= each.until]
    if not good:
        return Standing.REPLACED
    if before is None:
        return Standing.UNPLACED
    earlier = named(keys, before)
    # A key with two stretches stood on both sides of the one between them.
    if earlier and max(each.number for each in good) < min(each.number for each in earlier):
        return Standing.WENT_BACK
    return Standing.GOOD
