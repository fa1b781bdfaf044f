"""The ledger's operations: load what a request touches, plan, post; all in one transaction of the store.

Each takes ``now``, the business instant. Nothing here decides about money: that is ``ledger.core``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import Currency
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.core import batches, cases, evidence, funds, policy, quotas, windows
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.directives import Body
from farthing_cloud.ledger.core.funds import Funding, LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.posting import Event
from farthing_cloud.ledger.core.quotas import GrantTerms, QuotaRequest
from farthing_cloud.ledger.core.received import ReceivedBatch
from farthing_cloud.ledger.core.rows import AccountStatus, Chain, Gateway, Payer, QuotaRequested, Touch
from farthing_cloud.ledger.core.windows import SplitRule
from farthing_cloud.ledger.store.interface import LedgerStore, ReceiptContent, Signed, Transaction

#: Rows resolved in one round; the next round takes the rest.
FLOORS_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOutcome:
    """How a batch fitted its chain; ``receipt`` is there for NEXT and REPLAY. ``expected`` is the sequence to send next."""

    step: ChainStep
    expected: int
    receipt: ReceiptContent | None


class LostJournal(LedgerRefusal):
    """A gateway that says it has no incarnation, although the cloud knows of its past."""


class Ledger:
    """Operations over a store."""

    def __init__(self, store: LedgerStore, *, terms: GrantTerms, receipt_keys: tuple[bytes, ...]) -> None:
        self.store = store
        self._terms = terms
        self._receipt_keys = receipt_keys

    async def put_gateway(
        self,
        *,
        gateway_id: GatewayId,
        operator_id: OperatorId,
        site_id: SiteId,
        currency: Currency,
        exposure_micros: int,
        batch_key: bytes,
        grant_key: bytes,
        time_zone: str,
        now: Instant,
    ) -> bool:
        """Create a gateway (incarnation 1, first directive: welcome) or change it; whether anything changed."""
        wanted = Gateway(
            gateway_id=gateway_id,
            operator_id=operator_id,
            site_id=site_id,
            currency=currency,
            exposure_micros=exposure_micros,
            beyond_micros=0,
            floor_micros=0,
            incarnation=1,
            adopted=False,
            quarantined=False,
            directive_version=0,
            directive_hash=bytes(32),
            time_zone=time_zone,
            batch_key=batch_key,
            grant_key=grant_key,
            witness_start_id=b"",
            witness_position=0,
        )

        async def work(tx: Transaction) -> bool:
            view = await tx.load(Touch(operator_id=operator_id, currency=currency, gateway_ids=(gateway_id,)))
            posting = funds.put_gateway(view, wanted, receipt_keys=list(self._receipt_keys), now=now)
            if posting is not None:
                await tx.post(posting)
            return posting is not None

        return await self.store.run(work)

    async def put_account(
        self,
        *,
        operator_id: OperatorId,
        account_id: AccountId,
        currency: Currency,
        credit_limit_micros: int,
        debt_limit_micros: int,
        status: AccountStatus,
        preload_micros: int,
        now: Instant,
        dry_run: bool = False,
    ) -> bool:
        """Create an account or change its terms; whether anything changes."""
        before = await self.store.currency_of(operator_id, account_id)
        if before is not None and before != currency:
            raise funds.OtherContent(f"account {account_id} is in {before}")
        told = tuple(await self.store.told(operator_id, account_id))
        payer = Payer(
            account_id=account_id,
            status=status,
            credit_limit_micros=credit_limit_micros,
            debt_limit_micros=debt_limit_micros,
            preload_micros=preload_micros,
        )

        async def work(tx: Transaction) -> bool:
            view = await tx.load(
                Touch(operator_id=operator_id, currency=currency, gateway_ids=told, account_ids=(account_id,))
            )
            posting = funds.put_account(view, payer, told=tuple(view.gateways.values()), now=now)
            if posting is not None and not dry_run:
                await tx.post(posting)
            return posting is not None

        return await self.store.run(work)

    async def fund(self, funding: Funding, *, now: Instant, dry_run: bool = False) -> bool:
        """Credit an account, debts first; whether anything changes (a payment counts once)."""

        async def work(tx: Transaction) -> bool:
            posting = funds.fund(await tx.load(funding.touch()), funding, now=now)
            if posting is not None and not dry_run:
                await tx.post(posting)
            return posting is not None

        return await self.store.run(work)

    async def hello(
        self, gateway_id: GatewayId, *, incarnation: int, start_id: bytes, position: int
    ) -> tuple[Gateway, Chain]:
        """Agree on the incarnation: the gateway as it stood before, with its witness, and its chain of batches.

        Raises ``LostJournal`` for a gateway without incarnation of which the ledger has heard before.
        """
        gateway = await self._gateway(gateway_id)
        chain = await self.store.chain(gateway_id, gateway.incarnation)
        if incarnation == 0 and (gateway.adopted or chain.sequence):
            raise LostJournal(
                f"{gateway_id} has posted {chain.sequence} batches in incarnation {gateway.incarnation} and now knows none:"
                " its journal is lost or another one. A new incarnation needs a person's approval"
            )
        if incarnation > gateway.incarnation:
            raise LostJournal(
                f"{gateway_id} speaks of incarnation {incarnation}, the ledger knows {gateway.incarnation}:"
                " the ledger was restored, or the gateway belongs elsewhere"
            )
        if incarnation == gateway.incarnation:
            await self.store.witness(gateway_id, start_id, position, adopted=True)
        return gateway, chain

    async def request_quota(self, request: QuotaRequest, *, now: Instant) -> QuotaRequested:
        """Answer a gateway's wish for money; the same request gets the same answer."""

        async def work(tx: Transaction) -> QuotaRequested:
            view = await tx.load(request.touch())
            if request.gateway_id not in view.gateways:
                raise UnknownName(f"no gateway {request.gateway_id}")
            answer, posting = quotas.grant(view, request, self._terms, now=now)
            if posting is not None:
                await tx.post(posting)
            return answer

        return await self.store.run(work)

    async def post_batch(self, batch: ReceivedBatch, *, currency: Currency, now: Instant) -> BatchOutcome:
        """Post a batch if it is the next of its chain; a batch posted before gives its receipt again.

        A fork is kept, and its gateway quarantined; a gap changes nothing.
        """

        async def work(tx: Transaction) -> BatchOutcome:
            view = await tx.load(batches.touch(batch, currency))
            step = batches.fit(view, batch)
            assert view.chain is not None
            if step is not ChainStep.NEXT:
                return BatchOutcome(step=step, expected=view.chain.sequence + 1, receipt=None)
            posting = batches.plan(view, batch, now=now)
            posted = await tx.post(posting)
            assert posting.batch is not None
            receipt = ReceiptContent(
                ledger_epoch=view.ledger_epoch,
                gateway_id=batch.gateway_id,
                incarnation=batch.incarnation,
                sequence=batch.sequence,
                batch_hash=batch.batch_hash,
                posted_at=now,
                parked=tuple((parked.line, parked.reason) for parked in posting.batch.parked),
                audit_head=posted.audit_head,
            )
            return BatchOutcome(step=step, expected=batch.sequence + 1, receipt=receipt)

        outcome = await self.store.run(work)
        if outcome.step is ChainStep.REPLAY:
            stored = await self.store.batch(batch.gateway_id, batch.incarnation, batch.sequence)
            assert stored is not None
            return replace(outcome, receipt=stored.receipt)
        if outcome.step is ChainStep.FORK:
            signed = Signed(body=batch.batch, signature=batch.signature, key_id=batch.key_id)
            await self.store.park_fork(batch.gateway_id, batch.incarnation, batch.sequence, signed, "fork")
        return outcome

    async def recall(
        self, operator_id: OperatorId, *, gateway_id: str, account_id: str, reason: str, now: Instant
    ) -> tuple[QuotaId, ...]:
        """Ask gateways to stop quotas; empty ids stand for all. Idempotent: only open ones are recalled."""
        recalled: list[QuotaId] = []
        by_gateway: dict[GatewayId, list[QuotaId]] = {}
        for gateway, _, quota_id in await self.store.open_quotas(operator_id, gateway_id, account_id):
            by_gateway.setdefault(gateway, []).append(quota_id)
        for gateway, quota_ids in by_gateway.items():
            currency = (await self._gateway(gateway)).currency

            async def work(
                tx: Transaction,
                gateway: GatewayId = gateway,
                quota_ids: list[QuotaId] = quota_ids,
                currency: Currency = currency,
            ) -> tuple[QuotaId, ...]:
                view = await tx.load(
                    Touch(
                        operator_id=operator_id,
                        currency=currency,
                        gateway_ids=(gateway,),
                        quota_ids=tuple(quota_ids),
                    )
                )
                posting = quotas.recall(view, tuple(quota_ids), reason, now=now)
                if posting is None:
                    return ()
                await tx.post(posting)
                return tuple(after.quota_id for after in posting.quotas)

            recalled.extend(await self.store.run(work))
        return tuple(recalled)

    async def decide_case(self, case_id: int, *, release: bool, now: Instant) -> bool:
        """Release or void what was set aside; whether anything changed."""
        books = await self.store.books_of_case(case_id)
        if books is None:
            raise UnknownName(f"no case {case_id}")
        operator_id, currency = books

        async def work(tx: Transaction) -> bool:
            view = await tx.load(Touch(operator_id=operator_id, currency=currency, case_id=case_id))
            posting = cases.decide(view, case_id, release=release, now=now)
            if posting is not None:
                await tx.post(posting)
            return posting is not None

        return await self.store.run(work)

    async def close_window(
        self,
        operator_id: OperatorId,
        currency: Currency,
        window: str,
        rules: Mapping[SiteId, SplitRule],
        *,
        now: Instant,
    ) -> ledger_pb2.CloseWindowResponse:
        """Close the open window, which must be ``window``; closing it twice gives the first answer."""

        async def work(tx: Transaction) -> bytes | None:
            view = await tx.load(Touch(operator_id=operator_id, currency=currency, exclusive=True))
            if view.window != window:
                return None
            posting = windows.close(view, rules, now=now)
            await tx.post(posting)
            assert posting.window_closed is not None
            return posting.window_closed.answer

        answer = await self.store.run(work) or await self.store.closing(operator_id, currency, window)
        if answer is None:
            raise UnknownName(f"window {window} of {operator_id} in {currency} is not open")
        return ledger_pb2.CloseWindowResponse.FromString(answer)

    async def issue_directive(
        self, operator_id: OperatorId, gateway_id: GatewayId, body: Body, *, idempotency_key: str, now: Instant
    ) -> int:
        """Put another service's policy on a gateway's chain, once per key; its version."""
        gateway = await self._gateway(gateway_id)
        if gateway.operator_id != operator_id:
            raise UnknownName(f"no gateway {gateway_id} of operator {operator_id}")
        account_id = policy.account_named(body)

        async def work(tx: Transaction) -> int:
            view = await tx.load(
                Touch(
                    operator_id=operator_id,
                    currency=gateway.currency,
                    gateway_ids=(gateway_id,),
                    account_ids=(account_id,) if account_id is not None else (),
                    wish=(gateway_id, idempotency_key),
                )
            )
            posting, version = policy.issue(view, gateway_id, body, idempotency_key=idempotency_key, now=now)
            if posting is not None:
                await tx.post(posting)
            return version

        return await self.store.run(work)

    async def prove(
        self,
        gateway_id: GatewayId,
        incarnation: int,
        sequence: int,
        *,
        events: tuple[Event, ...],
        now: Instant,
    ) -> bool:
        """Mark a batch whose detail was verified; its events leave in the same transaction. Whether anything changed."""
        gateway = await self._gateway(gateway_id)
        stored = await self.store.batch(gateway_id, incarnation, sequence)
        if stored is None:
            raise UnknownName(f"batch {sequence} of {gateway_id} has not been posted")

        async def work(tx: Transaction) -> bool:
            view = await tx.load(
                Touch(
                    operator_id=gateway.operator_id,
                    currency=gateway.currency,
                    gateway_ids=(gateway_id,),
                    account_ids=tuple(stored.floor),
                    chain=(gateway_id, incarnation, sequence),
                    floors=True,
                )
            )
            posting = evidence.prove(
                view,
                gateway_id,
                incarnation,
                sequence,
                beyond_micros=stored.beyond_micros,
                floor=stored.floor,
                events=events,
                now=now,
            )
            if posting is not None:
                await tx.post(posting)
            return posting is not None

        return await self.store.run(work)

    async def resolve_floors(self, *, now: Instant) -> int:
        """Give room of floors back where debts were settled; how many accounts and gateways there were to look at."""
        settled = await self.store.settled_floors(FLOORS_AT_ONCE)
        for gateway_id, account_id in settled:
            gateway = await self._gateway(gateway_id)
            touch = Touch(
                operator_id=gateway.operator_id,
                currency=gateway.currency,
                gateway_ids=(gateway_id,),
                account_ids=(account_id,),
                floors=True,
            )

            async def work(tx: Transaction, touch: Touch = touch, gateway_id: GatewayId = gateway_id) -> None:
                posting = evidence.resolve(await tx.load(touch), gateway_id, now=now)
                if posting is not None:
                    await tx.post(posting)

            await self.store.run(work)
        return len(settled)

    async def _gateway(self, gateway_id: GatewayId) -> Gateway:
        gateway = await self.store.gateway(gateway_id)
        if gateway is None:
            raise UnknownName(f"no gateway {gateway_id}: create it first")
        return gateway
