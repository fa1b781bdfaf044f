"""The ledger in memory: for simulations and tests. It keeps every rule of the interface but durability."""

import asyncio
import itertools
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import Currency
from farthing.v1 import events_pb2
from farthing_cloud.ledger.core import audit, paths
from farthing_cloud.ledger.core.incarnations import MAX_OPEN_CLAIMS
from farthing_cloud.ledger.core.keys import BatchKey
from farthing_cloud.ledger.core.posting import BatchAdded, Posting, Transfer
from farthing_cloud.ledger.core.replay import fault_of, replay
from farthing_cloud.ledger.core.restoring import Tail
from farthing_cloud.ledger.core.rows import (
    ZERO_HASH,
    Aside,
    Balances,
    Case,
    CaseKind,
    CaseStatus,
    Chain,
    Claimed,
    ClaimKey,
    Correction,
    CorrectionKind,
    CorrectionPlan,
    Decision,
    Demand,
    Epoch,
    Gateway,
    GatewayCaseKind,
    ImportReview,
    KeptSplit,
    Payer,
    Payment,
    PostedBatch,
    Quota,
    QuotaRequested,
    QuotaStatus,
    RegisterKey,
    Rewinding,
    SiteClearing,
    Touch,
    View,
)
from farthing_cloud.ledger.core.silence import outlives
from farthing_cloud.ledger.core.uses import UseBatch, UseCase, UseHistory
from farthing_cloud.ledger.store.interface import (
    CONTACT_STEP_US,
    MAX_FORKS,
    MAX_IMPORTED,
    BatchWithParked,
    BillingBatch,
    Cursor,
    Detail,
    DetailedBatch,
    GatewayRewinding,
    ImportedBatch,
    LedgerStore,
    Looked,
    Posted,
    ReceiptContent,
    Signed,
    StoredBatch,
    StoredDirective,
    StoredEvent,
    StoredGatewayCase,
    Tell,
    Transaction,
    Verdict,
    nobody,
)

T = TypeVar("T")


@dataclass(slots=True)
class _Books:
    """Everything of one operator and currency."""

    window: str = "w1"
    balances: dict[str, Balances] = field(default_factory=dict)
    payers: dict[AccountId, Payer] = field(default_factory=dict)
    transfers: list[Transfer] = field(default_factory=list)
    #: The posting of each transfer.
    posting_ids: list[int] = field(default_factory=list)
    corrections: dict[str, Correction] = field(default_factory=dict)
    #: (posting, window, rules).
    splits: list[tuple[int, str, tuple[KeptSplit, ...]]] = field(default_factory=list)
    payments: dict[str, Payment] = field(default_factory=dict)
    closings: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Batch:
    added: BatchAdded
    proven: bool
    clearing_micros: int
    receipt: ReceiptContent
    currency: Currency
    posting_id: int
    proven_by: int | None = None


class MemoryStore:
    """A :class:`LedgerStore` without a disk; one transaction at a time."""

    def __init__(self) -> None:
        self._epoch = Epoch()
        self._rewindings: dict[tuple[GatewayId, int], Rewinding] = {}
        #: By gateway and epoch: what the ledger had written, and the gateway had not.
        self._directives_set_aside: dict[tuple[GatewayId, int], list[StoredDirective]] = {}
        self._lock = asyncio.Lock()
        self._books: dict[tuple[OperatorId, Currency], _Books] = {}
        self._gateways: dict[GatewayId, Gateway] = {}
        self._chains: dict[tuple[GatewayId, int], Chain] = {}
        self._quotas: dict[QuotaId, Quota] = {}
        self._requests: dict[tuple[GatewayId, int, int], QuotaRequested] = {}
        self._claims: dict[tuple[AuthorizationId, GatewayId], Claimed] = {}
        self._carried_beyond: dict[ClaimKey, int] = {}
        self._registers: dict[RegisterKey, dict[tuple[AuthorizationId, GatewayId], None]] = {}
        self._cases: dict[int, tuple[OperatorId, Currency, Case]] = {}
        self._batches: dict[tuple[GatewayId, int, int], _Batch] = {}
        self._decided_by: dict[int, int] = {}
        self._receipts: dict[bytes, Signed] = {}
        self._forks: list[tuple[GatewayId, int, int, Signed, str]] = []
        self._directives: dict[GatewayId, list[StoredDirective]] = {}
        self._wishes: dict[tuple[GatewayId, str], int] = {}
        self._told: dict[tuple[OperatorId, AccountId], dict[GatewayId, None]] = {}
        self._floors: dict[tuple[GatewayId, AccountId], int] = {}
        self._outbox: list[StoredEvent] = []
        #: How many there ever were.
        self._events = 0
        self._readers: dict[str, Cursor] = {}
        self._pruned = Cursor()
        self._plans: dict[str, CorrectionPlan] = {}
        self._revoked: set[GatewayId] = set()
        self._batch_keys: dict[tuple[GatewayId, int], BatchKey] = {}
        self._imported: dict[tuple[GatewayId, int, int, bytes], ImportedBatch] = {}
        self._reviews: dict[str, ImportReview] = {}
        self._decisions: dict[str, tuple[OperatorId, Currency, Decision]] = {}
        self._gateway_cases: list[tuple[OperatorId, StoredGatewayCase]] = []
        self._demand: dict[tuple[GatewayId, AccountId], Demand] = {}
        self._listening: tuple[Instant, Instant] | None = None
        #: By batch, oldest first: when it was kept, and what.
        self._details: dict[tuple[GatewayId, int, int], tuple[Instant, Detail]] = {}
        self._heads: dict[OperatorId, bytes] = {}
        self._links: list[tuple[OperatorId, bytes, bytes]] = []
        #: Of each posting: when it was posted, and its business date.
        self._dates: list[tuple[Instant, Instant]] = []

    # ---- transactions

    async def run(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        async with self._lock:
            return await work(_MemoryTransaction(self))

    def load(self, touch: Touch) -> View:
        """The rows as they are."""
        books = self._books.setdefault((touch.operator_id, touch.currency), _Books())
        if touch.incarnations:
            live = (
                q.quota_id
                for q in self._quotas.values()
                if q.gateway_id in touch.gateway_ids and q.status is not QuotaStatus.CLOSED
            )
            touch = replace(touch, quota_ids=(*touch.quota_ids, *live))
        quotas = {quota_id: self._quotas[quota_id] for quota_id in touch.quota_ids if quota_id in self._quotas}
        if touch.account_quotas:
            quotas.update(
                (quota.quota_id, quota)
                for account_id in touch.account_ids
                for quota in self._live_quotas(touch.operator_id, account_id)
            )
        case = self._cases.get(touch.case_id) if touch.case_id is not None else None
        accounts = dict.fromkeys(touch.account_ids)
        accounts.update(dict.fromkeys(quota.account_id for quota in quotas.values()))
        if case is not None:
            accounts.update(dict.fromkeys(aside.account_id for aside in case[2].asides))
        wanted = [paths.quota(gateway_id) for gateway_id in touch.gateway_ids]
        wanted += [path(account_id) for account_id in accounts for path in (paths.payer, paths.debt)]
        wanted += [paths.transit(touch.payback_id)] if touch.payback_id is not None else []
        chain = batch = None
        if touch.chain is not None:
            gateway_id, incarnation, _ = touch.chain
            chain = self._chains.get((gateway_id, incarnation), Chain(incarnation=incarnation))
            stored = self._batches.get(touch.chain)
            if stored is not None:
                batch = PostedBatch(
                    gateway_id=gateway_id,
                    incarnation=incarnation,
                    sequence=stored.added.sequence,
                    batch_hash=stored.added.batch_hash,
                    proven=stored.proven,
                )
        return View(
            operator_id=touch.operator_id,
            currency=touch.currency,
            window=books.window,
            epoch=self._epoch,
            gateways={g: self._gateways[g] for g in touch.gateway_ids if g in self._gateways},
            balances={path: books.balances[path] for path in wanted if path in books.balances},
            payers={a: books.payers[a] for a in accounts if a in books.payers},
            quotas=quotas,
            open_quotas={
                a: sum(q.account_id == a and q.status is QuotaStatus.OPEN for q in self._quotas.values())
                for a in touch.account_ids
            }
            if touch.quota_request is not None
            else {},
            claimed={key: self._claims[key] for key in touch.claims if key in self._claims},
            carried_beyond={key: self._carried_beyond[key] for key in touch.claims if key in self._carried_beyond},
            overlaps=self._overlaps(touch),
            open_cases={
                key: case_id
                for key in touch.claims
                for case_id, (_, _, stored_case) in self._cases.items()
                if stored_case.authorization_id == key[0]
                and stored_case.status is CaseStatus.OPEN
                and stored_case.kind is CaseKind.OVERLAP
                and any(aside.gateway_id == key[1] for aside in stored_case.asides)
            },
            chain=chain,
            batch=batch,
            quota_request=self._requests.get(touch.quota_request) if touch.quota_request is not None else None,
            payment=books.payments.get(touch.payment_id) if touch.payment_id is not None else None,
            case=case[2] if case is not None and case[:2] == (touch.operator_id, touch.currency) else None,
            wish_version=self._wishes.get(touch.wish) if touch.wish is not None else None,
            told=frozenset(a for a in touch.account_ids if touch.wish[0] in self._told.get((touch.operator_id, a), ()))
            if touch.wish is not None
            else frozenset(),
            floors={
                (g, a): self._floors[g, a]
                for g in touch.gateway_ids
                for a in touch.account_ids
                if (g, a) in self._floors
            }
            if touch.floors
            else {},
            decision=self._decision(touch),
            plan=self._plan(touch),
            review=self._reviews.get(touch.review_id) if touch.review_id is not None else None,
            open_claims=tuple(
                sorted(
                    (c for c in self._claims.values() if c.gateway_id in touch.gateway_ids and not c.final),
                    key=lambda c: (-c.incarnation, -c.sequence, c.authorization_id),
                )[:MAX_OPEN_CLAIMS]
            )
            if touch.incarnations
            else (),
            demand={
                (g, a): self._demand[g, a]
                for g in touch.gateway_ids
                for a in touch.account_ids
                if (g, a) in self._demand
            }
            if touch.demand
            else {},
            clearings=self._clearings(touch, books) if touch.exclusive else (),
            correction=self._correction(touch, touch.correction_id),
            dispute=self._correction(touch, touch.dispute_id),
            dispute_ended=next(
                (c for c in books.corrections.values() if touch.dispute_id and c.dispute_id == touch.dispute_id), None
            ),
            taken_back_micros=sum(
                c.amount_micros
                for c in books.corrections.values()
                if touch.correction_id is not None
                and touch.payment_id is not None
                and c.payment_id == touch.payment_id
                and c.kind is CorrectionKind.CHARGEBACK
            ),
            payback=self._correction(touch, touch.payback_id),
            payback_said=tuple(
                c
                for (operator_id, _), each in self._books.items()
                for c in each.corrections.values()
                if operator_id == touch.operator_id
                and touch.payback_id is not None
                and c.payback_id
                and (c.payback_id == touch.payback_id or (touch.payment_id and c.payment_id == touch.payment_id))
            ),
        )

    def _correction(self, touch: Touch, correction_id: str | None) -> Correction | None:
        found = (
            books.corrections[correction_id]
            for (operator_id, _), books in self._books.items()
            if operator_id == touch.operator_id and correction_id in books.corrections
        )
        return next(found, None) if correction_id is not None else None

    def _live_quotas(self, operator_id: OperatorId, account_id: AccountId) -> list[Quota]:
        return sorted(
            (
                quota
                for quota in self._quotas.values()
                if quota.account_id == account_id
                and quota.status is not QuotaStatus.CLOSED
                and self._gateways[quota.gateway_id].operator_id == operator_id
            ),
            key=lambda quota: quota.quota_id,
        )

    def _carries(self, aside: Aside, claim: Claimed) -> bool:
        stored = self._batches.get((aside.gateway_id, aside.incarnation, aside.sequence))
        return stored is not None and any(carried.key == claim.key for carried in stored.added.carried)

    def use(
        self, operator_id: OperatorId, currency: Currency, claim: Claimed, postings: Sequence[int] = ()
    ) -> UseHistory:
        """All that was posted for a use."""
        books = self._books[operator_id, currency]
        cases = [
            case
            for owner, _, case in self._cases.values()
            if owner == operator_id
            and case.authorization_id == claim.authorization_id
            and any(aside.gateway_id == claim.gateway_id or self._carries(aside, claim) for aside in case.asides)
        ]
        named = {(a.gateway_id, a.incarnation, a.sequence) for case in cases for a in case.asides}
        batches = []
        for key, stored in self._batches.items():
            carried = [c for c in stored.added.carried if c.key == claim.key]
            mine = key[0] == claim.gateway_id and (
                stored.posting_id in postings if postings else bytes(claim.authorization_id) in stored.added.batch
            )
            if mine or carried or key in named:
                batches.append(
                    UseBatch(
                        posting_id=stored.posting_id,
                        key=key,
                        site_id=stored.added.site_id,
                        batch=stored.added.batch,
                        proven=stored.proven,
                        proven_by=stored.proven_by,
                        parked=frozenset(parked.line for parked in stored.added.parked),
                        carried=(carried[0].net_micros, carried[0].tax_micros) if carried else None,
                    )
                )
        found = [
            UseCase(status=case.status, asides=case.asides, decided_by=self._decided_by.get(case.case_id))
            for case in cases
        ]
        wanted = {batch.posting_id for batch in batches} | {case.decided_by for case in found}
        return UseHistory(
            batches=tuple(sorted(batches, key=lambda batch: batch.posting_id)),
            cases=tuple(found),
            transfers=tuple(
                (posting_id, transfer)
                for posting_id, transfer in zip(books.posting_ids, books.transfers, strict=True)
                if posting_id in wanted
            ),
            corrected=tuple(
                (correction.kind, part)
                for correction in books.corrections.values()
                for part in correction.parts
                if part.posting_id in wanted
            ),
            closings=tuple(books.splits),
        )

    def _plan(self, touch: Touch) -> CorrectionPlan | None:
        found = self._plans.get(touch.plan_id) if touch.plan_id is not None else None
        return found if found and (found.operator_id, found.currency) == (touch.operator_id, touch.currency) else None

    def _decision(self, touch: Touch) -> Decision | None:
        found = self._decisions.get(touch.decision_id) if touch.decision_id is not None else None
        return found[2] if found is not None and found[:2] == (touch.operator_id, touch.currency) else None

    def _overlaps(self, touch: Touch) -> dict[ClaimKey, AuthorizationId]:
        out = {}
        for mine, (register, start, end) in touch.claims.items():
            if start >= end:
                continue  # an interval without width overlaps nothing
            others = (self._claims[other] for other in self._registers.get(register, ()) if other != mine)
            hits = [
                c.authorization_id
                for c in others
                if c.register_from < c.register_to
                and c.register_from < end
                and start < c.register_to
                and self._gateways[c.gateway_id].operator_id == touch.operator_id
            ]
            if hits:
                out[mine] = min(hits)
        return out

    def _clearings(self, touch: Touch, books: _Books) -> tuple[SiteClearing, ...]:
        sites: dict[SiteId, list[int]] = {}
        for path, balance in books.balances.items():
            kind, _, rest = path.partition("/")
            site, _, window = rest.partition("/")
            if kind == "clearing" and window == books.window:
                sites[SiteId(site)] = [balance.credits_posted - balance.debits_posted, 0]
        for batch in self._batches.values():
            mine = self._gateways[batch.added.gateway_id].operator_id == touch.operator_id
            if mine and batch.currency == touch.currency and not batch.proven and batch.added.site_id in sites:
                sites[batch.added.site_id][1] += batch.clearing_micros
        return tuple(
            SiteClearing(site_id=site, balance_micros=balance, unproven_micros=unproven)
            for site, (balance, unproven) in sorted(sites.items())
        )

    def post(self, posting: Posting) -> Posted:
        """Write a posting."""
        books = self._books.setdefault((posting.operator_id, posting.currency), _Books())
        for path, change in posting.changes.items():
            before = books.balances.get(path, Balances())
            after = Balances(
                debits_pending=before.debits_pending + change.debits_pending,
                debits_posted=before.debits_posted + change.debits_posted,
                credits_pending=before.credits_pending + change.credits_pending,
                credits_posted=before.credits_posted + change.credits_posted,
            )
            assert min(after.debits_pending, after.debits_posted, after.credits_pending, after.credits_posted) >= 0
            books.balances[path] = after
        posting_id = len(self._links) + 1
        books.transfers.extend(posting.transfers)
        books.posting_ids.extend([posting_id] * len(posting.transfers))
        if posting.correction is not None:
            assert posting.correction.correction_id not in books.corrections
            books.corrections[posting.correction.correction_id] = posting.correction
        for account_id in posting.floors_forgotten:
            for where in [key for key in self._floors if key[1] == account_id]:
                if self._gateways[where[0]].operator_id == posting.operator_id:
                    self._floors[where] = min(0, self._floors[where])
        if posting.revoked is not None:
            self._revoked.add(posting.revoked)
        books.payers.update({payer.account_id: payer for payer in posting.payers})
        self._gateways.update({gateway.gateway_id: gateway for gateway in posting.gateways})
        if posting.chain is not None:
            gateway_id, chain = posting.chain
            self._chains[gateway_id, chain.incarnation] = chain
        for quota in posting.quotas_granted:
            assert quota.quota_id not in self._quotas
            self._quotas[quota.quota_id] = quota
        for changed in posting.quotas:
            self._quotas[changed.quota_id] = self._quotas[changed.quota_id]._replace(
                posted_micros=changed.posted_micros,
                voided_micros=changed.voided_micros,
                status=QuotaStatus(changed.status),
            )
        for quota_id, in_use_at in posting.in_use:
            self._quotas[quota_id] = self._quotas[quota_id]._replace(in_use_at=in_use_at)
        for key, carried_micros in posting.carried_beyond.items():
            self._carried_beyond.pop(key, None)
            if carried_micros:
                self._carried_beyond[key] = carried_micros
        for claim in posting.claims:
            self._claims[claim.key] = claim
            self._registers.setdefault(claim.register, {})[claim.key] = None
        self._keep_decisions(posting)
        self._plans.update(
            {plan.plan_id: plan for plan in (posting.planned, posting.plan_approved) if plan is not None}
        )
        if posting.review is not None:
            self._reviews[posting.review.review_id] = posting.review
        self._batch_keys.update({(gateway_id, key.number): key for gateway_id, key in posting.batch_keys})
        self._demand.update({(gateway_id, account_id): demand for gateway_id, account_id, demand in posting.demand})
        case_ids = tuple(self._add_case(posting, index) for index in range(len(posting.cases)))
        if posting.case_decided is not None:
            operator_id, currency, case = self._cases[posting.case_decided.case_id]
            self._cases[case.case_id] = (operator_id, currency, replace(case, status=posting.case_decided.status))
            self._decided_by[case.case_id] = posting_id
        self._make_room(posting)
        for row in posting.directives:
            chain_of = self._directives.setdefault(row.gateway_id, [])
            assert row.version == len(chain_of) + 1
            chain_of.append(
                StoredDirective(
                    gateway_id=row.gateway_id,
                    version=row.version,
                    body=row.body,
                    body_hash=row.body_hash,
                    signature=row.signature,
                    key_id=row.key_id,
                )
            )
            if row.idempotency_key:
                self._wishes[row.gateway_id, row.idempotency_key] = row.version
        for gateway_id, account_id, micros in posting.floors:
            self._floors[gateway_id, account_id] = micros
        for gateway_id, account_id in posting.told:
            self._told.setdefault((posting.operator_id, account_id), {})[gateway_id] = None
        requests = [posting.quota_request] if posting.quota_request is not None else []
        for gateway_id, incarnation, answered in (*requests, *posting.requests_shown):
            self._requests[gateway_id, incarnation, answered.counter] = answered
        if posting.payment is not None:
            books.payments[posting.payment.payment_id] = posting.payment
        if posting.window_closed is not None:
            assert books.window == posting.window_closed.window
            books.window = posting.window_closed.next_window
            books.closings[posting.window_closed.window] = posting.window_closed.answer
            books.splits.append((posting_id, posting.window_closed.window, posting.window_closed.splits))
        body = audit.link_body(posting)
        head = audit.next_head(self._heads.get(posting.operator_id, ZERO_HASH), body)
        self._heads[posting.operator_id] = head
        self._links.append((posting.operator_id, body, head))
        self._dates.append((posting.posted_at, posting.business_at))
        self._keep_batch(posting, head)
        transaction_id = len(self._links)
        for event in posting.events:
            value = event.value
            if event.case is not None:
                opened = events_pb2.CaseOpened.FromString(value)
                opened.case_id = case_ids[event.case]
                value = opened.SerializeToString()
            self._events += 1
            cursor = Cursor(transaction_id=transaction_id, sequence=self._events)
            self._outbox.append(
                StoredEvent(
                    cursor=cursor,
                    kind=event.kind,
                    key=event.key,
                    at=posting.posted_at,
                    value=value,
                    traceparent=event.traceparent,
                )
            )
        return Posted(posting_id=len(self._links), audit_head=head, case_ids=case_ids)

    def _make_room(self, posting: Posting) -> None:
        for gateway_id, epoch in posting.gateway_epochs:
            assert self._gateways[gateway_id].epoch == epoch
        back = posting.rewinding
        if back is not None:
            self._rewindings[back.gateway_id, back.epoch] = back
        for gateway_id, micros in posting.short:
            known = self._rewindings.get((gateway_id, self._epoch.number))
            if known is not None:
                after = replace(known, short_micros=known.short_micros + micros)
                self._rewindings[gateway_id, known.epoch] = after
        if posting.chain_replaced is not None:
            assert back is not None
            gateway_id, version = posting.chain_replaced
            chain = self._directives[gateway_id]
            self._directives_set_aside[gateway_id, back.epoch] = chain[version:]
            del chain[version:]
            for key in [key for key, at in self._wishes.items() if key[0] == gateway_id and at > version]:
                del self._wishes[key]

    def _keep_decisions(self, posting: Posting) -> None:
        for closed in posting.gateway_cases_closed:
            for index, (operator_id, stored) in enumerate(self._gateway_cases):
                if stored.closed_at is None and _name_of(stored) == (
                    closed.gateway_id,
                    closed.incarnation,
                    closed.kind,
                ):
                    self._gateway_cases[index] = (operator_id, replace(stored, closed_at=posting.posted_at))
        for case in posting.gateway_cases:
            opened = (_name_of(stored) for _, stored in self._gateway_cases if stored.closed_at is None)
            if (case.gateway_id, case.incarnation, case.kind) not in opened:
                stored = StoredGatewayCase(
                    case_id=len(self._gateway_cases) + 1, case=case, opened_at=posting.posted_at, closed_at=None
                )
                self._gateway_cases.append((posting.operator_id, stored))
        for decision in (posting.proposed, posting.approved):
            if decision is not None:
                self._decisions[decision.decision_id] = (posting.operator_id, posting.currency, decision)

    def _add_case(self, posting: Posting, index: int) -> int:
        added = posting.cases[index]
        if added.case_id is not None:
            operator_id, currency, case = self._cases[added.case_id]
            grown = replace(case, asides=case.asides + added.asides)
            self._cases[added.case_id] = (operator_id, currency, grown)
            return added.case_id
        case_id = len(self._cases) + 1
        case = Case(
            case_id=case_id,
            kind=added.kind,
            status=CaseStatus.OPEN,
            device_id=added.device_id,
            authorization_id=added.authorization_id,
            other_authorization_id=added.other_authorization_id,
            asides=added.asides,
        )
        self._cases[case_id] = (posting.operator_id, posting.currency, case)
        return case_id

    def _keep_batch(self, posting: Posting, head: bytes) -> None:
        added = posting.batch
        if added is not None:
            key = (added.gateway_id, added.incarnation, added.sequence)
            assert key not in self._batches
            self._batches[key] = _Batch(
                added=added,
                proven=added.proven,
                clearing_micros=added.clearing_micros,
                currency=posting.currency,
                posting_id=len(self._links),
                receipt=ReceiptContent(
                    ledger_epoch=self._epoch.number,
                    gateway_id=added.gateway_id,
                    incarnation=added.incarnation,
                    sequence=added.sequence,
                    batch_hash=added.batch_hash,
                    posted_at=posting.posted_at,
                    parked=tuple((parked.line, parked.reason) for parked in added.parked),
                    audit_head=head,
                ),
            )
        for released in posting.released:
            batch = self._batches[released.gateway_id, released.incarnation, released.sequence]
            batch.clearing_micros += released.net_micros
        if posting.proven is not None:
            proven = posting.proven
            stored = self._batches[proven.gateway_id, proven.incarnation, proven.sequence]
            stored.proven, stored.proven_by = True, len(self._links)
            chain = self._chains[proven.gateway_id, proven.incarnation]
            sequence = chain.proven_sequence
            while (
                after := self._batches.get((proven.gateway_id, proven.incarnation, sequence + 1))
            ) is not None and after.proven:
                sequence += 1
            self._chains[proven.gateway_id, proven.incarnation] = replace(chain, proven_sequence=sequence)

    # ---- reading

    async def epoch(self) -> Epoch:
        return self._epoch

    def set_epoch(self, epoch: Epoch) -> None:
        """What the ledger may do from now on."""
        self._epoch = epoch
        self._listening = (epoch.since, epoch.since)

    def all_books(self) -> Sequence[tuple[OperatorId, Currency]]:
        """Whose there are."""
        return sorted(self._books)

    def tail(self, gateway_id: GatewayId, after_version: int) -> Sequence[Tail]:
        """A gateway's directives after a version."""
        keys = {at: key for (owner, key), at in self._wishes.items() if owner == gateway_id}
        rows = self._directives.get(gateway_id, [])[after_version:]
        return [Tail(row.version, row.body, keys.get(row.version, "")) for row in rows]

    async def rewindings(self) -> Sequence[GatewayRewinding]:
        out = []
        for gateway in sorted(self._gateways.values(), key=lambda g: (g.operator_id, g.gateway_id)):
            back = self._rewindings.get((gateway.gateway_id, self._epoch.number))
            posted = await self.chain(gateway.gateway_id, back.incarnation) if back is not None else None
            out.append(
                GatewayRewinding(
                    gateway_id=gateway.gateway_id,
                    operator_id=gateway.operator_id,
                    has_shown=gateway.epoch >= self._epoch.number,
                    rewinding=back,
                    posted_sequence=posted.sequence if posted is not None else 0,
                )
            )
        return out

    async def overdrawn(self, limit: int) -> Sequence[tuple[OperatorId, Currency, AccountId]]:
        out = []
        for (operator_id, currency), books in sorted(self._books.items()):
            for account_id, payer in sorted(books.payers.items()):
                balance = books.balances.get(paths.payer(account_id), Balances())
                most = balance.credits_posted + payer.credit_limit_micros
                if most < balance.debits_posted + balance.debits_pending:
                    out.append((operator_id, currency, account_id))
        return out[:limit]

    async def chains(self, gateway_id: GatewayId) -> Sequence[Chain]:
        return [chain for (owner, _), chain in sorted(self._chains.items()) if owner == gateway_id]

    async def gateway(self, gateway_id: GatewayId) -> Gateway | None:
        return self._gateways.get(gateway_id)

    async def chain(self, gateway_id: GatewayId, incarnation: int) -> Chain:
        return self._chains.get((gateway_id, incarnation), Chain(incarnation=incarnation))

    async def batch(self, gateway_id: GatewayId, incarnation: int, sequence: int) -> StoredBatch | None:
        stored = self._batches.get((gateway_id, incarnation, sequence))
        if stored is None:
            return None
        return StoredBatch(
            batch=stored.added.batch,
            batch_hash=stored.added.batch_hash,
            beyond_micros=stored.added.beyond_micros,
            proven=stored.proven,
            receipt=stored.receipt,
            floor=stored.added.floor,
            key_id=stored.added.key_id,
        )

    async def unproven_before(self, gateway_id: GatewayId, incarnation: int, most: int) -> Sequence[tuple[int, int]]:
        found = (
            key[1:]
            for key, batch in self._batches.items()
            if key[0] == gateway_id and key[1] < incarnation and batch.added.leaf_count and not batch.proven
        )
        return sorted(found)[:most]

    async def receipts(self, names: Sequence[tuple[GatewayId, int, int]]) -> Sequence[ReceiptContent]:
        return [self._batches[name].receipt for name in names if name in self._batches]

    def keep_detail(
        self, gateway_id: GatewayId, incarnation: int, sequence: int, detail: Detail, *, now: Instant
    ) -> None:
        """Keep a batch's detail; the one kept first wins."""
        self._details.setdefault((gateway_id, incarnation, sequence), (now, detail))

    async def claims_of(self, operator_id: OperatorId, authorization_id: AuthorizationId) -> Sequence[Claimed]:
        return [
            claimed
            for (authorization, gateway_id), claimed in sorted(self._claims.items())
            if authorization == authorization_id and self._gateways[gateway_id].operator_id == operator_id
        ]

    async def detailed_batches(
        self,
        gateway_id: GatewayId,
        authorization_id: AuthorizationId,
        last: tuple[int, int],
        before: tuple[int, int] | None,
        limit: int,
    ) -> Sequence[DetailedBatch]:
        found = []
        for (owner, incarnation, sequence), stored in sorted(self._batches.items(), reverse=True):
            _, detail = self._details.get((owner, incarnation, sequence), (None, None))
            mine = detail is not None and authorization_id in detail.authorizations
            if before is not None and (incarnation, sequence) >= before:
                continue
            if owner != gateway_id or not (mine or (incarnation, sequence) == last):
                continue
            added = stored.added
            found.append(
                DetailedBatch(
                    incarnation=incarnation,
                    sequence=sequence,
                    batch=Signed(body=added.batch, signature=added.signature, key_id=added.key_id),
                    proven=stored.proven,
                    leaf_count=added.leaf_count,
                    leaves=None if detail is None else detail.leaves,
                    receipt=self._receipts.get(added.batch_hash),
                )
            )
        return found[:limit]

    async def forget_details(self, before: Instant, limit: int) -> int:
        old = sorted((at, name) for name, (at, _) in self._details.items() if at < before)[:limit]
        for _, name in old:
            del self._details[name]
        return len(old)

    async def kept_receipt(self, batch_hash: bytes) -> Signed | None:
        return self._receipts.get(batch_hash)

    async def keep_receipts(self, receipts: Sequence[tuple[bytes, Signed]]) -> Sequence[Signed]:
        return [self._receipts.setdefault(batch_hash, receipt) for batch_hash, receipt in receipts]

    async def park_fork(self, gateway_id: GatewayId, incarnation: int, sequence: int, batch: Signed, why: str) -> None:
        fork = (gateway_id, incarnation, sequence, batch, why)
        mine = [known for known in self._forks if known[0] == gateway_id]
        if len(mine) < MAX_FORKS and not any(known[3].body == batch.body for known in mine):
            self._forks.append(fork)

    async def witness(
        self,
        gateway_id: GatewayId,
        incarnation: int,
        *,
        start_id: bytes,
        position: int,
        sealed_sequence: int,
        now: Instant,
    ) -> None:
        gateway = self._gateways[gateway_id]
        if gateway.incarnation != incarnation or gateway.waits_because:
            return
        if position >= gateway.witness_position:
            gateway = replace(gateway, witness_start_id=start_id, witness_position=position)
        self._gateways[gateway_id] = replace(
            gateway,
            adopted=True,
            sealed_sequence=max(gateway.sealed_sequence, sealed_sequence),
            contact_at=Instant(max(gateway.contact_at, now)),
        )

    async def contact(self, gateway_id: GatewayId, *, now: Instant) -> None:
        gateway = self._gateways[gateway_id]
        if gateway.contact_at <= now - CONTACT_STEP_US:
            self._gateways[gateway_id] = replace(gateway, contact_at=now)

    async def listen(self, *, now: Instant, break_us: int) -> Instant:
        since, last = self._listening or (now, now)
        self._listening = (since if 0 <= now - last <= break_us else now, now)
        return self._listening[0]

    async def exposures(self, operator_id: str) -> Sequence[tuple[Gateway, int]]:
        out = []
        for gateway in sorted(self._gateways.values(), key=lambda g: (g.operator_id, g.site_id, g.gateway_id)):
            balance = self._books[gateway.operator_id, gateway.currency].balances.get(paths.quota(gateway.gateway_id))
            if operator_id in ("", gateway.operator_id):
                out.append((gateway, balance.credits_pending if balance is not None else 0))
        return out

    async def overdue_quotas(
        self, *, now: Instant, outage_us: int, limit: int
    ) -> Sequence[tuple[GatewayId, tuple[QuotaId, ...]]]:
        overdue: dict[GatewayId, list[QuotaId]] = {}
        for quota in sorted(self._quotas.values(), key=lambda quota: (quota.report_until, quota.quota_id)):
            if quota.status is QuotaStatus.CLOSED or sum(map(len, overdue.values())) == limit:
                continue
            gateway = self._gateways[quota.gateway_id]
            posted = (await self.chain(gateway.gateway_id, gateway.incarnation)).sequence
            if not outlives(quota, gateway, posted_sequence=posted, outage_us=outage_us, now=now):
                overdue.setdefault(quota.gateway_id, []).append(quota.quota_id)
        return [(gateway_id, tuple(quota_ids)) for gateway_id, quota_ids in overdue.items()]

    async def books_of_decision(self, decision_id: str) -> tuple[OperatorId, Currency, GatewayId] | None:
        found = self._decisions.get(decision_id)
        return (found[0], found[1], found[2].gateway_id) if found is not None else None

    async def batch_keys(self, gateway_id: GatewayId) -> Sequence[BatchKey]:
        return self.keys_of(gateway_id)

    def keys_of(self, gateway_id: GatewayId) -> Sequence[BatchKey]:
        """The same, inside a transaction."""
        return [key for (owner, _), key in sorted(self._batch_keys.items()) if owner == gateway_id]

    async def revoked(self, gateway_id: GatewayId) -> bool:
        return gateway_id in self._revoked

    async def keep_imported(
        self,
        gateway_id: GatewayId,
        imported: ImportedBatch,
        *,
        person: str,  # noqa: ARG002  # the interface's
        now: Instant,  # noqa: ARG002  # the interface's
    ) -> bool:
        key = (gateway_id, imported.incarnation, imported.sequence, audit.next_head(b"", imported.batch.body))
        if sum(gateway == gateway_id for gateway, _, _, _ in self._imported) < MAX_IMPORTED:
            self._imported.setdefault(key, imported)
        return key in self._imported

    async def imported(self, gateway_id: GatewayId, after: ImportedBatch | None, limit: int) -> Sequence[ImportedBatch]:
        last = (
            (after.incarnation, after.sequence, audit.next_head(b"", after.batch.body))
            if after is not None
            else (0, 0, b"")
        )
        mine = sorted(
            (key[1:], each) for key, each in self._imported.items() if key[0] == gateway_id and key[1:] > last
        )
        return [each for _, each in mine[:limit]]

    async def review(self, review_id: str) -> ImportReview | None:
        return self._reviews.get(review_id)

    async def reviews(self, operator_id: OperatorId) -> Sequence[ImportReview]:
        mine = [review for review in self._reviews.values() if review.operator_id == operator_id]
        return sorted(mine, key=lambda review: (review.proposed_at, review.review_id))

    async def plan(self, plan_id: str) -> CorrectionPlan | None:
        return self._plans.get(plan_id)

    async def plans(self, operator_id: OperatorId) -> Sequence[CorrectionPlan]:
        mine = [replace(plan, content=b"") for plan in self._plans.values() if plan.operator_id == operator_id]
        return sorted(mine, key=lambda plan: (plan.planned_at, plan.plan_id))

    async def plan_corrections(self, operator_id: OperatorId, plan_id: str) -> Sequence[Correction]:
        return [
            replace(correction, parts=())
            for (operator, _), books in self._books.items()
            for correction in books.corrections.values()
            if operator == operator_id and correction.plan_id == plan_id and plan_id
        ]

    async def site_batches(
        self, operator_id: OperatorId, currency: Currency, site_id: SiteId, *, since: Instant, after: int, limit: int
    ) -> Sequence[BillingBatch]:
        found = [
            BillingBatch(
                place=s.posting_id, posting_id=s.posting_id, gateway_id=key[0], batch=s.added.batch, leaves=None
            )
            for key, s in self._batches.items()
            if s.added.site_id == site_id
            and (self._gateways[key[0]].operator_id, self._gateways[key[0]].currency) == (operator_id, currency)
            and s.added.sealed_at >= since
            and s.posting_id > after
        ]
        return sorted(found, key=lambda batch: batch.place)[:limit]

    async def billing_batches(
        self, gateway_id: GatewayId, authorization_ids: Sequence[AuthorizationId], *, after: int, limit: int
    ) -> Sequence[BillingBatch]:
        wanted = set(authorization_ids)
        found = []
        for key, stored in self._batches.items():
            _, detail = self._details.get(key, (None, None))
            place = stored.posting_id
            if key[0] != gateway_id or not stored.proven or place <= after or detail is None:
                continue
            if wanted & set(detail.authorizations):
                batch = stored.added.batch
                found.append(
                    BillingBatch(
                        place=place, posting_id=place, gateway_id=gateway_id, batch=batch, leaves=detail.leaves
                    )
                )
        return sorted(found, key=lambda batch: batch.place)[:limit]

    async def batches_with_parked(
        self, operator_id: OperatorId, gateway_id: str, *, before: int, limit: int
    ) -> Sequence[BatchWithParked]:
        found = [
            BatchWithParked(
                place=stored.posting_id,
                gateway_id=key[0],
                incarnation=key[1],
                sequence=key[2],
                posted_at=stored.receipt.posted_at,
                batch=stored.added.batch,
                present_incarnation=self._gateways[key[0]].incarnation,
            )
            for key, stored in self._batches.items()
            if stored.added.parked_statements
            and self._gateways[key[0]].operator_id == operator_id
            and gateway_id in ("", key[0])
            and (not before or stored.posting_id < before)
        ]
        return sorted(found, key=lambda batch: -batch.place)[:limit]

    async def decisions(self, operator_id: OperatorId) -> Sequence[Decision]:
        mine = [decision for operator, _, decision in self._decisions.values() if operator == operator_id]
        return sorted(mine, key=lambda decision: (decision.proposed_at, decision.decision_id))

    async def gateway_cases(self, operator_id: OperatorId, *, open_only: bool) -> Sequence[StoredGatewayCase]:
        return [
            stored
            for operator, stored in self._gateway_cases
            if operator == operator_id and not (open_only and stored.closed_at is not None)
        ]

    async def directives(self, gateway_id: GatewayId, after_version: int, limit: int) -> Sequence[StoredDirective]:
        return self._directives.get(gateway_id, [])[after_version : after_version + limit]

    async def unsigned(self, limit: int) -> Sequence[StoredDirective]:
        rows = [row for gateway_id in sorted(self._directives) for row in self._directives[gateway_id]]
        return [row for row in rows if not row.signature][:limit]

    async def keep_signatures(self, signed: Sequence[StoredDirective]) -> None:
        for row in signed:
            rows = self._directives[row.gateway_id]
            if not rows[row.version - 1].signature:
                rows[row.version - 1] = replace(rows[row.version - 1], signature=row.signature, key_id=row.key_id)

    async def told(self, operator_id: OperatorId, account_id: AccountId) -> Sequence[GatewayId]:
        return sorted(self._told.get((operator_id, account_id), ()))

    async def open_quotas(
        self, operator_id: OperatorId, gateway_id: str, account_id: str
    ) -> Sequence[tuple[GatewayId, AccountId, QuotaId]]:
        return sorted(
            (quota.gateway_id, quota.account_id, quota.quota_id)
            for quota in self._quotas.values()
            if quota.status is QuotaStatus.OPEN
            and self._gateways[quota.gateway_id].operator_id == operator_id
            and gateway_id in ("", quota.gateway_id)
            and account_id in ("", quota.account_id)
        )

    async def settled_floors(self, limit: int) -> Sequence[tuple[GatewayId, AccountId]]:
        out = []
        for (gateway_id, account_id), micros in sorted(self._floors.items()):
            gateway = self._gateways[gateway_id]
            debt = self._books[gateway.operator_id, gateway.currency].balances.get(paths.debt(account_id))
            if micros and debt is not None and debt.debits_posted == debt.credits_posted:
                out.append((gateway_id, account_id))
        return out[:limit]

    async def currency_of(self, operator_id: OperatorId, account_id: AccountId) -> Currency | None:
        found = (c for (o, c), books in self._books.items() if o == operator_id and account_id in books.payers)
        return next(found, None)

    async def books_of_case(self, case_id: int) -> tuple[OperatorId, Currency] | None:
        found = self._cases.get(case_id)
        return found[:2] if found is not None else None

    async def claimed(self, authorization_id: AuthorizationId, gateway_id: GatewayId) -> Claimed | None:
        return self._claims.get((authorization_id, gateway_id))

    async def account_quotas(self, operator_id: OperatorId, account_id: AccountId) -> Sequence[Quota]:
        return self._live_quotas(operator_id, account_id)

    async def correction(self, operator_id: OperatorId, correction_id: str) -> tuple[Currency, Correction] | None:
        found = (
            (currency, books.corrections[correction_id])
            for (operator, currency), books in self._books.items()
            if operator == operator_id and correction_id in books.corrections
        )
        return next(found, None)

    async def corrections(
        self, operator_id: OperatorId, after_correction_id: str, limit: int
    ) -> Sequence[tuple[Currency, Correction]]:
        rows = [
            (currency, replace(correction, parts=()))
            for (operator, currency), books in self._books.items()
            if operator == operator_id
            for correction in books.corrections.values()
        ]
        ids = [correction.correction_id for _, correction in rows]
        start = ids.index(after_correction_id) + 1 if after_correction_id in ids else 0
        return rows[start : start + limit]

    async def closing(self, operator_id: OperatorId, currency: Currency, window: str) -> bytes | None:
        books = self._books.get((operator_id, currency))
        return books.closings.get(window) if books is not None else None

    async def balances(self, operator_id: OperatorId, path_prefix: str) -> Sequence[tuple[str, Currency, Balances]]:
        return sorted(
            (
                (path, currency, balance)
                for (operator, currency), books in self._books.items()
                if operator == operator_id
                for path, balance in books.balances.items()
                if path.startswith(path_prefix)
            ),
            key=lambda row: row[:2],
        )

    async def balances_at(
        self, operator_id: OperatorId, path_prefix: str, at: Instant, *, by_business: bool
    ) -> Sequence[tuple[str, Currency, Balances]]:
        out = []
        for (operator, currency), books in self._books.items():
            dated = (
                transfer
                for posting_id, transfer in zip(books.posting_ids, books.transfers, strict=True)
                if operator == operator_id and self._dates[posting_id - 1][by_business] <= at
            )
            found, _ = replay(dated, self._quotas)
            out += [
                (path, currency, balances)
                for path, balances in found.items()
                if path.startswith(path_prefix) and balances != Balances()
            ]
        return sorted(out, key=lambda row: row[:2])

    async def transfers(self, operator_id: OperatorId) -> Sequence[Transfer]:
        return [t for (operator, _), books in self._books.items() if operator == operator_id for t in books.transfers]

    async def events(self, after: Cursor, limit: int, kinds: Sequence[str]) -> Sequence[StoredEvent]:
        rows = (row for row in self._outbox if row.cursor > after and (not kinds or row.kind in kinds))
        return [row for row, _ in zip(rows, range(limit), strict=False)]

    # ---- figures for simulations

    async def events_passed(self, reader: str, up_to: Cursor, *, now: Instant) -> None:  # noqa: ARG002  # the interface's
        self._readers[reader] = up_to

    async def prune_events(self, readers: Sequence[str], before: Instant, limit: int) -> int:
        if not self._readers or set(readers) - self._readers.keys():
            return 0
        passed = min(self._readers.values())
        first = itertools.takewhile(lambda row: row.cursor <= passed and row.at < before, self._outbox[:limit])
        gone = list(first)
        if gone:
            del self._outbox[: len(gone)]
            self._pruned = gone[-1].cursor
        return len(gone)

    async def events_pruned(self) -> Cursor:
        return self._pruned

    async def quotas(self, operator_id: OperatorId) -> Sequence[Quota]:
        """Every quota."""
        return [q for q in self._quotas.values() if self._gateways[q.gateway_id].operator_id == operator_id]

    async def claims(self, operator_id: OperatorId) -> Sequence[Claimed]:
        """The highest claim of every authorization."""
        return [c for c in self._claims.values() if self._gateways[c.gateway_id].operator_id == operator_id]

    async def cases(self, operator_id: OperatorId) -> Sequence[Case]:
        """Every case."""
        return [case for operator, _, case in self._cases.values() if operator == operator_id]

    async def verify(self, tell: Tell = nobody) -> Verdict:
        await tell(Looked(step=1, steps=1, what="everything"))
        fault = ""
        for (operator_id, currency), books in self._books.items():
            quotas = {
                quota_id: quota
                for quota_id, quota in self._quotas.items()
                if self._gateways[quota.gateway_id].operator_id == operator_id
                and self._gateways[quota.gateway_id].currency == currency
            }
            payers = {str(account_id): payer for account_id, payer in books.payers.items()}
            fault = fault or fault_of(books.transfers, books.balances, quotas, payers)
        for operator_id in self._heads:
            claimed = sum(c.net_micros + c.tax_micros for c in await self.claims(operator_id))
            due = sum(
                batch.added.due_micros
                for (gateway_id, _, _), batch in self._batches.items()
                if self._gateways[gateway_id].operator_id == operator_id
            )
            if claimed != due and not fault:
                fault = f"operator {operator_id}: claims say {claimed}, the batches {due}"
        heads: dict[OperatorId, bytes] = {}
        for operator_id, body, head in self._links:
            heads[operator_id] = audit.next_head(heads.get(operator_id, ZERO_HASH), body)
            if heads[operator_id] != head and not fault:
                fault = f"operator {operator_id}: the audit chain is broken"
        return Verdict(
            fault=fault,
            transfers=sum(len(books.transfers) for books in self._books.values()),
            accounts=sum(len(books.balances) for books in self._books.values()),
            batches=len(self._batches),
        )


class _MemoryTransaction:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def load(self, touch: Touch) -> View:
        return self._store.load(touch)

    async def use(
        self, operator_id: OperatorId, currency: Currency, claim: Claimed, postings: Sequence[int] = ()
    ) -> UseHistory:
        return self._store.use(operator_id, currency, claim, postings)

    async def post(self, posting: Posting) -> Posted:
        return self._store.post(posting)

    async def post_batches(self, postings: AsyncIterable[Posting]) -> Sequence[tuple[Posting, Posted]]:
        # All or nothing: what fails while it is planned has written nothing.
        planned = [posting async for posting in postings]
        return [(posting, self._store.post(posting)) for posting in planned]

    async def keep_detail(
        self, gateway_id: GatewayId, incarnation: int, sequence: int, detail: Detail, *, now: Instant
    ) -> None:
        self._store.keep_detail(gateway_id, incarnation, sequence, detail, now=now)

    async def take_all_books(self) -> Sequence[tuple[OperatorId, Currency]]:
        return self._store.all_books()

    async def set_epoch(self, epoch: Epoch) -> None:
        self._store.set_epoch(epoch)

    async def batch_keys(self, gateway_id: GatewayId) -> Sequence[BatchKey]:
        return self._store.keys_of(gateway_id)

    async def tail(self, gateway_id: GatewayId, after_version: int) -> Sequence[Tail]:
        return self._store.tail(gateway_id, after_version)

    async def epoch(self) -> Epoch:
        return await self._store.epoch()

    async def rewindings(self) -> Sequence[GatewayRewinding]:
        return await self._store.rewindings()

    async def overdrawn(self, limit: int) -> Sequence[tuple[OperatorId, Currency, AccountId]]:
        return await self._store.overdrawn(limit)

    async def directives(self, gateway_id: GatewayId, after_version: int, limit: int) -> Sequence[StoredDirective]:
        return await self._store.directives(gateway_id, after_version, limit)


def _name_of(stored: StoredGatewayCase) -> tuple[GatewayId, int, GatewayCaseKind]:
    return stored.case.gateway_id, stored.case.incarnation, stored.case.kind


def _is_a_store(store: MemoryStore) -> LedgerStore:
    return store  # mypy checks here that the fake keeps the interface
