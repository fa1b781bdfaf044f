"""Batches of one gateway that are posted together: each is planned as if it had come alone, right after those before it.

Rule 1: what a batch posts is what it would post alone; only the rows are looked up once, and written once.
Rule 2: only what is ordinary goes together. What opens a case, tells a gateway something, or may overlap goes alone, after those before
it; so does whatever cannot be said from the rows that were loaded for all.
"""

from collections.abc import Sequence
from dataclasses import replace
from operator import add

from farthing.clock import Instant
from farthing.ids import AuthorizationId
from farthing.money import Currency
from farthing_cloud.ledger.core import batches
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.received import ReceivedBatch
from farthing_cloud.ledger.core.rows import Balances, Claimed, ClaimKey, Quota, QuotaStatus, RegisterKey, Touch, View

_NOTHING = Balances()
_STATUS = {status.value: status for status in QuotaStatus}


def front(waiting: Sequence[ReceivedBatch], currency: Currency) -> tuple[tuple[ReceivedBatch, ...], Touch | None]:
    """As many of one gateway's batches, from the first, as can be loaded together, and the rows that posting them looks at."""
    out: list[ReceivedBatch] = []
    touches: list[Touch] = []
    claims: dict[ClaimKey, tuple[RegisterKey, int, int]] = {}
    for batch in waiting:
        if batch.carried or (out and not _follows(out[-1], batch)):
            break
        touch = batches.touch(batch, currency)
        again = claims.keys() & touch.claims.keys()
        # A claim that changes its register or start is a case. Each names where it stood: what all of them span is one interval.
        if any(claims[key][:2] != touch.claims[key][:2] for key in again):
            break
        spans = {key: (*claims[key][:2], max(claims[key][2], touch.claims[key][2])) for key in again}
        claims.update(touch.claims)
        claims.update(spans)
        out.append(batch)
        touches.append(touch)
    if not out:
        return (), None
    return tuple(out), replace(
        touches[0],
        account_ids=tuple(dict.fromkeys(account_id for touch in touches for account_id in touch.account_ids)),
        quota_ids=tuple(dict.fromkeys(quota_id for touch in touches for quota_id in touch.quota_ids)),
        claims=claims,
    )


def _follows(before: ReceivedBatch, batch: ReceivedBatch) -> bool:
    return (batch.gateway_id, batch.incarnation, batch.sequence, batch.previous_hash) == (
        before.gateway_id,
        before.incarnation,
        before.sequence + 1,
        before.batch_hash,
    )


class Several:
    """Plans one batch after the other. Mutable only inside one transaction; what leaves it is immutable."""

    def __init__(self, view: View) -> None:
        """``view`` was loaded as :func:`front` said."""
        #: An overlap may be of an interval that only a later batch reaches: then nothing is said here.
        self._ordinary = not view.overlaps and not view.open_cases
        self._balances, self._quotas, self._claimed = dict(view.balances), dict(view.quotas), dict(view.claimed)
        self._demand = dict(view.demand)
        self._view = replace(
            view, balances=self._balances, quotas=self._quotas, claimed=self._claimed, demand=self._demand
        )
        self._reached: dict[RegisterKey, _Reached] = {}

    def plan(self, batch: ReceivedBatch, *, now: Instant) -> Posting | None:
        """What posting ``batch`` writes after those before it; None where it has to go alone."""
        if not self._ordinary or batches.fit(self._view, batch) is not ChainStep.NEXT:
            return None
        for claim in batch.claims:
            reached = self._reached.get(claim.register)
            if reached is not None and claim.register_from < reached.by_others(claim.authorization_id):
                return None
        posting = batches.plan(self._view, batch, now=now)
        if not _is_ordinary(posting):
            return None
        self._follow(posting)
        return posting

    def _follow(self, posting: Posting) -> None:
        """The view as the next batch would load it."""
        balances, quotas = self._balances, self._quotas
        for path, change in posting.changes.items():
            balances[path] = _sum(balances.get(path, _NOTHING), change)
        for after in posting.quotas:
            before = quotas[after.quota_id]
            # As _replace would, at half its price.
            quotas[after.quota_id] = Quota(
                *before[:8], after.posted_micros, after.voided_micros, _STATUS[after.status], before.in_use_at
            )
        for quota_id, at in posting.in_use:
            quotas[quota_id] = quotas[quota_id]._replace(in_use_at=at)
        self._claimed.update({claim.key: claim for claim in posting.claims})
        self._reach(posting.claims)
        for gateway_id, account_id, spent in posting.demand:
            self._demand[gateway_id, account_id] = spent
        assert posting.chain is not None
        self._view = replace(
            self._view,
            gateways={**self._view.gateways, **{gateway.gateway_id: gateway for gateway in posting.gateways}},
            chain=posting.chain[1],
            # The place after the end of a chain is free.
            batch=None,
        )

    def _reach(self, claims: Sequence[Claimed]) -> None:
        reached = self._reached
        for claim in claims:
            authorization_id, register, start, end = claim[:4]
            # An interval without width overlaps nothing.
            if start < end:
                before = reached.get(register)
                if before is None:
                    reached[register] = _Reached(authorization_id, end)
                else:
                    before.add(authorization_id, end)


class _Reached:
    """How far up a register the claims of a group come: the farthest, and the farthest of another authorization."""

    __slots__ = ("_authorization_id", "_other_to", "_to")

    def __init__(self, authorization_id: AuthorizationId, to: int) -> None:
        self._authorization_id = authorization_id
        self._to, self._other_to = to, 0

    def add(self, authorization_id: AuthorizationId, to: int) -> None:
        if authorization_id == self._authorization_id:
            self._to = max(self._to, to)
        elif to > self._to:
            self._other_to = self._to
            self._authorization_id, self._to = authorization_id, to
        else:
            self._other_to = max(self._other_to, to)

    def by_others(self, authorization_id: AuthorizationId) -> int:
        """How far those of other authorizations come; a claim that begins there or above overlaps none of them."""
        return self._other_to if authorization_id == self._authorization_id else self._to


def _is_ordinary(posting: Posting) -> bool:
    return (
        not posting.cases
        and not posting.directives
        # What it takes over of what others carried: as rare.
        and not posting.carried_beyond
        # Raised by what another gateway carried, and still so: few, and written otherwise.
        and all(claim.raised_by is None for claim in posting.claims)
    )


def _sum(before: Balances, change: Balances) -> Balances:
    return Balances(*map(add, before, change))
