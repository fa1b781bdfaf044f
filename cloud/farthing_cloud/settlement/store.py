"""What settlement keeps. Each method is one sentence, in the caller's transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from farthing.clock import Instant
from farthing.ids import SiteId
from farthing.v1 import ledger_pb2
from farthing_cloud.database import sentence
from farthing_cloud.settlement.plan import PayoutPlan, parse_canonical
from farthing_cloud.settlement.rules import Part, SplitRule

_ANSWER_CLOSING = sentence(__package__, "answer_closing")
_ASK_CLOSING = sentence(__package__, "ask_closing")
_FIND_AGENCY = sentence(__package__, "find_agency")
_FIND_CLOSING = sentence(__package__, "find_closing")
_FIND_PLAN = sentence(__package__, "find_plan")
_FIND_UNANSWERED = sentence(__package__, "find_unanswered")
_LAST_CLOSED = sentence(__package__, "last_closed")
_LIST_AGENCIES = sentence(__package__, "list_agencies")
_LIST_RULES = sentence(__package__, "list_rules")
_LOCK_OPERATOR = sentence(__package__, "lock_operator")
_PROMISED = sentence(__package__, "promised")
_PUT_AGENCY = sentence(__package__, "put_agency")
_PUT_PLAN = sentence(__package__, "put_plan")
_PUT_RULE = sentence(__package__, "put_rule")
_SHOW_PLAN = sentence(__package__, "show_plan")
_WITHDRAW_CLOSING = sentence(__package__, "withdraw_closing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agency:
    """Who gets a share of revenue."""

    operator_id: str
    agency_id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """A window that the ledger was asked to close; ``response`` is None until it has answered."""

    operator_id: str
    window: str
    currency: str
    request: ledger_pb2.CloseWindowRequest
    response: ledger_pb2.CloseWindowResponse | None
    #: Why a person has to look before anybody is paid; empty in all ordinary days.
    disagreement: str


class SettlementStore:
    """The schema ``settlement`` through one connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def lock(self, operator_id: str) -> None:
        """Be the only one to change this operator's rules and plans until the transaction ends."""
        await self._connection.execute(_LOCK_OPERATOR, {"operator_id": operator_id})

    async def agency_name(self, operator_id: str, agency_id: str) -> str | None:
        """The name of an agency, None where there is none."""
        row = await self._one(_FIND_AGENCY, operator_id=operator_id, agency_id=agency_id)
        return None if row is None else str(row["name"])

    async def put_agency(self, agency: Agency) -> None:
        """Write an agency under its id."""
        await self._connection.execute(
            _PUT_AGENCY, {"operator_id": agency.operator_id, "agency_id": agency.agency_id, "name": agency.name}
        )

    async def agencies(self, operator_id: str) -> list[Agency]:
        """The agencies of an operator (empty: of all)."""
        return [Agency(**row) for row in await self._all(_LIST_AGENCIES, operator_id=operator_id)]

    async def rules(self, operator_id: str, site_id: str = "") -> list[SplitRule]:
        """All versions, by operator, site and version; empty ids mean all."""
        return [
            SplitRule(
                operator_id=row["operator_id"],
                site_id=SiteId(row["site_id"]),
                version=row["version"],
                parts=tuple(
                    Part(path=path, share_ppm=share_ppm)
                    for path, share_ppm in zip(row["paths"], row["shares_ppm"], strict=True)
                ),
                remainder_path=row["remainder_path"],
                effective_from_us=Instant(row["effective_from_us"]),
            )
            for row in await self._all(_LIST_RULES, operator_id=operator_id, site_id=site_id)
        ]

    async def put_rule(self, rule: SplitRule) -> None:
        """Write a new version."""
        await self._connection.execute(
            _PUT_RULE,
            {
                "operator_id": rule.operator_id,
                "site_id": rule.site_id,
                "version": rule.version,
                "remainder_path": rule.remainder_path,
                "effective_from_us": rule.effective_from_us,
                "paths": [part.path for part in rule.parts],
                "shares_ppm": [part.share_ppm for part in rule.parts],
            },
        )

    async def closing(self, operator_id: str, window: str) -> Closing | None:
        """What is known of the closing of a window."""
        row = await self._one(_FIND_CLOSING, operator_id=operator_id, window=window)
        if row is None:
            return None
        response = row["response"]
        return Closing(
            operator_id=row["operator_id"],
            window=row["window_name"],
            currency=row["currency"],
            request=ledger_pb2.CloseWindowRequest.FromString(row["request"]),
            response=None if response is None else ledger_pb2.CloseWindowResponse.FromString(response),
            disagreement=row["disagreement"],
        )

    async def unanswered_window(self, operator_id: str) -> str | None:
        """A window that the ledger was asked to close and whose answer never came."""
        row = await self._one(_FIND_UNANSWERED, operator_id=operator_id)
        return None if row is None else str(row["window_name"])

    async def last_closed_window(self, operator_id: str) -> str | None:
        """The window closed last."""
        row = await self._one(_LAST_CLOSED, operator_id=operator_id)
        return None if row is None else str(row["window_name"])

    async def ask_closing(self, asked: ledger_pb2.CloseWindowRequest, *, at: Instant) -> ledger_pb2.CloseWindowRequest:
        """Keep what the ledger will be asked; what was kept before, if anything was, is asked instead."""
        row = await self._one(
            _ASK_CLOSING,
            operator_id=asked.operator_id,
            window=asked.window,
            currency=asked.currency,
            request=asked.SerializeToString(deterministic=True),
            at_us=at,
        )
        assert row is not None
        return ledger_pb2.CloseWindowRequest.FromString(row["request"])

    async def answer_closing(
        self,
        asked: ledger_pb2.CloseWindowRequest,
        answered: ledger_pb2.CloseWindowResponse,
        *,
        disagreement: str,
        at: Instant,
    ) -> None:
        """Keep the ledger's answer; the first one counts."""
        await self._connection.execute(
            _ANSWER_CLOSING,
            {
                "operator_id": asked.operator_id,
                "window": asked.window,
                "response": answered.SerializeToString(deterministic=True),
                "disagreement": disagreement,
                "at_us": at,
            },
        )

    async def withdraw_closing(self, asked: ledger_pb2.CloseWindowRequest) -> None:
        """Forget a question that the ledger refused."""
        await self._connection.execute(_WITHDRAW_CLOSING, {"operator_id": asked.operator_id, "window": asked.window})

    async def plan_of(self, operator_id: str, window: str) -> PayoutPlan | None:
        """The plan made for a window."""
        row = await self._one(_FIND_PLAN, operator_id=operator_id, window=window)
        return None if row is None else parse_canonical(row["canonical"])

    async def plan(self, plan_id: str) -> PayoutPlan | None:
        """A plan by its id."""
        row = await self._one(_SHOW_PLAN, plan_id=plan_id)
        return None if row is None else parse_canonical(row["canonical"])

    async def promised_micros(self, operator_id: str) -> Mapping[str, int]:
        """What plans promise to each payee."""
        return {row["path"]: int(row["planned_micros"]) for row in await self._all(_PROMISED, operator_id=operator_id)}

    async def put_plan(self, plan: PayoutPlan, *, at: Instant) -> None:
        """Write a new plan."""
        await self._connection.execute(
            _PUT_PLAN,
            {
                "plan_id": plan.plan_id,
                "operator_id": plan.operator_id,
                "window": plan.window,
                "canonical": plan.canonical,
                "content_hash": plan.content_hash,
                "at_us": at,
                "paths": [payout.path for payout in plan.payouts],
                "planned_micros": [payout.planned_micros for payout in plan.payouts],
            },
        )

    async def _one(self, statement: bytes, **values: object) -> dict[str, Any] | None:
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, values)
            return await cursor.fetchone()

    async def _all(self, statement: bytes, **values: object) -> list[dict[str, Any]]:
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, values)
            return await cursor.fetchall()
