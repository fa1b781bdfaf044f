"""The ledger's operations: load what a request touches, plan, post; all in one transaction of the store.

Each takes ``now``, the business instant. Nothing here decides about money: that is ``ledger.core``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from farthing.clock import Instant
from farthing.evidence import classes
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import MAX_AMOUNT_MICROS, Currency
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.carried_ends import CarriedEnds
from farthing_cloud.ledger.core import (
    batches,
    cases,
    corrections,
    decisions,
    evidence,
    funds,
    gateways,
    incarnations,
    policy,
    quotas,
    restoring,
    silence,
    windows,
)
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.carried import Carried
from farthing_cloud.ledger.core.corrections import Order
from farthing_cloud.ledger.core.differences import PlannedBack
from farthing_cloud.ledger.core.directives import Body
from farthing_cloud.ledger.core.funds import Funding, LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.incarnations import Hello, Standing
from farthing_cloud.ledger.core.posting import Event
from farthing_cloud.ledger.core.quotas import GrantTerms, QuotaRequest
from farthing_cloud.ledger.core.received import ReceivedBatch
from farthing_cloud.ledger.core.restoring import Proof
from farthing_cloud.ledger.core.rows import (
    AccountStatus,
    Chain,
    Claimed,
    Correction,
    CorrectionKind,
    Decision,
    DecisionKind,
    Gateway,
    GatewayCaseKind,
    LedgerState,
    Payer,
    QuotaRequested,
    Touch,
)
from farthing_cloud.ledger.core.uses import UsePart, accounts_of, disputed_micros, parts_of
from farthing_cloud.ledger.core.windows import SplitRule
from farthing_cloud.ledger.restored import RestoredLedger, unposted
from farthing_cloud.ledger.store.interface import (
    Detail,
    LedgerStore,
    Signed,
    StoreError,
    Transaction,
)
from farthing_cloud.ledger.together import BatchOutcome, outcome_of, post_together

#: Rows resolved in one round; the next round takes the rest.
FLOORS_AT_ONCE: Final = 100
#: How often a correction looks for quotas that were granted while it did: each look takes one more grant than the last.
LOOKS_AT_QUOTAS: Final = 5
#: What a gateway shows that has neither a directive nor a receipt.
NO_PROOF: Final = Proof(0, b"", 0, 0, 0, b"", 0)
#: Quotas that silence ends in one round.
OVERDUE_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """The answer to a hello: the gateway as it stood before, with its witness, and its present chain of batches."""

    gateway: Gateway
    chain: Chain
    standing: Standing
    #: Why it waits; empty when it does not.
    why: str
    #: Batches are wanted again: how far the chains of earlier incarnations are. None: they are not.
    earlier: tuple[Chain, ...] | None = None


class ReadsCarriedEnds(Protocol):
    """Verifies and prices a batch's carried ends (:class:`farthing_cloud.ledger.carried_ends.CarriedEnds`)."""

    async def read(self, batch: ReceivedBatch) -> tuple[Carried, ...]:
        """One for each, in order."""


class Ledger:
    """Operations over a store."""

    def __init__(
        self,
        store: LedgerStore,
        *,
        terms: GrantTerms,
        receipt_keys: tuple[bytes, ...],
        carried_ends: ReadsCarriedEnds | None = None,
        payback_alone_micros: int = MAX_AMOUNT_MICROS,
    ) -> None:
        self.store = store
        self.restored = RestoredLedger(store)
        self._terms = terms
        self._receipt_keys = receipt_keys
        #: What is more wants a second person before it is paid back.
        self._payback_alone_micros = payback_alone_micros
        self._carried_ends = carried_ends if carried_ends is not None else CarriedEnds(store)

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
        revoked_keys: Sequence[bytes] = (),
        least_class: int = classes.DEVICE_SIGNED,
    ) -> bool:
        """Create a gateway (incarnation 1, first directive: welcome) or change it; whether anything changed.

        A batch key in ``revoked_keys`` is good for nothing any more, for ever, whether it is said again or not.
        """
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
            least_class=least_class,
        )

        async def work(tx: Transaction) -> bool:
            view = await tx.load(
                Touch(operator_id=operator_id, currency=currency, gateway_ids=(gateway_id,), incarnations=True)
            )
            posting = gateways.put_gateway(
                view,
                wanted,
                receipt_keys=list(self._receipt_keys),
                batch_keys=await tx.batch_keys(gateway_id),
                revoked_keys=revoked_keys,
                now=now,
            )
            if posting is not None:
                await tx.post(posting)
            return posting is not None

        return await self.store.run(work)

    async def revoke_gateway(self, gateway_id: GatewayId, *, now: Instant) -> None:
        """Remember that a gateway may never connect again; the first time counts."""
        gateway = await self._gateway(gateway_id)
        if await self.store.revoked(gateway_id):
            return

        async def work(tx: Transaction) -> None:
            view = await tx.load(Touch(operator_id=gateway.operator_id, currency=gateway.currency))
            await tx.post(gateways.revoke(view, gateway_id, now=now))

        await self.store.run(work)

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
        self,
        gateway_id: GatewayId,
        *,
        incarnation: int,
        start_id: bytes,
        position: int,
        now: Instant,
        sealed_sequence: int | None = None,
        suspects_rollback: bool = False,
        salvaged: bool = False,
        directive_version: int = 0,
        proof: Proof = NO_PROOF,
    ) -> Greeting:
        """Agree on the incarnation, or open a case for people; or find out that this ledger was restored.

        Raises ``UnknownIncarnation`` for an incarnation that this ledger has not begun, ``LedgerRestoring`` while it is stopped.
        """
        gateway = await self._gateway(gateway_id)
        if await self.restored.hear(gateway, proof, directive_version=directive_version, now=now):
            await self.store.contact(gateway_id, now=now)
            return Greeting(
                gateway=gateway, chain=Chain(incarnation=gateway.incarnation), standing=Standing.REWIND, why=""
            )
        back = await self.restored.rewinding(gateway_id)
        missing = back.unposted if back is not None else None
        chain = await self.store.chain(gateway_id, gateway.incarnation)
        hello = Hello(
            incarnation=incarnation,
            start_id=start_id,
            position=position,
            sealed_sequence=sealed_sequence,
            suspects_rollback=suspects_rollback,
            salvaged=salvaged,
            behind_shown=restoring.behind_shown(gateway, missing, proof) if missing is not None else "",
        )
        standing, why = incarnations.judge(gateway, chain, hello)
        if (standing is Standing.WAITS) != bool(gateway.waits_because):
            # Something to write: judged again with the row locked.
            touch = Touch(
                operator_id=gateway.operator_id,
                currency=gateway.currency,
                gateway_ids=(gateway_id,),
                chain=(gateway_id, gateway.incarnation, 0),
            )

            async def work(tx: Transaction) -> tuple[Standing, str]:
                standing, why, posting = incarnations.hear(await tx.load(touch), gateway_id, hello, now=now)
                if posting is not None:
                    await tx.post(posting)
                return standing, why

            standing, why = await self.store.run(work)
        if standing is Standing.AGREED:
            await self.store.witness(
                gateway_id,
                incarnation,
                start_id=start_id,
                position=position,
                sealed_sequence=sealed_sequence or 0,
                now=now,
            )
            if back is not None:
                back = await self.restored.go_on(gateway, back, proof, now=now)
        else:
            await self.store.contact(gateway_id, now=now)
        earlier: tuple[Chain, ...] | None = None
        if back is not None and back.wants_batches:
            chains = await self.store.chains(gateway_id)
            earlier = tuple(chain for chain in chains if chain.incarnation < gateway.incarnation)
        return Greeting(gateway=gateway, chain=chain, standing=standing, why=why, earlier=earlier)

    async def propose(
        self, kind: DecisionKind, gateway_id: GatewayId, *, reason: str, person: str, now: Instant
    ) -> Decision:
        """One person proposes a new incarnation, or that a gateway's holds end."""
        gateway = await self._gateway(gateway_id)
        touch = Touch(operator_id=gateway.operator_id, currency=gateway.currency, gateway_ids=(gateway_id,))

        async def work(tx: Transaction) -> Decision:
            view = await tx.load(touch)
            decision, posting = decisions.propose(view, kind, gateway_id, reason=reason, person=person, now=now)
            # The same person, words and instant: the same proposal, which may have been approved by now.
            before = (await tx.load(replace(touch, decision_id=decision.decision_id))).decision
            if before is not None:
                return before
            await tx.post(posting)
            return decision

        return await self.store.run(work)

    async def approve(self, decision_id: str, *, content_hash: bytes, person: str, now: Instant) -> bool:
        """Another person approves exactly what was proposed, and it is done; whether anything changed."""
        books = await self.store.books_of_decision(decision_id)
        if books is None:
            raise UnknownName(f"no decision {decision_id}")
        operator_id, currency, gateway_id = books
        if not gateway_id:
            about = Touch(operator_id=operator_id, currency=currency, decision_id=decision_id)
            return await self.restored.begin(about, decision_id, content_hash=content_hash, person=person, now=now)
        touch = Touch(
            operator_id=operator_id,
            currency=currency,
            gateway_ids=(gateway_id,),
            decision_id=decision_id,
            incarnations=True,
        )

        async def work(tx: Transaction) -> bool:
            view = await tx.load(touch)
            decided = view.decision
            # Asked once the gateway's row is locked: none of its batches is posted meanwhile.
            asks = decided is not None and decided.kind is DecisionKind.GIVEN_UP
            posting = decisions.approve(
                view,
                decision_id,
                content_hash=content_hash,
                person=person,
                receipt_keys=list(self._receipt_keys),
                now=now,
                unposted=await unposted(tx, gateway_id) if asks else None,
            )
            if posting is not None:
                await tx.post(posting)
            return posting is not None

        return await self.store.run(work)

    async def end_silent(self, *, now: Instant) -> int:
        """Listen, and end holds that silence has ended, a bounded number; how many quotas there were to look at."""
        if (await self.store.epoch()).state is not LedgerState.OPEN:
            return 0
        outage_us = self._terms.outage_us
        since = await self.store.listen(now=now, break_us=silence.break_us(outage_us))
        if not silence.has_listened(since, outage_us=outage_us, now=now):
            return 0
        overdue = await self.store.overdue_quotas(now=now, outage_us=self._terms.outage_us, limit=OVERDUE_AT_ONCE)
        for gateway_id, quota_ids in overdue:
            gateway = await self._gateway(gateway_id)
            touch = Touch(
                operator_id=gateway.operator_id,
                currency=gateway.currency,
                gateway_ids=(gateway_id,),
                quota_ids=quota_ids,
                chain=(gateway_id, gateway.incarnation, 0),
            )

            async def work(tx: Transaction, touch: Touch = touch, gateway_id: GatewayId = gateway_id) -> None:
                view = await tx.load(touch)
                if view.epoch.state is not LedgerState.OPEN:
                    return
                posting = silence.void(view, gateway_id, outage_us=self._terms.outage_us, now=now)
                if posting is not None:
                    await tx.post(posting)

            await self.store.run(work)
        return sum(len(quota_ids) for _, quota_ids in overdue)

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

        A fork is kept, and its gateway authorizes no more; a gap changes nothing.
        """
        carried = await self._carried_ends.read(batch) if batch.carried else ()

        async def work(tx: Transaction) -> BatchOutcome:
            view = await tx.load(batches.touch(batch, currency, carried))
            step = batches.fit(view, batch)
            assert view.chain is not None
            restoring.must_have_shown(view.gateways.values(), view.epoch)
            if step is not ChainStep.NEXT:
                return BatchOutcome(step=step, expected=view.chain.sequence + 1, receipt=None)
            posting = batches.plan(view, batch, carried, now=now)
            posted = await tx.post(posting)
            assert posting.batch is not None
            return outcome_of(posting.batch, posted, view.epoch, now)

        outcome = await self.store.run(work)
        if outcome.step is ChainStep.REPLAY:
            stored = await self.store.batch(batch.gateway_id, batch.incarnation, batch.sequence)
            assert stored is not None
            return replace(outcome, receipt=stored.receipt)
        if outcome.step is ChainStep.FORK:
            signed = Signed(body=batch.batch, signature=batch.signature, key_id=batch.key_id)
            await self.store.park_fork(batch.gateway_id, batch.incarnation, batch.sequence, signed, "fork")
            await self._quarantine(batch, currency, now=now)
        return outcome

    async def post_batches(
        self, waiting: Sequence[ReceivedBatch], *, currency: Currency, now: Instant
    ) -> Sequence[BatchOutcome]:
        """Post as many of one gateway's batches, from the first, as can go together; the outcomes of those.

        In one transaction, each as if it had come alone. Those left out, maybe all, are to be posted by :meth:`post_batch`, which says
        what is the matter with them: here what fails has changed nothing. Raises ``LedgerRestoring``.
        """
        return await post_together(self.store, waiting, currency=currency, now=now)

    async def _quarantine(self, batch: ReceivedBatch, currency: Currency, *, now: Instant) -> None:
        touch = Touch(operator_id=batch.operator_id, currency=currency, gateway_ids=(batch.gateway_id,))

        async def work(tx: Transaction) -> None:
            detail = f"batch {batch.sequence} of incarnation {batch.incarnation} does not follow what it said before"
            posting = incarnations.equivocation(
                await tx.load(touch), batch.gateway_id, batch.incarnation, detail, now=now
            )
            if posting is not None:
                await tx.post(posting)

        await self.store.run(work)

    async def suspect(
        self, gateway_id: GatewayId, incarnation: int, kind: GatewayCaseKind, detail: str, *, now: Instant
    ) -> bool:
        """Open a case about a gateway, unless one of its kind is open in that incarnation; whether one was opened."""
        gateway = await self._gateway(gateway_id)
        for stored in await self.store.gateway_cases(gateway.operator_id, open_only=True):
            case = stored.case
            if (case.gateway_id, case.incarnation, case.kind) == (gateway_id, incarnation, kind):
                return False
        touch = Touch(operator_id=gateway.operator_id, currency=gateway.currency, gateway_ids=(gateway_id,))

        async def work(tx: Transaction) -> None:
            view = await tx.load(touch)
            await tx.post(incarnations.suspicion(view, gateway_id, incarnation, kind, detail, now=now))

        await self.store.run(work)
        return True

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

    async def correct(
        self, order: Order, *, person: str, now: Instant, dry_run: bool = False, planned: PlannedBack | None = None
    ) -> tuple[bool, Currency, Correction]:
        """Carry a correction out, once; whether anything changes, and what was posted (or would be).

        ``planned``: what the plan that it executes says of the use.
        """
        currency, claim, account_id = await self._about(order)
        base = Touch(
            operator_id=order.operator_id,
            currency=currency,
            correction_id=order.correction_id,
            dispute_id=order.dispute_id or None,
            payback_id=order.payback_id or None,
            payment_id=order.payment_id or None,
            claims={claim.key: (claim.register, claim.register_from, claim.register_to)} if claim is not None else {},
        )

        async def work(
            tx: Transaction, touch: Touch, told: tuple[GatewayId, ...]
        ) -> tuple[bool, Currency, Correction] | None:
            parts: tuple[UsePart, ...] = ()
            if claim is not None:
                # The register first: nobody adds to the use, or takes of it, until this is done. Then who paid for it.
                await tx.load(touch)
                postings = planned.posting_ids if planned is not None else ()
                history = await tx.use(order.operator_id, currency, claim, postings)
                parts = parts_of(history, claim.key)
                if planned is not None and disputed_micros(history, claim.authorization_id):
                    raise LedgerRefusal(
                        f"authorization {claim.authorization_id.hex()} is disputed: the dispute ends first"
                    )
                touch = replace(touch, account_ids=tuple(accounts_of(parts)))
            view = await tx.load(touch)
            if view.correction is None:
                restoring.must_be_open(view.epoch)
            if any(quota.gateway_id not in view.gateways for quota in view.quotas.values()):
                return None  # granted since we looked: its gateway's row comes before the account's
            posting = corrections.correct(
                view,
                order,
                parts,
                told=told,
                person=person,
                now=now,
                planned=planned,
                payback_alone_micros=self._payback_alone_micros,
            )
            if posting is None:
                assert view.correction is not None
                return False, currency, view.correction
            if not dry_run:
                await tx.post(posting)
            assert posting.correction is not None
            return True, currency, posting.correction

        for _ in range(LOOKS_AT_QUOTAS):
            touch = base
            told: tuple[GatewayId, ...] = ()
            if account_id:
                live = await self.store.account_quotas(order.operator_id, account_id)
                if order.kind is CorrectionKind.CLOSING:
                    told = tuple(await self.store.told(order.operator_id, account_id))
                gateway_ids = tuple(sorted({quota.gateway_id for quota in live} | set(told)))
                touch = replace(base, account_ids=(account_id,), gateway_ids=gateway_ids, account_quotas=True)
            done = await self.store.run(partial(work, touch=touch, told=told))
            if done is not None:
                return done
        raise StoreError(f"account {account_id} is given quotas faster than they can be looked at; nothing was written")

    async def _about(self, order: Order) -> tuple[Currency, Claimed | None, AccountId]:
        """The books of a correction, and the use or the account it is about."""
        authorization_id, gateway_id = order.authorization_id, order.gateway_id
        if order.payback_id:
            found = await self.store.correction(order.operator_id, order.payback_id)
            if found is None:
                raise UnknownName(f"no payback {order.payback_id}")
            return found[0], None, AccountId(found[1].account_id)
        if order.dispute_id:
            found = await self.store.correction(order.operator_id, order.dispute_id)
            if found is None:
                raise UnknownName(f"no dispute {order.dispute_id}")
            authorization_id = AuthorizationId(found[1].authorization_id)
            gateway_id = GatewayId(found[1].gateway_id)
        if not authorization_id:
            currency = await self.store.currency_of(order.operator_id, order.account_id)
            if currency is None:
                raise UnknownName(f"no account {order.account_id} of operator {order.operator_id}")
            return currency, None, order.account_id
        gateway = await self._gateway(gateway_id)
        claim = await self.store.claimed(authorization_id, gateway_id)
        if claim is None or gateway.operator_id != order.operator_id:
            raise UnknownName(f"no authorization {authorization_id.hex()} of {gateway_id} has billed anything")
        return gateway.currency, claim, AccountId("")

    async def decide_case(self, case_id: int, *, release: bool, now: Instant) -> bool:
        """Release or void what was set aside; whether anything changed."""
        books = await self.store.books_of_case(case_id)
        if books is None:
            raise UnknownName(f"no case {case_id}")
        operator_id, currency = books

        async def work(tx: Transaction) -> bool:
            view = await tx.load(Touch(operator_id=operator_id, currency=currency, case_id=case_id))
            restoring.must_be_open(view.epoch)
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
            restoring.must_be_open(view.epoch)
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
        detail: Detail | None = None,
    ) -> bool:
        """Mark a batch whose detail was verified; its events leave, and its detail is kept, in the same transaction.

        ``detail`` is None where there is nothing to keep. Whether anything changed.
        """
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
                if detail is not None:
                    await tx.keep_detail(gateway_id, incarnation, sequence, detail, now=now)
            return posting is not None

        return await self.store.run(work)

    async def resolve_floors(self, *, now: Instant) -> int:
        """Give room of floors back where debts were settled; how many accounts and gateways there were to look at."""
        if (await self.store.epoch()).state is not LedgerState.OPEN:
            return 0
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
