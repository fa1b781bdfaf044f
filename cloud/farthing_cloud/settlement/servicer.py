"""Settlement as a service: agencies, split rules, closing a window, planning its payouts.

Rule 1: what the ledger is asked to close is durable before it is asked, so that a lost answer is asked for again in the
same words.
Rule 2: a plan is made once per window; asking again gives the same plan.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import structlog

from farthing.clock import BusinessClock, Instant
from farthing.hsm import Token
from farthing.ids import IdError, SiteId, parse_id
from farthing.money import MoneyError, parse_currency
from farthing.v1 import (
    ledger_pb2,
    ledger_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    settlement_pb2,
    settlement_pb2_grpc,
)
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import SettlementSection
from farthing_cloud.database import Pool
from farthing_cloud.offering import Mounted
from farthing_cloud.refusals import Refused, refusals
from farthing_cloud.settlement import closing
from farthing_cloud.settlement.plan import CashMissing, Payee, PayoutPlan, plan
from farthing_cloud.settlement.rules import (
    NewRule,
    Part,
    RuleDraft,
    RuleRefused,
    RulesMissing,
    SplitRule,
    SplitRuleError,
    Unchanged,
    choose,
    put,
)
from farthing_cloud.settlement.store import Agency, Closing, SettlementStore

#: A peer answers within this, or the call is made again by who asked us.
PEER_TIMEOUT_S = 10.0
#: Closing waits for the postings under way on (operator, currency).
CLOSE_TIMEOUT_S = 30.0
#: Postings may move a balance between two answers of the ledger: read again until both are of one state.
READ_ATTEMPTS = 5
READ_PAUSE_S = 0.05
MAX_NAME_SIZE = 200

#: Answers by which the ledger says that it looked, and that nothing was done. All others leave it open.
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Books:
    """What the ledger says of one operator, of one state."""

    balances_micros: Mapping[str, int]
    bank_micros: int
    payers_own_micros: int


class SettlementServicer(settlement_pb2_grpc.SettlementServicer):
    """Answers the back office."""

    def __init__(
        self,
        *,
        pool: Pool,
        ledger: grpc.aio.Channel,
        registry: grpc.aio.Channel,
        clock: BusinessClock,
        settings: SettlementSection,
    ) -> None:
        self._pool = pool
        self._ledger = ledger_pb2_grpc.LedgerStub(ledger)
        self._registry = registry_pb2_grpc.RegistryStub(registry)
        self._clock = clock
        self._settings = settings

    async def PutAgency(  # noqa: N802 - the name of the RPC
        self, request: settlement_pb2.PutAgencyRequest, context: Any
    ) -> registry_pb2.PutResponse:
        """Name an agency, or rename it."""
        async with refusals(context):
            return await self._put_agency(request)

    async def PutSplitRule(  # noqa: N802 - the name of the RPC
        self, request: settlement_pb2.PutSplitRuleRequest, context: Any
    ) -> registry_pb2.PutResponse:
        """Add a version of a site's rule; the same version again changes nothing."""
        async with refusals(context):
            return await self._put_rule(request)

    async def ListAgencies(  # noqa: N802 - the name of the RPC
        self,
        request: settlement_pb2.ListAgenciesRequest,
        context: Any,  # noqa: ARG002 - the RPC's signature
    ) -> settlement_pb2.ListAgenciesResponse:
        """The agencies of an operator (empty: of all)."""
        async with self._pool.connection() as connection:
            agencies = await SettlementStore(connection).agencies(request.operator_id)
        return settlement_pb2.ListAgenciesResponse(
            agencies=[
                settlement_pb2.Agency(agency_id=each.agency_id, operator_id=each.operator_id, name=each.name)
                for each in agencies
            ]
        )

    async def ListSplitRules(  # noqa: N802 - the name of the RPC
        self,
        request: settlement_pb2.ListSplitRulesRequest,
        context: Any,  # noqa: ARG002 - the RPC's signature
    ) -> settlement_pb2.ListSplitRulesResponse:
        """All versions of the rules of an operator (empty: of all)."""
        async with self._pool.connection() as connection:
            rules = await SettlementStore(connection).rules(request.operator_id)
        return settlement_pb2.ListSplitRulesResponse(rules=[_rule_message(rule) for rule in rules])

    async def Close(  # noqa: N802 - the name of the RPC
        self, request: settlement_pb2.CloseRequest, context: Any
    ) -> settlement_pb2.CloseResponse:
        """Close a window by the rules in force now; a closed one gives its first answer again."""
        async with refusals(context):
            return await self._close(request.operator_id, request.window)

    async def Plan(  # noqa: N802 - the name of the RPC
        self, request: settlement_pb2.PlanRequest, context: Any
    ) -> settlement_pb2.PlanResponse:
        """Plan the payouts of a closed window (empty: the last one); the same window gives the same plan."""
        async with refusals(context):
            return settlement_pb2.PlanResponse(
                plan=_plan_message(await self._plan(request.operator_id, request.window))
            )

    async def ShowPlan(  # noqa: N802 - the name of the RPC
        self, request: settlement_pb2.ShowPlanRequest, context: Any
    ) -> settlement_pb2.ShowPlanResponse:
        """A plan by its id."""
        async with self._pool.connection() as connection:
            found = await SettlementStore(connection).plan(request.plan_id)
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no plan {request.plan_id!r:.80}")
            raise AssertionError("abort raises")
        return settlement_pb2.ShowPlanResponse(plan=_plan_message(found))

    # --- agencies and rules ---

    async def _put_agency(self, request: settlement_pb2.PutAgencyRequest) -> registry_pb2.PutResponse:
        agency = Agency(
            operator_id=_id("operator_id", request.agency.operator_id),
            agency_id=_id("agency_id", request.agency.agency_id),
            name=_name(request.agency.name),
        )
        if not request.dry_run:
            await self._currency(agency.operator_id)
        async with self._pool.connection() as connection, connection.transaction():
            store = SettlementStore(connection)
            await store.lock(agency.operator_id)
            before = await store.agency_name(agency.operator_id, agency.agency_id)
            if before == agency.name:
                return registry_pb2.PutResponse(change=registry_pb2.CHANGE_NONE)
            if not request.dry_run:
                await store.put_agency(agency)
        return registry_pb2.PutResponse(
            change=registry_pb2.CHANGE_CREATED if before is None else registry_pb2.CHANGE_UPDATED,
            differences=[f"name: {before or 'none'} -> {agency.name}"],
        )

    async def _put_rule(self, request: settlement_pb2.PutSplitRuleRequest) -> registry_pb2.PutResponse:
        wanted = request.rule
        draft = RuleDraft(
            operator_id=_id("operator_id", wanted.operator_id),
            site_id=SiteId(_id("site_id", wanted.site_id)),
            version=wanted.version,
            parts=tuple(Part(path=part.path, share_ppm=part.share_ppm) for part in wanted.parts),
            remainder_path=wanted.remainder_path,
            # 0 on the wire: not said.
            effective_from_us=Instant(wanted.effective_from_us) if wanted.effective_from_us else None,
        )
        if not request.dry_run:
            await self._check_site(draft.operator_id, draft.site_id)
        async with self._pool.connection() as connection, connection.transaction():
            store = SettlementStore(connection)
            await store.lock(draft.operator_id)
            try:
                decision = put(await store.rules(draft.operator_id, draft.site_id), draft, now=self._clock.now())
            except SplitRuleError as err:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"site {draft.site_id}: {err}") from err
            match decision:
                case Unchanged():
                    return registry_pb2.PutResponse(change=registry_pb2.CHANGE_NONE)
                case RuleRefused(reason=reason):
                    raise Refused(grpc.StatusCode.FAILED_PRECONDITION, reason)
                case NewRule(rule=rule, differences=differences):
                    unknown = await self._unknown_agencies(store, rule)
                    if unknown and not request.dry_run:
                        raise Refused(
                            grpc.StatusCode.FAILED_PRECONDITION,
                            f"site {rule.site_id}: no agency {', '.join(unknown)}: put it first with 'farthing-admin "
                            "agencies put' or in the file of 'farthing-admin apply'",
                        )
                    if not request.dry_run:
                        await store.put_rule(rule)
        notes = [f"agency {agency_id}: must be put first" for agency_id in unknown]
        return registry_pb2.PutResponse(
            change=registry_pb2.CHANGE_CREATED if rule.version == 1 else registry_pb2.CHANGE_UPDATED,
            differences=[*differences, *notes],
        )

    async def _unknown_agencies(self, store: SettlementStore, rule: SplitRule) -> list[str]:
        return [
            agency_id for agency_id in rule.agency_ids if await store.agency_name(rule.operator_id, agency_id) is None
        ]

    async def _currency(self, operator_id: str) -> str:
        """The operator's currency, from the registry."""
        answer = await self._registry.ListOperators(registry_pb2.ListOperatorsRequest(), timeout=PEER_TIMEOUT_S)
        for operator in answer.operators:
            if operator.operator_id == operator_id:
                return operator.currency
        raise Refused(
            grpc.StatusCode.NOT_FOUND, f"no operator {operator_id}: 'farthing-admin operators list' names them"
        )

    async def _check_site(self, operator_id: str, site_id: str) -> None:
        answer = await self._registry.ListSites(
            registry_pb2.ListSitesRequest(operator_id=operator_id), timeout=PEER_TIMEOUT_S
        )
        if site_id not in {site.site_id for site in answer.sites if site.operator_id == operator_id}:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                f"operator {operator_id} has no site {site_id}: 'farthing-admin sites list' names them",
            )

    # --- windows ---

    async def _close(self, operator_id: str, window: str) -> settlement_pb2.CloseResponse:
        _id("operator_id", operator_id)
        asked = await self._question(operator_id, window)
        if isinstance(asked, Closing):
            assert asked.response is not None
            return _close_message(asked.window, asked.response)
        try:
            answered = await self._ledger.CloseWindow(asked, timeout=CLOSE_TIMEOUT_S)
        except grpc.aio.AioRpcError as err:
            if err.code() in _REFUSALS:
                async with self._pool.connection() as connection:
                    await SettlementStore(connection).withdraw_closing(asked)
            raise Refused(err.code(), f"window {asked.window}: the ledger: {err.details()}") from err
        wrong = closing.disagreement(asked, answered)
        if wrong:
            _log.error("split_disagrees", operator=operator_id, window=asked.window, why=wrong)
        async with self._pool.connection() as connection:
            await SettlementStore(connection).answer_closing(asked, answered, disagreement=wrong, at=self._clock.now())
        return _close_message(asked.window, answered)

    async def _question(self, operator_id: str, window: str) -> ledger_pb2.CloseWindowRequest | Closing:
        """What to ask the ledger, durable; or the closing, where it has answered already."""
        async with self._pool.connection() as connection:
            store = SettlementStore(connection)
            # Not knowing whether the last one was closed, "the open one" would be the next.
            window = window or await store.unanswered_window(operator_id) or ""
            known = await store.closing(operator_id, window) if window else None
        if known is not None:
            return known.request if known.response is None else known
        currency = await self._currency(operator_id)
        if not window:
            window = (await self._reconcile(operator_id)).window
        balances = await self._ledger.ListBalances(
            ledger_pb2.ListBalancesRequest(operator_id=operator_id, path_prefix="clearing/"), timeout=PEER_TIMEOUT_S
        )
        standing = closing.clearing_micros(
            (balance for balance in balances.balances if balance.currency == currency), window
        )
        now = self._clock.now()
        async with self._pool.connection() as connection, connection.transaction():
            store = SettlementStore(connection)
            await store.lock(operator_id)
            chosen = choose(await store.rules(operator_id), standing, at=now)
            if isinstance(chosen, RulesMissing):
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, chosen.reason)
            return await store.ask_closing(
                closing.request(operator_id=operator_id, currency=currency, window=window, rules=chosen), at=now
            )

    async def _reconcile(self, operator_id: str) -> ledger_pb2.ReconcileResponse:
        return await self._ledger.Reconcile(
            ledger_pb2.ReconcileRequest(operator_id=operator_id), timeout=PEER_TIMEOUT_S
        )

    # --- plans ---

    async def _plan(self, operator_id: str, window: str) -> PayoutPlan:
        _id("operator_id", operator_id)
        async with self._pool.connection() as connection:
            store = SettlementStore(connection)
            window = window or await store.last_closed_window(operator_id) or ""
            made = await store.plan_of(operator_id, window)
            if made is not None:
                return made
            closed = await store.closing(operator_id, window)
        if closed is None or closed.response is None:
            named = f"window {window}" if window else "any window"
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"operator {operator_id} has not closed {named}: 'farthing-admin settlement close' first",
            )
        if closed.disagreement:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"window {window} was not split by its rules, nobody is paid before a person has looked: "
                f"{closed.disagreement}",
            )
        try:
            currency = parse_currency(closed.currency)
        except MoneyError as err:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, str(err)) from err
        books = await self._books(operator_id, currency)
        async with self._pool.connection() as connection, connection.transaction():
            store = SettlementStore(connection)
            await store.lock(operator_id)
            made = await store.plan_of(operator_id, window)
            if made is not None:
                return made
            promised_micros = await store.promised_micros(operator_id)
            try:
                decision = plan(
                    operator_id=operator_id,
                    window=window,
                    currency=currency,
                    payees=[
                        Payee(
                            path=path,
                            balance_micros=books.balances_micros.get(path, 0),
                            promised_micros=promised_micros.get(path, 0),
                        )
                        for path in books.balances_micros.keys() | promised_micros.keys()
                    ],
                    bank_micros=books.bank_micros,
                    payers_own_micros=books.payers_own_micros,
                    minimum_payout_micros=self._settings.minimum_payout_micros,
                )
            except MoneyError as err:
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, str(err)) from err
            if isinstance(decision, CashMissing):
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, decision.reason)
            await store.put_plan(decision, at=self._clock.now())
        return decision

    async def _books(self, operator_id: str, currency: str) -> _Books:
        """Payees' balances and cash of one state of the ledger: both answers agree on what payees are owed."""
        for _ in range(READ_ATTEMPTS):
            balances_micros = {
                balance.path: int(balance.credits_posted) - int(balance.debits_posted)
                for prefix in ("agency/", "fee/")
                for balance in (
                    await self._ledger.ListBalances(
                        ledger_pb2.ListBalancesRequest(operator_id=operator_id, path_prefix=prefix),
                        timeout=PEER_TIMEOUT_S,
                    )
                ).balances
                if balance.currency == currency
            }
            totals = await self._reconcile(operator_id)
            if totals.restoring:
                # What was paid since the backup may not stand in these figures.
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, totals.restoring)
            if sum(balances_micros.values()) == totals.agencies_micros + totals.fees_micros:
                return _Books(
                    balances_micros=balances_micros,
                    bank_micros=totals.bank_micros,
                    payers_own_micros=totals.payers_own_micros,
                )
            await asyncio.sleep(READ_PAUSE_S)
        raise Refused(
            grpc.StatusCode.UNAVAILABLE,
            f"what operator {operator_id} owes moves while it is read, or the ledger's sums differ from its balances: "
            "plan again, and if this stays, run 'farthing-admin ledger verify'",
        )


def _id(field: str, value: str) -> str:
    try:
        return parse_id(value)
    except IdError as err:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {err}") from err


def _name(value: str) -> str:
    if not 1 <= len(value) <= MAX_NAME_SIZE or not value.isprintable():
        raise Refused(
            grpc.StatusCode.INVALID_ARGUMENT, f"an agency's name has 1 to {MAX_NAME_SIZE} printable characters"
        )
    return value


def _rule_message(rule: SplitRule) -> settlement_pb2.SplitRule:
    return settlement_pb2.SplitRule(
        operator_id=rule.operator_id,
        site_id=rule.site_id,
        version=rule.version,
        parts=[ledger_pb2.SplitPart(path=part.path, share_ppm=part.share_ppm) for part in rule.parts],
        remainder_path=rule.remainder_path,
        effective_from_us=rule.effective_from_us,
    )


def _close_message(window: str, answered: ledger_pb2.CloseWindowResponse) -> settlement_pb2.CloseResponse:
    return settlement_pb2.CloseResponse(closed_window=window, next_window=answered.next_window, sites=answered.sites)


def _plan_message(made: PayoutPlan) -> settlement_pb2.PayoutPlan:
    return settlement_pb2.PayoutPlan(
        plan_id=made.plan_id,
        operator_id=made.operator_id,
        window=made.window,
        currency=made.currency,
        payouts=[
            settlement_pb2.Payout(
                path=payout.path,
                owed_micros=payout.owed_micros,
                planned_micros=payout.planned_micros,
                stays_micros=payout.stays_micros,
            )
            for payout in made.payouts
        ],
        total_micros=made.total_micros,
        cleared_cash_micros=made.cleared_cash_micros,
        content_hash=made.content_hash,
    )


class SettlementService:
    """The servicer; nothing runs in the background."""

    def __init__(self, *, servicer: SettlementServicer) -> None:
        self._servicer = servicer

    @property
    def servicers(self) -> Sequence[Mounted]:
        """``Settlement``, for the back office."""
        return ((settlement_pb2_grpc.add_SettlementServicer_to_server, self._servicer, "back-office"),)

    async def run(self) -> None:
        """Returns at once: people close and plan."""


def build(
    *,
    pool: Pool,
    token: Token | None,  # noqa: ARG001 - settlement signs nothing yet: people approve plans by their hash
    channel: BackOfficeChannel,
    clock: BusinessClock,
    settings: SettlementSection,
) -> SettlementService:
    """Wire the service; opens and starts nothing."""
    return SettlementService(
        servicer=SettlementServicer(
            pool=pool,
            ledger=channel.to("ledger"),
            registry=channel.to("registry"),
            clock=clock,
            settings=settings,
        )
    )
