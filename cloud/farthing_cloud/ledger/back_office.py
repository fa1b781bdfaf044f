"""The ledger's API inside: accounts, funding, policy, cases, windows, and what may be seen of it all."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc
from typing_extensions import override

from farthing.clock import BusinessClock
from farthing.device.cose import VerifyingKey
from farthing.device.reject import MessageError
from farthing.evidence import classes
from farthing.ids import (
    AUTHORIZATION_ID_SIZE,
    AccountId,
    AuthorizationId,
    GatewayId,
    OperatorId,
    SiteId,
    parse_bytes,
    parse_id,
)
from farthing.money import parse_amount_micros, parse_currency
from farthing.policy import entitlement_of, online_check_ppm_of, place_policy_of, scorecard_of, usage_limits_of
from farthing.tlog.entries import receipt_hash
from farthing.v1 import directive_pb2, ledger_pb2
from farthing_cloud.callers import Caller
from farthing_cloud.ledger.auditing import Auditor
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.bundles import Bundles
from farthing_cloud.ledger.core import restoring
from farthing_cloud.ledger.core.directives import Body
from farthing_cloud.ledger.core.exposure import Loss, loss_of, total
from farthing_cloud.ledger.core.funds import Funding, UnknownName
from farthing_cloud.ledger.core.rows import (
    NEVER,
    AccountStatus,
    Decision,
    DecisionKind,
    Gateway,
    LedgerState,
    Rewinding,
)
from farthing_cloud.ledger.core.windows import SplitRule
from farthing_cloud.ledger.import_calls import ImportServicer
from farthing_cloud.ledger.imports import Imports
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.orders import message_of, order_of
from farthing_cloud.ledger.parked import parked_in
from farthing_cloud.ledger.plan_calls import PART_SIZE
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.refusals import Context, Refused, malformed, refusals
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.signing import LOOK_AGAIN_MS
from farthing_cloud.ledger.store.interface import Cursor, GatewayRewinding, Looked, Tell, nobody

#: Rows of one answer: to make one is work of the loop that serves gateways (half a million claims at once held it up for seven seconds).
MAX_ROWS: Final = 1_000
#: Outbox rows read at once.
EVENTS_AT_ONCE: Final = 500
#: What a consumer of the outbox handles in one transaction.
RECEIPTS_AT_ONCE: Final = 200
#: Batches with parked statements read at once: 64 of 768 bytes in each are under a megabyte, a message may be four.
PARKED_BATCHES_AT_ONCE: Final = 16
#: More cannot be stored.
MAX_COUNT: Final = 2**63 - 1
#: Texts of people and services that end up in rows.
MAX_TEXT: Final = 200

_STATUS: Final = {
    directive_pb2.ACCOUNT_STATUS_ACTIVE: AccountStatus.ACTIVE,
    directive_pb2.ACCOUNT_STATUS_SUSPENDED: AccountStatus.SUSPENDED,
}
#: What reduces: a device in one of these may do nothing more.
_REDUCED: Final = frozenset(
    {
        directive_pb2.DEVICE_STATUS_SUSPENDED,
        directive_pb2.DEVICE_STATUS_BLOCKED,
        directive_pb2.DEVICE_STATUS_DECOMMISSIONED,
    }
)


class LedgerServicer(ImportServicer):
    """See ``ledger.proto``."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        reports: Reports,
        bundles: Bundles,
        plans: CorrectionPlans,
        imports: Imports,
        clock: BusinessClock,
        directives_wanted: Bell,
        events: Bell,
        caller: Callable[[Any], Caller],
        silent_us: int,
    ) -> None:
        self._ledger = ledger
        self._silent_us = silent_us
        self._store = ledger.store
        self._reports = reports
        self._bundles = bundles
        self._auditor = Auditor(ledger)
        self._plans = plans
        self._imports = imports
        self._clock = clock
        self._directives_wanted = directives_wanted
        self._events = events
        self._caller = caller
        self._verifying = asyncio.Lock()

    # --- who there is -------------------------------------------------------------------------------------------------

    @override
    async def CreateGateway(
        self, request: ledger_pb2.CreateGatewayRequest, context: Context
    ) -> ledger_pb2.CreateGatewayResponse:
        """Make a gateway known, or change its exposure or keys."""
        async with refusals(context):
            for name, key in (("batch_key", request.batch_key), ("grant_key", request.grant_key)):
                try:
                    VerifyingKey.from_spki(key)
                except MessageError as err:
                    raise malformed(f"{name}: {err}") from err
            changed = await self._ledger.put_gateway(
                gateway_id=GatewayId(parse_id(request.gateway_id)),
                operator_id=OperatorId(parse_id(request.operator_id)),
                site_id=SiteId(parse_id(request.site_id)),
                currency=parse_currency(request.currency),
                exposure_micros=parse_amount_micros(request.exposure_micros),
                batch_key=request.batch_key,
                grant_key=request.grant_key,
                time_zone=_text("time_zone", request.time_zone),
                now=self._clock.now(),
                revoked_keys=tuple(request.revoked_batch_keys),
                least_class=_least_class(request.least_evidence_class),
            )
            if request.revoked:
                await self._ledger.revoke_gateway(GatewayId(request.gateway_id), now=self._clock.now())
        self._directives_wanted.ring()
        return ledger_pb2.CreateGatewayResponse(changed=changed)

    @override
    async def CreateAccount(
        self, request: ledger_pb2.CreateAccountRequest, context: Context
    ) -> ledger_pb2.CreateAccountResponse:
        """Make an account, or change its terms; gateways that know it hear of it."""
        async with refusals(context):
            status = _STATUS.get(request.status)
            if status is None:
                raise malformed("an account is active or suspended: say which")
            changed = await self._ledger.put_account(
                operator_id=OperatorId(parse_id(request.operator_id)),
                account_id=AccountId(parse_id(request.account_id)),
                currency=parse_currency(request.currency),
                credit_limit_micros=parse_amount_micros(request.credit_limit_micros),
                debt_limit_micros=parse_amount_micros(request.debt_limit_micros),
                status=status,
                preload_micros=parse_amount_micros(request.preload_micros),
                now=self._clock.now(),
                dry_run=request.dry_run,
            )
        self._directives_wanted.ring()
        return ledger_pb2.CreateAccountResponse(changed=changed)

    @override
    async def FundAccount(
        self, request: ledger_pb2.FundAccountRequest, context: Context
    ) -> ledger_pb2.FundAccountResponse:
        """Credit an account; what it owes is paid first."""
        async with refusals(context):
            funding = Funding(
                operator_id=OperatorId(parse_id(request.operator_id)),
                account_id=AccountId(parse_id(request.account_id)),
                currency=parse_currency(request.currency),
                amount_micros=parse_amount_micros(request.amount_micros),
                payment_id=_text("payment_id", request.payment_id),
                source=request.source,
            )
            changed = await self._ledger.fund(funding, now=self._clock.now(), dry_run=request.dry_run)
            account = await self._payer(funding.operator_id, funding.account_id)
        self._events.ring()
        available = account.available_micros
        if changed and request.dry_run:
            # Debts are paid first, from what was not available before.
            available += max(0, funding.amount_micros - account.debt_micros)
        return ledger_pb2.FundAccountResponse(changed=changed, available_micros=available)

    async def _payer(self, operator_id: str, account_id: str) -> ledger_pb2.PayerAccount:
        found = await self._reports.payers(operator_id, parse_id(account_id))
        if not found:
            raise UnknownName(f"no account {account_id} of operator {operator_id}")
        return found[0]

    @override
    async def ShowAccount(
        self, request: ledger_pb2.ShowAccountRequest, context: Context
    ) -> ledger_pb2.ShowAccountResponse:
        """One account."""
        async with refusals(context):
            return ledger_pb2.ShowAccountResponse(account=await self._payer(request.operator_id, request.account_id))

    @override
    async def ListAccounts(
        self, request: ledger_pb2.ListAccountsRequest, context: Context
    ) -> ledger_pb2.ListAccountsResponse:
        """A page of an operator's accounts."""
        async with refusals(context):
            accounts = await self._reports.payers(
                request.operator_id, after=request.after_account_id, limit=_page(request.limit)
            )
        return ledger_pb2.ListAccountsResponse(accounts=accounts)

    # --- what was posted ----------------------------------------------------------------------------------------------

    @override
    async def ListBalances(
        self, request: ledger_pb2.ListBalancesRequest, context: Context
    ) -> ledger_pb2.ListBalancesResponse:
        """Ledger accounts by path."""
        async with refusals(context):
            at_us = request.at_us if request.HasField("at_us") else None
            if at_us is None and request.by_business_date:
                raise malformed("balances by business date are those of an instant: say which")
            balances = await self._reports.balances(
                request.operator_id, request.path_prefix, at_us=at_us, by_business=request.by_business_date
            )
        return ledger_pb2.ListBalancesResponse(balances=balances)

    @override
    async def ListTransfers(
        self, request: ledger_pb2.ListTransfersRequest, context: Context
    ) -> ledger_pb2.ListTransfersResponse:
        """A page of transfers."""
        async with refusals(context):
            transfers = await self._reports.transfers(
                request.operator_id, request.path, request.after_id, _page(request.limit)
            )
        return ledger_pb2.ListTransfersResponse(transfers=transfers)

    @override
    async def Verify(self, request: ledger_pb2.VerifyRequest, context: Context) -> ledger_pb2.VerifyResponse:
        """Replay everything."""
        async with refusals(context):
            return await self._verified(nobody)

    @override
    async def FollowVerify(  # type: ignore[override]  # grpc.aio's other way to answer with a stream: what ends the call ends it, wherever it is
        self, request: ledger_pb2.FollowVerifyRequest, context: Context
    ) -> None:
        """Replay everything, and say how far it is."""

        async def tell(looked: Looked) -> None:
            progress = ledger_pb2.VerifyProgress(
                step=looked.step, steps=looked.steps, what=looked.what, rows=looked.rows
            )
            await context.write(ledger_pb2.FollowVerifyResponse(progress=progress))

        async with refusals(context):
            verdict = await self._verified(tell)
            await context.write(ledger_pb2.FollowVerifyResponse(verdict=verdict))

    async def _verified(self, tell: Tell) -> ledger_pb2.VerifyResponse:
        if self._verifying.locked():
            # Each holds one of the few connections that posting needs too, for as long as it takes.
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "the ledger is being verified already, and that is done once at a time: ask again when it has ended",
            )
        async with self._verifying:
            verdict = await self._store.verify(tell)
        return ledger_pb2.VerifyResponse(
            ok=not verdict.fault,
            fault=verdict.fault,
            transfers=verdict.transfers,
            accounts=verdict.accounts,
            batches=verdict.batches,
        )

    @override
    async def ListBatches(
        self, request: ledger_pb2.ListBatchesRequest, context: Context
    ) -> ledger_pb2.ListBatchesResponse:
        """Posted batches."""
        async with refusals(context):
            name = request.after
            if max(name.incarnation, name.sequence) > MAX_COUNT:
                raise malformed("an incarnation or sequence above 2^63 - 1")
            batches = await self._reports.batches(
                request.operator_id,
                request.gateway_id,
                parked_only=request.parked_only,
                after=(name.gateway_id, name.incarnation, name.sequence),
                limit=_page(request.limit),
            )
        return ledger_pb2.ListBatchesResponse(batches=batches)

    @override
    async def ListParkedStatements(
        self, request: ledger_pb2.ListParkedStatementsRequest, context: Context
    ) -> ledger_pb2.ListParkedStatementsResponse:
        """What gateways could not take as it stands, as their batches brought it; the newest first."""
        async with refusals(context):
            if request.before < 0:
                raise malformed("before is a place of an answer before, or 0")
            batches = await self._store.batches_with_parked(
                OperatorId(parse_id(request.operator_id)),
                parse_id(request.gateway_id) if request.gateway_id else "",
                before=request.before,
                limit=PARKED_BATCHES_AT_ONCE,
            )
        return ledger_pb2.ListParkedStatementsResponse(
            statements=[
                each for batch in batches for each in parked_in(batch) if request.device_id in ("", each.device_id)
            ],
            before=batches[-1].place if len(batches) == PARKED_BATCHES_AT_ONCE else 0,
        )

    @override
    async def ListClaims(
        self, request: ledger_pb2.ListClaimsRequest, context: Context
    ) -> ledger_pb2.ListClaimsResponse:
        """The highest claim of each authorization."""
        async with refusals(context):
            claims = await self._reports.claims(
                request.operator_id,
                request.device_id,
                after=(request.after_authorization_id, request.after_gateway_id),
                limit=_page(request.limit),
            )
        return ledger_pb2.ListClaimsResponse(claims=claims)

    @override
    async def ExportEvidence(
        self, request: ledger_pb2.ExportEvidenceRequest, context: Context
    ) -> AsyncIterator[ledger_pb2.ExportEvidenceResponse]:
        """What one authorization was billed, down to the devices' signatures."""
        async with refusals(context):
            bundle = await self._bundles.of(
                OperatorId(parse_id(request.operator_id)),
                AuthorizationId(parse_bytes(request.authorization_id, AUTHORIZATION_ID_SIZE)),
                gateway_id=GatewayId(parse_id(request.gateway_id)) if request.gateway_id else None,
                last_batches=request.last_batches,
            )
            for start in range(0, len(bundle), PART_SIZE):
                yield ledger_pb2.ExportEvidenceResponse(part=bundle[start : start + PART_SIZE])

    # --- quotas -------------------------------------------------------------------------------------------------------

    @override
    async def ListQuotas(
        self, request: ledger_pb2.ListQuotasRequest, context: Context
    ) -> ledger_pb2.ListQuotasResponse:
        """Quotas."""
        async with refusals(context):
            quotas = await self._reports.quotas(
                request.operator_id,
                request.gateway_id,
                request.account_id,
                open_only=request.open_only,
                after=request.after_quota_id,
                limit=_page(request.limit),
            )
        return ledger_pb2.ListQuotasResponse(quotas=quotas)

    @override
    async def RecallQuotas(
        self, request: ledger_pb2.RecallQuotasRequest, context: Context
    ) -> ledger_pb2.RecallQuotasResponse:
        """Ask gateways to stop quotas."""
        async with refusals(context):
            recalled = await self._ledger.recall(
                OperatorId(parse_id(request.operator_id)),
                gateway_id=request.gateway_id,
                account_id=request.account_id,
                reason=_text("reason", request.reason),
                now=self._clock.now(),
            )
        self._directives_wanted.ring()
        return ledger_pb2.RecallQuotasResponse(quota_ids=recalled)

    # --- cases --------------------------------------------------------------------------------------------------------

    @override
    async def ListOverlapCases(
        self, request: ledger_pb2.ListOverlapCasesRequest, context: Context
    ) -> ledger_pb2.ListOverlapCasesResponse:
        """What was set aside."""
        async with refusals(context):
            cases = await self._reports.cases(
                request.operator_id, after=request.after_case_id, limit=_page(request.limit)
            )
        return ledger_pb2.ListOverlapCasesResponse(cases=cases)

    @override
    async def DecideOverlapCase(
        self, request: ledger_pb2.DecideOverlapCaseRequest, context: Context
    ) -> ledger_pb2.DecideOverlapCaseResponse:
        """Bill what was set aside after all, or never."""
        async with refusals(context):
            await self._ledger.decide_case(request.case_id, release=request.release, now=self._clock.now())
        return ledger_pb2.DecideOverlapCaseResponse()

    # --- policy -------------------------------------------------------------------------------------------------------

    @override
    async def IssueDirective(
        self, request: ledger_pb2.IssueDirectiveRequest, context: Context
    ) -> ledger_pb2.IssueDirectiveResponse:
        """Put policy on a gateway's chain, once per key. Fraud may only send what reduces."""
        async with refusals(context):
            who = self._caller(context)
            body = _body(request)
            if (who.kind, who.id) == ("service", "fraud") and not _reduces(body):
                raise Refused(grpc.StatusCode.PERMISSION_DENIED, "fraud may only reduce what is allowed")
            version = await self._ledger.issue_directive(
                OperatorId(parse_id(request.operator_id)),
                GatewayId(parse_id(request.gateway_id)),
                body,
                idempotency_key=_text("idempotency_key", request.idempotency_key),
                now=self._clock.now(),
            )
        self._directives_wanted.ring()
        return ledger_pb2.IssueDirectiveResponse(version=version)

    # --- events -------------------------------------------------------------------------------------------------------

    @override
    async def FollowEvents(
        self, request: ledger_pb2.FollowEventsRequest, context: Context
    ) -> AsyncIterator[ledger_pb2.FollowEventsResponse]:
        """Events after a cursor, in order; a late commit is never skipped."""
        async with refusals(context):
            cursor = _cursor(request.after)
            kinds = tuple(request.kinds)
            is_told = False
            while True:
                seen = self._events.rung
                rows = await self._store.events(cursor, EVENTS_AT_ONCE, kinds)
                # Who begins anew hears what is kept. Who had come so far, and goes back behind what is gone, would miss it without knowing.
                # (Asked afterwards: what went before these rows were read is known then.)
                if Cursor() < cursor < (pruned := await self._store.events_pruned()):
                    raise Refused(
                        grpc.StatusCode.OUT_OF_RANGE,
                        f"events up to ({pruned.transaction_id}, {pruned.sequence}) were pruned, and this reader has not passed them",
                    )
                if not is_told:
                    # Who follows knows now that it is heard, also where the first event is days away.
                    await context.send_initial_metadata(())
                    is_told = True
                for row in rows:
                    cursor = row.cursor
                    yield ledger_pb2.FollowEventsResponse(
                        cursor=ledger_pb2.EventCursor(
                            transaction_id=row.cursor.transaction_id, sequence=row.cursor.sequence
                        ),
                        kind=row.kind,
                        key=row.key,
                        at_us=row.at,
                        value=row.value,
                        traceparent=row.traceparent,
                    )
                if len(rows) == EVENTS_AT_ONCE:
                    continue
                if not request.follow:
                    return
                await self._events.wait(seen, milliseconds=LOOK_AGAIN_MS)

    @override
    async def AcknowledgeEvents(
        self, request: ledger_pb2.AcknowledgeEventsRequest, context: Context
    ) -> ledger_pb2.AcknowledgeEventsResponse:
        """How far the calling service has come."""
        async with refusals(context):
            await self._store.events_passed(self._caller(context).id, _cursor(request.up_to), now=self._clock.now())
        return ledger_pb2.AcknowledgeEventsResponse()

    @override
    async def ReadReceipts(
        self, request: ledger_pb2.ReadReceiptsRequest, context: Context
    ) -> ledger_pb2.ReadReceiptsResponse:
        """Hashes of posted batches and of what their receipts say, and the epoch that the ledger is in."""
        async with refusals(context):
            if len(request.batches) > RECEIPTS_AT_ONCE:
                raise malformed(f"at most {RECEIPTS_AT_ONCE} batches at once")
            if any(max(name.incarnation, name.sequence) > MAX_COUNT for name in request.batches):
                raise malformed("an incarnation or sequence above 2^63 - 1")
            epoch = (await self._store.epoch()).number
            found = await self._store.receipts(
                [(GatewayId(parse_id(name.gateway_id)), name.incarnation, name.sequence) for name in request.batches]
            )
        return ledger_pb2.ReadReceiptsResponse(
            ledger_epoch=epoch,
            receipts=[
                ledger_pb2.PostedReceipt(
                    batch=ledger_pb2.BatchName(
                        gateway_id=content.gateway_id, incarnation=content.incarnation, sequence=content.sequence
                    ),
                    ledger_epoch=content.ledger_epoch,
                    batch_hash=content.batch_hash,
                    receipt_hash=receipt_hash(content.encode()),
                )
                for content in found
            ],
        )

    @override
    async def AuditBatch(
        self, request: ledger_pb2.AuditBatchRequest, context: Context
    ) -> ledger_pb2.AuditBatchResponse:
        """Judge a batch that was drawn."""
        async with refusals(context):
            name = request.batch
            if max(name.incarnation, name.sequence) > MAX_COUNT:
                raise malformed("an incarnation or sequence above 2^63 - 1")
            outcome, detail = await self._auditor.audit(
                GatewayId(parse_id(name.gateway_id)),
                name.incarnation,
                name.sequence,
                due=request.due,
                now=self._clock.now(),
            )
        self._events.ring()
        self._directives_wanted.ring()
        return ledger_pb2.AuditBatchResponse(outcome=outcome, detail=detail)

    # --- settlement ---------------------------------------------------------------------------------------------------

    @override
    async def CloseWindow(
        self, request: ledger_pb2.CloseWindowRequest, context: Context
    ) -> ledger_pb2.CloseWindowResponse:
        """Split what stands in clearing; once."""
        async with refusals(context):
            rules = {
                SiteId(parse_id(split.site_id)): SplitRule(
                    rule_version=split.rule_version,
                    parts=tuple((part.path, part.share_ppm) for part in split.parts),
                    remainder_path=split.remainder_path,
                )
                for split in request.splits
            }
            answer = await self._ledger.close_window(
                OperatorId(parse_id(request.operator_id)),
                parse_currency(request.currency),
                request.window,
                rules,
                now=self._clock.now(),
            )
        self._events.ring()
        return answer

    @override
    async def Reconcile(self, request: ledger_pb2.ReconcileRequest, context: Context) -> ledger_pb2.ReconcileResponse:
        """Every sum of an operator, in one snapshot."""
        async with refusals(context):
            sums = await self._reports.reconcile(request.operator_id, now=self._clock.now(), silent_us=self._silent_us)
            sums.restoring = restoring.why_not_open(await self._store.epoch())
        return sums

    # --- gateways that people decide about ----------------------------------------------------------------------------

    @override
    async def ListGatewayCases(
        self, request: ledger_pb2.ListGatewayCasesRequest, context: Context
    ) -> ledger_pb2.ListGatewayCasesResponse:
        """Lost and rolled back journals, and second stories."""
        async with refusals(context):
            cases = await self._store.gateway_cases(
                OperatorId(parse_id(request.operator_id)), open_only=request.open_only
            )
        return ledger_pb2.ListGatewayCasesResponse(
            cases=[
                ledger_pb2.GatewayCase(
                    case_id=stored.case_id,
                    gateway_id=stored.case.gateway_id,
                    incarnation=stored.case.incarnation,
                    kind=stored.case.kind.value,
                    detail=stored.case.detail,
                    opened_at_us=stored.opened_at,
                    closed_at_us=stored.closed_at or 0,
                )
                for stored in cases
            ]
        )

    @override
    async def ProposeDecision(
        self, request: ledger_pb2.ProposeDecisionRequest, context: Context
    ) -> ledger_pb2.ProposeDecisionResponse:
        """One person proposes."""
        async with refusals(context):
            person = self._person(context)
            try:
                kind = DecisionKind(request.kind)
            except ValueError as err:
                raise malformed(f"a decision is one of {', '.join(DecisionKind)}") from err
            reason, now = _text("reason", request.reason), self._clock.now()
            if kind is DecisionKind.RESTORED:
                operator_id = OperatorId(parse_id(request.operator_id))
                decision = await self._ledger.restored.propose(operator_id, reason=reason, person=person, now=now)
            else:
                gateway_id = GatewayId(parse_id(request.gateway_id))
                decision = await self._ledger.propose(kind, gateway_id, reason=reason, person=person, now=now)
        return ledger_pb2.ProposeDecisionResponse(decision=_decision(decision))

    @override
    async def ApproveDecision(
        self, request: ledger_pb2.ApproveDecisionRequest, context: Context
    ) -> ledger_pb2.ApproveDecisionResponse:
        """Another person approves what the first proposed, by the hash of it; then it is done."""
        async with refusals(context):
            changed = await self._ledger.approve(
                request.decision_id,
                content_hash=request.content_hash,
                person=self._person(context),
                now=self._clock.now(),
            )
        self._directives_wanted.ring()
        self._events.ring()
        return ledger_pb2.ApproveDecisionResponse(changed=changed)

    @override
    async def ListDecisions(
        self, request: ledger_pb2.ListDecisionsRequest, context: Context
    ) -> ledger_pb2.ListDecisionsResponse:
        """Proposed and approved."""
        async with refusals(context):
            decisions = await self._store.decisions(OperatorId(parse_id(request.operator_id)))
        return ledger_pb2.ListDecisionsResponse(decisions=[_decision(decision) for decision in decisions])

    @override
    async def ShowEpoch(self, request: ledger_pb2.ShowEpochRequest, context: Context) -> ledger_pb2.ShowEpochResponse:
        """Whether the ledger is open, and how far each gateway is."""
        async with refusals(context):
            epoch = await self._store.epoch()
            gateways = () if request.without_gateways else await self._store.rewindings()
        return ledger_pb2.ShowEpochResponse(
            ledger_epoch=epoch.number,
            state=epoch.state.value,
            since_us=epoch.since if epoch.state is not LedgerState.OPEN else 0,
            why=epoch.why,
            gateways=[_rewinding(gateway) for gateway in gateways],
        )

    # --- corrections --------------------------------------------------------------------------------------------------

    @override
    async def Correct(self, request: ledger_pb2.CorrectRequest, context: Context) -> ledger_pb2.CorrectResponse:
        """Money goes back, is given, taken away or written off; once per id."""
        async with refusals(context):
            person = self._person(context)
            order = order_of(request.content)
            changed, currency, correction = await self._ledger.correct(
                order, person=person, now=self._clock.now(), dry_run=request.dry_run
            )
        self._directives_wanted.ring()
        self._events.ring()
        return ledger_pb2.CorrectResponse(changed=changed, correction=message_of(currency, correction))

    @override
    async def ListPaybacks(
        self, request: ledger_pb2.ListPaybacksRequest, context: Context
    ) -> ledger_pb2.ListPaybacksResponse:
        """A page of paybacks, each with how far it is."""
        async with refusals(context):
            paybacks = await self._reports.paybacks(
                OperatorId(parse_id(request.operator_id)),
                open_only=request.open_only,
                after=request.after_correction_id,
                limit=_page(request.limit),
            )
        return ledger_pb2.ListPaybacksResponse(paybacks=paybacks)

    @override
    async def ListCorrections(
        self, request: ledger_pb2.ListCorrectionsRequest, context: Context
    ) -> ledger_pb2.ListCorrectionsResponse:
        """A page of corrections."""
        async with refusals(context):
            rows = await self._store.corrections(
                OperatorId(parse_id(request.operator_id)), request.after_correction_id, _page(request.limit)
            )
        return ledger_pb2.ListCorrectionsResponse(corrections=[message_of(*row) for row in rows])

    @override
    async def ShowExposure(
        self, request: ledger_pb2.ShowExposureRequest, context: Context
    ) -> ledger_pb2.ShowExposureResponse:
        """Maximum loss now: of each gateway, each site, and the operator."""
        async with refusals(context):
            now = self._clock.now()
            losses = [
                (gateway, loss_of(gateway, open_micros=open_micros, silent_us=self._silent_us, now=now))
                for gateway, open_micros in await self._store.exposures(parse_id(request.operator_id))
            ]
        return ledger_pb2.ShowExposureResponse(rows=_exposures(request.operator_id, losses))


def _page(limit: int) -> int:
    """Rows of the answer to somebody who asks for ``limit``; 0 leaves it to us."""
    if limit > MAX_ROWS:
        raise malformed(f"a page has at most {MAX_ROWS} rows")
    return limit or MAX_ROWS


def _decision(decision: Decision) -> ledger_pb2.Decision:
    return ledger_pb2.Decision(
        decision_id=decision.decision_id,
        content=decision.content,
        content_hash=decision.content_hash,
        approved_by=decision.approved_by,
        approved_at_us=decision.approved_at or 0,
    )


def _rewinding(gateway: GatewayRewinding) -> ledger_pb2.GatewayRewinding:
    back = gateway.rewinding
    if back is not None and back.given_up:
        standing = "given-up"
    elif not gateway.has_shown:
        standing = "missing"
    else:
        standing = "rewound" if gateway.is_done else "shown"
    if back is None:
        back = Rewinding(gateway_id=gateway.gateway_id, epoch=0, shown_at=NEVER)
    return ledger_pb2.GatewayRewinding(
        gateway_id=gateway.gateway_id,
        operator_id=gateway.operator_id,
        standing=standing,
        shown_at_us=back.shown_at,
        directives=back.directives,
        set_aside=back.set_aside,
        quotas=back.quotas,
        reinstated_micros=back.reinstated_micros,
        short_micros=back.short_micros,
        incarnation=back.incarnation,
        receipted_sequence=back.sequence,
        posted_sequence=gateway.posted_sequence,
    )


def _exposures(operator_id: str, losses: Sequence[tuple[Gateway, Loss]]) -> list[ledger_pb2.Exposure]:
    """A row for each gateway, then each site, then the operator; sums are per currency."""
    sums: dict[tuple[str, str, str], list[Loss]] = {}
    for scope in ("gateway", "site", "operator"):
        for gateway, loss in losses:
            name = {"gateway": gateway.gateway_id, "site": gateway.site_id, "operator": operator_id}[scope]
            sums.setdefault((scope, name, gateway.currency), []).append(loss)
    return [_exposure(*key, total(parts)) for key, parts in sums.items()]


def _exposure(scope: str, name: str, currency: str, loss: Loss) -> ledger_pb2.Exposure:
    return ledger_pb2.Exposure(
        scope=scope,
        id=name,
        currency=currency,
        maximum_loss_micros=loss.maximum_micros,
        quotas_micros=loss.quotas_micros,
        floors_micros=loss.floors_micros,
        overrun_micros=loss.overrun_micros,
        open_micros=loss.open_micros,
        exposure_micros=loss.exposure_micros,
        late_micros=loss.late_micros,
        silent=loss.silent,
        unwitnessed=loss.unwitnessed,
    )


def _least_class(evidence_class: int) -> int:
    try:
        return classes.least_of(evidence_class)
    except ValueError as err:
        raise malformed(f"least_evidence_class: {err}") from err


def _cursor(said: ledger_pb2.EventCursor) -> Cursor:
    """A place in the outbox; raise ``Refused`` for one that PostgreSQL cannot have."""
    if max(said.transaction_id, said.sequence) > MAX_COUNT:
        raise malformed("a place above 2^63 - 1")
    return Cursor(transaction_id=said.transaction_id, sequence=said.sequence)


def _text(name: str, value: str) -> str:
    if not 1 <= len(value) <= MAX_TEXT or not value.isprintable():
        raise malformed(f"{name} is 1 to {MAX_TEXT} printable characters")
    return value


def _body(request: ledger_pb2.IssueDirectiveRequest) -> Body:
    body: Body
    match request.WhichOneof("body"):
        case "site_key":
            body = request.site_key
        case "tariff":
            body = request.tariff
        case "device":
            body = request.device
            for register in body.registers:
                parse_id(register.register_id)
            parse_id(body.device_id)
        case "token":
            body = request.token
        case "token_denied":
            body = request.token_denied
        case "floor":
            body = request.floor
            for micros in (body.per_token_micros, body.per_account_micros, body.all_tokens_micros):
                parse_amount_micros(micros)
        case "seal":
            body = request.seal
        case "usage_limits":
            body = request.usage_limits
            usage_limits_of(body)
        case "place":
            body = request.place
            place_policy_of(body)
        case "scorecard":
            body = request.scorecard
            scorecard_of(body)
        case "online_check":
            body = request.online_check
            online_check_ppm_of(body)
        case "entitlement":
            body = request.entitlement
            entitlement_of(body)
        case "use_closed":
            body = request.use_closed
            parse_id(body.device_id)
        case "parked_decided":
            body = request.parked_decided
            parse_id(body.device_id)
        case _:
            raise malformed("a directive has a body")
    return body


def _reduces(body: Body) -> bool:
    if isinstance(body, directive_pb2.DeviceRecord):
        return body.status in _REDUCED
    return isinstance(body, directive_pb2.TokenDenied)
