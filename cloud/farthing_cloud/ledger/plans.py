"""Mass corrections: making a plan from proven detail, having it approved, and executing it.

Making reads only, page by page and without locks: what a plan says is looked at again, with the use's register locked, when an item of it
is executed.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from farthing.clock import Instant
from farthing.evidence import leaf as leaves_of
from farthing.evidence.batches import decompress_leaves
from farthing.evidence.leaf import Leaf
from farthing.ids import AuthorizationId, GatewayId, OperatorId
from farthing.money import Currency
from farthing.tariff import Tariff, TariffError, parse
from farthing.v1 import batch_pb2, ledger_pb2
from farthing_cloud.ledger.core import plans
from farthing_cloud.ledger.core.differences import NetAndTaxes
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.plans import MAX_ITEMS, Item, Outcome, Wish
from farthing_cloud.ledger.core.repricing import NotComputable, reprice
from farthing_cloud.ledger.core.rows import Claimed, Correction, CorrectionPlan, Touch
from farthing_cloud.ledger.facts import Facts, GatewayFacts
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import BillingBatch, Transaction

#: Batches read at once: most have 100 kB with their detail.
BATCHES_AT_ONCE: Final = 16
#: Uses whose detail is read together: their batches are read once for all of them, and their leaves are held in memory meanwhile.
USES_AT_ONCE: Final = 500
#: Items executed in one call: a few milliseconds each, so that a call stays far below its timeout.
ITEMS_AT_ONCE: Final = 200


@dataclass(slots=True)
class _Detailed:
    """What was found of a use: its leaves, and the postings that billed it."""

    leaves: list[Leaf] = field(default_factory=list)
    posting_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Priced:
    """A use, and what it should have cost; None where the item says why that cannot be said."""

    item: Item
    claim: Claimed
    should: NetAndTaxes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """What one call executed; ``waiting``: items that cannot be posted now, and why."""

    next_item: int
    posted: int
    waiting: tuple[tuple[int, str], ...]


class CorrectionPlans:
    """Plans over a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._facts = Facts(ledger.store)

    async def make(self, wish: Wish, *, person: str, now: Instant) -> CorrectionPlan:
        """Look at every affected use, and keep what becomes of each.

        Raises ``LedgerRefusal`` for a tariff that cannot be read, or where nothing, or too much, is affected.
        """
        try:
            tariff = parse(wish.by_ocpi_json)
        except TariffError as err:
            raise LedgerRefusal(f"the tariff to price by cannot be read: {err}") from err
        currency = Currency(tariff.currency)
        affected = await self._affected(wish, currency)
        if not affected:
            raise LedgerRefusal(f"no use of {wish.tariff_id} was billed at {wish.site_id} then")
        items: list[Item] = []
        for gateway_id in sorted({gateway_id for _, gateway_id in affected}):
            mine = {
                authorization: version for (authorization, owner), version in affected.items() if owner == gateway_id
            }
            names = sorted(mine)
            for start in range(0, len(names), USES_AT_ONCE):
                chunk = {name: mine[name] for name in names[start : start + USES_AT_ONCE]}
                items += await self._judged(wish, currency, tariff, gateway_id, chunk)
        content = plans.content_of(wish, currency, items, person=person, now=now)

        async def work(tx: Transaction) -> CorrectionPlan:
            touch = Touch(operator_id=wish.operator_id, currency=currency)
            plan, posting = plans.propose(await tx.load(touch), content)
            await tx.post(posting)
            return plan

        return await self._store.run(work)

    async def _affected(self, wish: Wish, currency: Currency) -> dict[tuple[AuthorizationId, GatewayId], int]:
        """Uses with a record in the plan's time, and the version of the tariff they were priced by."""
        found: dict[tuple[AuthorizationId, GatewayId], int] = {}
        after = 0
        while page := await self._store.site_batches(
            wish.operator_id, currency, wish.site_id, since=wish.from_at, after=after, limit=BATCHES_AT_ONCE
        ):
            for batch in page:
                for authorization_id, version in await asyncio.to_thread(_named, wish, batch.batch):
                    found[authorization_id, batch.gateway_id] = version
            if len(found) > MAX_ITEMS:
                raise LedgerRefusal(f"more than {MAX_ITEMS} uses: make several plans, each of a shorter time")
            after = page[-1].place
        return found

    async def _judged(
        self,
        wish: Wish,
        currency: Currency,
        tariff: Tariff,
        gateway_id: GatewayId,
        versions: Mapping[AuthorizationId, int],
    ) -> list[Item]:
        detailed: dict[AuthorizationId, _Detailed] = {name: _Detailed() for name in versions}
        after = 0
        while page := await self._store.billing_batches(
            gateway_id, tuple(versions), after=after, limit=BATCHES_AT_ONCE
        ):
            for batch in page:
                await asyncio.to_thread(_collect, batch, detailed)
            after = page[-1].place
        facts = await self._facts.of(gateway_id)

        # Prices first: they take milliseconds each, and no connection of the database waits for them.
        priced = [
            await self._priced(tariff, facts, (name, gateway_id), versions[name], found)
            for name, found in detailed.items()
        ]

        async def work(tx: Transaction) -> list[Item]:
            return [
                each.item
                if each.should is None
                else plans.judge(
                    each.item,
                    each.claim,
                    await tx.use(wish.operator_id, currency, each.claim, each.item.posting_ids),
                    each.should,
                )
                for each in priced
            ]

        return await self._store.run(work)

    async def _priced(
        self,
        tariff: Tariff,
        facts: GatewayFacts,
        name: tuple[AuthorizationId, GatewayId],
        version: int,
        found: _Detailed,
    ) -> _Priced:
        """What a use should have cost; without a price where that cannot be said, and the item says why."""
        claim = await self._store.claimed(*name)
        assert claim is not None  # a posted batch names it
        item = Item(
            authorization_id=claim.authorization_id,
            gateway_id=claim.gateway_id,
            tariff_version=version,
            outcome=Outcome.LEFT_OUT,
            billed_net_micros=claim.net_micros,
            billed_tax_micros=claim.tax_micros,
            posting_ids=tuple(found.posting_ids),
        )
        why = plans.not_over(claim)
        register = facts.register(*claim.register)
        if not why and register is None:
            why = "its register is not known"
        if why or register is None:
            return _Priced(item=plans.left_out(item, why), claim=claim, should=None)
        try:
            should = await asyncio.to_thread(reprice, tariff, claim, found.leaves, register, facts.time_zone)
        except NotComputable as err:
            return _Priced(item=plans.left_out(item, str(err)), claim=claim, should=None)
        return _Priced(item=item, claim=claim, should=should)

    async def approve(self, plan_id: str, *, content_hash: bytes, person: str, now: Instant) -> bool:
        """Another person approves exactly what was planned; whether anything changed."""
        plan = await self.of(plan_id)
        touch = Touch(operator_id=plan.operator_id, currency=plan.currency, plan_id=plan_id)

        async def work(tx: Transaction) -> bool:
            posting = plans.approve(await tx.load(touch), plan_id, content_hash=content_hash, person=person, now=now)
            if posting is not None:
                await tx.post(posting)
            return posting is not None

        return await self._store.run(work)

    async def of(self, plan_id: str) -> CorrectionPlan:
        """A plan with its content; raise ``UnknownName``."""
        plan = await self._store.plan(plan_id)
        if plan is None:
            raise UnknownName(f"no plan {plan_id}")
        return plan

    async def of_operator(self, operator_id: OperatorId) -> Sequence[CorrectionPlan]:
        """All plans, oldest first, without their contents."""
        return await self._store.plans(operator_id)

    async def shown(self, plan_id: str) -> tuple[CorrectionPlan, Sequence[Correction]]:
        """A plan with its content, and what was posted of it."""
        plan = await self.of(plan_id)
        return plan, await self._store.plan_corrections(plan.operator_id, plan_id)

    async def execute(self, plan_id: str, *, first_item: int, person: str, now: Instant) -> Executed:
        """Post the refunds of the next items, each in a transaction of its own; what was posted before stays as it is.

        Raises ``LedgerRefusal`` for a plan that nobody approved.
        """
        plan = await self.of(plan_id)
        if not plan.approved_by:
            raise LedgerRefusal(f"{plan_id} waits for its approval by another person than {plan.planned_by}")
        said = ledger_pb2.CorrectionPlanContent.FromString(plan.content)
        posted, waiting, tried = 0, [], 0
        index = first_item
        while index < len(said.items) and tried < ITEMS_AT_ONCE:
            if said.items[index].outcome == Outcome.REFUND:
                tried += 1
                changed, why = await self._execute(plan, said, index, person=person, now=now)
                posted += changed
                if why:
                    waiting.append((index, why))
            index += 1
        return Executed(next_item=index, posted=posted, waiting=tuple(waiting))

    async def _execute(
        self, plan: CorrectionPlan, said: ledger_pb2.CorrectionPlanContent, index: int, *, person: str, now: Instant
    ) -> tuple[bool, str]:
        order, planned = plans.order_of_item(plan, said, index)
        if await self._store.correction(order.operator_id, order.correction_id) is not None:
            return False, ""
        try:
            changed, _, _ = await self._ledger.correct(order, person=person, now=now, planned=planned)
        except LedgerRefusal as err:
            # This one has to wait; the others have not.
            return False, str(err)
        return changed, ""


def _named(wish: Wish, raw: bytes) -> list[tuple[AuthorizationId, int]]:
    """Authorizations of a batch with a share of an affected line, and the version of its tariff."""
    batch = batch_pb2.Batch.FromString(raw)
    versions = {
        index: line.tariff_version
        for index, line in enumerate(batch.lines)
        if wish.is_about(line.tariff_id, line.tariff_version, line.quarter)
    }
    named = []
    for claim in batch.claims if versions else ():
        mine = [share.line for share in claim.shares if share.line in versions]
        if mine:
            named.append((AuthorizationId(claim.authorization_id), versions[mine[0]]))
    return named


def _collect(batch: BillingBatch, detailed: Mapping[AuthorizationId, _Detailed]) -> None:
    """Add a batch's leaves, and that it billed them, to the uses they are of."""
    assert batch.leaves is not None
    said = batch_pb2.Batch.FromString(batch.batch)
    for claim in said.claims:
        found = detailed.get(AuthorizationId(claim.authorization_id))
        if found is not None:
            found.posting_ids.append(batch.posting_id)
    for data in decompress_leaves(batch.leaves):
        leaf = leaves_of.decode(data)
        found = detailed.get(leaf.authorization)
        if found is not None:
            found.leaves.append(leaf)
