"""The ledger's operations while it is restored from a backup (DESIGN 5.10): stop, begin a new epoch, take back what gateways show, open.

What is decided about money is ``ledger.core.restoring``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId, OperatorId
from farthing_cloud.ledger.core import decisions, restoring
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.restoring import LedgerRestoring, Link, Loss, Proof, Shown
from farthing_cloud.ledger.core.rows import ZERO_HASH, Decision, Epoch, Gateway, LedgerState, Rewinding, Touch
from farthing_cloud.ledger.store.interface import GatewayRewinding, LedgerStore, Transaction

#: Accounts looked at in one round; the next round takes the rest.
ACCOUNTS_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBack:
    """What a gateway's showing changed."""

    directive_version: int
    directives: int
    quotas: int
    reinstated_micros: int


class RestoredLedger:
    """Operations over a store whose database may be older than what was said."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    # ---- found out

    async def hear(self, gateway: Gateway, proof: Proof, *, directive_version: int, now: Instant) -> bool:
        """What a gateway's proof means; whether it has to show what it was told before anything else.

        Raises ``LedgerRestoring`` while the ledger is stopped, from this very proof on where it is a new one.
        """
        epoch = await self._store.epoch()
        if epoch.state is not LedgerState.STOPPED:
            lost = await self._lost(gateway, proof)
            if lost is not None and lost.epoch >= epoch.number:
                why = f"{gateway.gateway_id} has proven it: {lost.why}"
                epoch = await self.stop(why, now=now)
            elif lost is not None and lost.of_chain and gateway.epoch >= epoch.number:
                await self._show_again(gateway, now=now)
                return True
        if epoch.state is LedgerState.STOPPED:
            raise LedgerRestoring(restoring.why_not_open(epoch))
        if gateway.epoch >= epoch.number:
            return False
        if directive_version == 0 and gateway.directive_version > 0:
            raise LedgerRestoring(
                f"the ledger was restored, and {gateway.gateway_id} has nothing to show of what it was told, its journal is empty: {restoring.GIVE_UP}"
            )
        return True

    async def _lost(self, gateway: Gateway, proof: Proof) -> Loss | None:
        link = await self.link(gateway.gateway_id, proof.version)
        posted = (
            await self._store.batch(gateway.gateway_id, proof.incarnation, proof.sequence) if proof.sequence else None
        )
        return restoring.loss(
            proof,
            directive_hash=link.hash if link is not None else None,
            batch_hash=posted.batch_hash if posted is not None else None,
        )

    async def link(self, gateway_id: GatewayId, version: int) -> Link | None:
        """A link of a gateway's chain; None where it does not go so far."""
        return await _link(self._store, gateway_id, version)

    async def stop(self, why: str, *, now: Instant) -> Epoch:
        """Stop the ledger: nothing goes out before two persons have begun its next epoch. Whoever is posting finishes first."""

        async def work(tx: Transaction) -> Epoch:
            await tx.take_all_books()
            epoch = await tx.epoch()
            if epoch.state is LedgerState.STOPPED:
                return epoch
            stopped = replace(epoch, state=LedgerState.STOPPED, since=now, why=why)
            await tx.set_epoch(stopped)
            return stopped

        return await self._store.run(work)

    async def _show_again(self, gateway: Gateway, *, now: Instant) -> None:
        async def work(tx: Transaction) -> None:
            view = await tx.load(
                Touch(operator_id=gateway.operator_id, currency=gateway.currency, gateway_ids=(gateway.gateway_id,))
            )
            await tx.post(restoring.must_show_again(view, gateway.gateway_id, now=now))

        await self._store.run(work)

    # ---- decided

    async def propose(self, operator_id: OperatorId, *, reason: str, person: str, now: Instant) -> Decision:
        """One person says that the ledger was restored: that stops it. Another one's approval begins the next epoch."""
        await self.stop(f"{person} says so: {reason}", now=now)

        async def work(tx: Transaction) -> Decision:
            mine = [books for books in await tx.take_all_books() if books[0] == operator_id]
            if not mine:
                raise UnknownName(f"no books of operator {operator_id}")
            touch = Touch(operator_id=operator_id, currency=mine[0][1])
            decision, posting = restoring.propose(await tx.load(touch), reason=reason, person=person, now=now)
            before = (await tx.load(replace(touch, decision_id=decision.decision_id))).decision
            if before is not None:
                return before
            await tx.post(posting)
            return decision

        return await self._store.run(work)

    async def begin(self, touch: Touch, decision_id: str, *, content_hash: bytes, person: str, now: Instant) -> bool:
        """Another person approves the next epoch, and it begins: for all operators. Whether anything changed."""

        async def work(tx: Transaction) -> bool:
            everybody = await tx.take_all_books()
            view = await tx.load(touch)
            posting = decisions.approve(
                view, decision_id, content_hash=content_hash, person=person, receipt_keys=[], now=now
            )
            if posting is None:
                return False
            assert view.decision is not None
            epoch, _ = restoring.begin(view, view.decision, now=now)
            await tx.set_epoch(epoch)
            await tx.post(posting)
            # Every operator's audit chain says so.
            told = {touch.operator_id}
            for operator_id, currency in everybody:
                if operator_id not in told:
                    told.add(operator_id)
                    await tx.post(replace(posting, operator_id=operator_id, currency=currency, approved=None))
            return True

        return await self._store.run(work)

    # ---- gateways rewind

    async def common(self, gateway_id: GatewayId, links: Sequence[Link]) -> Link:
        """The newest of ``links`` that the ledger's chain has too."""
        for link in links:
            if link == await self.link(gateway_id, link.version):
                return link
        return Link(0, ZERO_HASH)

    async def take_back(
        self, gateway: Gateway, fork: Link, shown: Sequence[Shown], receipted: tuple[int, int], *, now: Instant
    ) -> TakenBack:
        """Make a gateway's chain whole; ``shown`` is all that it has after ``fork``, each verified."""
        gateway_id = gateway.gateway_id
        account_ids, quota_ids = restoring.names_of(shown)
        touch = Touch(
            operator_id=gateway.operator_id,
            currency=gateway.currency,
            gateway_ids=(gateway_id,),
            account_ids=account_ids,
            quota_ids=quota_ids,
            incarnations=True,
            floors=True,
            # Nobody's wish: which of the accounts the gateway was told of.
            wish=(gateway_id, ""),
        )

        async def work(tx: Transaction) -> Posting:
            view = await tx.load(touch)
            if view.epoch.state is LedgerState.STOPPED or view.gateways[gateway_id].epoch >= view.epoch.number:
                raise LedgerRefusal(f"{gateway_id} has nothing to show now: say hello again")
            if await _link(tx, gateway_id, fork.version) != fork:
                raise LedgerRefusal(f"the chain of {gateway_id} changed meanwhile: say hello again")
            tail = await tx.tail(gateway_id, fork.version)
            posting = restoring.take_back(view, gateway_id, fork, shown, tail, receipted=receipted, now=now)
            await tx.post(posting)
            return posting

        posting = await self._store.run(work)
        back = posting.rewinding
        assert back is not None
        return TakenBack(
            directive_version=posting.gateways[0].directive_version,
            directives=back.directives,
            quotas=back.quotas,
            reinstated_micros=back.reinstated_micros,
        )

    async def rewinding(self, gateway_id: GatewayId) -> GatewayRewinding | None:
        """How far a gateway is in the present epoch; None in the first, where nothing was restored."""
        if (await self._store.epoch()).number == 1:
            return None
        return of_gateway(await self._store.rewindings(), gateway_id)

    async def go_on(self, gateway: Gateway, known: GatewayRewinding, proof: Proof, *, now: Instant) -> GatewayRewinding:
        """Hear a journal that may have begun an incarnation which two persons decided; how far its gateway is, with that."""
        gateway_id = gateway.gateway_id
        posted = await self._store.batch(gateway_id, proof.incarnation, proof.sequence) if proof.sequence else None

        def after(known: GatewayRewinding | None) -> Rewinding | None:
            if known is None or known.rewinding is None:
                return None
            is_rewound = known.unposted is None
            after = restoring.goes_on(
                gateway, known.rewinding, proof, is_rewound=is_rewound, is_posted=posted is not None
            )
            return after if after != known.rewinding else None

        if after(known) is None:
            return known

        async def work(tx: Transaction) -> None:
            touch = Touch(operator_id=gateway.operator_id, currency=gateway.currency, gateway_ids=(gateway_id,))
            view = await tx.load(touch)
            # Asked again once the gateway's row is locked: what its accounts lack may have been counted since.
            changed = after(of_gateway(await tx.rewindings(), gateway_id))
            if changed is not None:
                await tx.post(restoring.waits_for(view, changed, now=now))

        await self._store.run(work)
        return of_gateway(await self._store.rewindings(), gateway_id) or known

    # ---- over

    async def open_again(self, *, now: Instant) -> bool:
        """Open the ledger once every gateway has rewound or is given up; whether it did."""
        if (await self._store.epoch()).state is not LedgerState.RESTORING:
            return False
        if not all(gateway.is_done for gateway in await self._store.rewindings()):
            return False
        await self._settle(now=now)

        async def work(tx: Transaction) -> bool:
            await tx.take_all_books()
            epoch = await tx.epoch()
            if epoch.state is not LedgerState.RESTORING or not all(g.is_done for g in await tx.rewindings()):
                return False
            if await tx.overdrawn(1):
                return False  # since we looked; the next round settles it
            await tx.set_epoch(replace(epoch, state=LedgerState.OPEN, since=now, why=""))
            return True

        return await self._store.run(work)

    async def _settle(self, *, now: Instant) -> None:
        """End what accounts hold and have not: only payments that nobody posted again can be missing now."""
        while overdrawn := await self._store.overdrawn(ACCOUNTS_AT_ONCE):
            for operator_id, currency, account_id in overdrawn:
                live = await self._store.account_quotas(operator_id, account_id)
                touch = Touch(
                    operator_id=operator_id,
                    currency=currency,
                    gateway_ids=tuple(sorted({quota.gateway_id for quota in live})),
                    account_ids=(account_id,),
                    account_quotas=True,
                )

                async def work(tx: Transaction, touch: Touch = touch, account_id: AccountId = account_id) -> None:
                    view = await tx.load(touch)
                    if any(quota.gateway_id not in view.gateways for quota in view.quotas.values()):
                        return  # taken back since we looked: the next round
                    posting = restoring.settle(view, account_id, now=now)
                    if posting is not None:
                        await tx.post(posting)

                await self._store.run(work)


async def _link(rows: LedgerStore | Transaction, gateway_id: GatewayId, version: int) -> Link | None:
    if version == 0:
        return Link(0, ZERO_HASH)
    found = await rows.directives(gateway_id, version - 1, 1)
    return Link(version, found[0].body_hash) if found else None


def of_gateway(rewindings: Iterable[GatewayRewinding], gateway_id: GatewayId) -> GatewayRewinding | None:
    """That of one gateway."""
    return next((each for each in rewindings if each.gateway_id == gateway_id), None)


async def unposted(tx: Transaction, gateway_id: GatewayId) -> Rewinding | None:
    """What a gateway has shown in the present epoch, where batches are missing that it has receipts for."""
    known = of_gateway(await tx.rewindings(), gateway_id)
    return known.unposted if known is not None else None
