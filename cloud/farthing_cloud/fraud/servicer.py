"""Fraud as a service: follows the ledger's outbox, acts through the registry, answers who asks for cases.

Rule 1: it can only reduce what is allowed: the one thing it does is to block a device.
Rule 2: an action is due, durably, until its peer has said that it is done; there is no attempt limit.
Rule 3: nobody waits for this service; when it was away it goes on from its cursor.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from psycopg.rows import dict_row

from farthing.clock import BusinessClock
from farthing.hsm import Token
from farthing.money import format_micros
from farthing.v1 import fraud_pb2, fraud_pb2_grpc
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import FraudSection
from farthing_cloud.database import Pool, sentence
from farthing_cloud.events.consumer import Consumer, ConsumerLimits
from farthing_cloud.fraud.blocking import Blocker
from farthing_cloud.fraud.watch import KINDS, PROOFS_PER_CASE, CloneWatch
from farthing_cloud.offering import Mounted

#: Cases in one answer, newest first: more than anybody reads in a list.
LISTED_CASES = 1_000

_LIST_CASES = sentence(__package__, "list_cases")
_SHOW_ACTIONS = sentence(__package__, "show_actions")
_SHOW_PROOF = sentence(__package__, "show_proof")


class FraudServicer(fraud_pb2_grpc.FraudServicer):
    """Answers from the cases."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def ListCases(  # noqa: N802 - the name of the RPC
        self,
        request: fraud_pb2.ListCasesRequest,
        context: Any,  # noqa: ARG002 - the RPC's signature
    ) -> fraud_pb2.ListCasesResponse:
        """The cases of an operator (empty: of all), newest first."""
        rows = await self._cases(operator_id=request.operator_id, case_id=None)
        return fraud_pb2.ListCasesResponse(cases=[_case(row) for row in rows])

    async def ShowCase(  # noqa: N802 - the name of the RPC
        self, request: fraud_pb2.ShowCaseRequest, context: Any
    ) -> fraud_pb2.ShowCaseResponse:
        """One case with its first proof and what was done about it."""
        rows = await self._cases(operator_id="", case_id=request.case_id)
        if not rows:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no case {request.case_id}: 'farthing-admin fraud cases list' names them"
            )
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_SHOW_PROOF, {"case_id": request.case_id})
            (proof,) = await cursor.fetchall()
            await cursor.execute(_SHOW_ACTIONS, {"case_id": request.case_id})
            actions = await cursor.fetchall()
        return fraud_pb2.ShowCaseResponse(
            case=_case(rows[0]),
            proof=fraud_pb2.FraudProof(
                statements=[proof["first_cose"], proof["second_cose"]],
                gateway_ids=[proof["first_gateway_id"], proof["second_gateway_id"]],
                device_epoch=proof["device_epoch"],
                counter=proof["counter"],
            ),
            actions=[_action(row) for row in actions],
        )

    async def _cases(self, *, operator_id: str, case_id: int | None) -> list[dict[str, Any]]:
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_LIST_CASES, {"operator_id": operator_id, "case_id": case_id, "limit": LISTED_CASES})
            return await cursor.fetchall()


def _case(row: dict[str, Any]) -> fraud_pb2.FraudCase:
    return fraud_pb2.FraudCase(
        case_id=row["case_id"],
        operator_id=row["operator_id"],
        kind=row["kind"],
        device_id=row["device_id"],
        status=row["status"],
        opened_at_us=row["opened_at_us"],
        summary=summary(row),
    )


def summary(row: dict[str, Any]) -> str:
    """One sentence on a row of ``list_cases.sql``."""
    gateways = sorted({row["first_gateway_id"], row["second_gateway_id"]})
    proofs: int = row["proofs"]
    count = f"{proofs} or more" if proofs >= PROOFS_PER_CASE else str(proofs)
    said = (
        f"{row['device_id']} signed counter {row['counter']} of epoch {row['device_epoch']} twice with other content, "
        f"for {' and '.join(gateways)}; {count} proof{'' if proofs == 1 else 's'}"
    )
    if row["ledger_case_ids"]:
        ids = ", ".join(str(case_id) for case_id in row["ledger_case_ids"])
        said += f"; ledger cases {ids} set {format_micros(row['aside_micros'])} aside"
    return said


def _action(row: dict[str, Any]) -> str:
    said = f"{row['kind']}: {row['state']}"
    if row["outcome"]:
        said += f", {row['outcome']}"
    if row["state"] == "due" and row["attempts"]:
        said += f", tried {row['attempts']} times"
    if row["last_error"]:
        said += f", last: {row['last_error']}"
    return said


class FraudService:
    """The servicer, the consumer and the blocker, wired."""

    def __init__(self, *, servicer: FraudServicer, consumer: Consumer, blocker: Blocker) -> None:
        self._servicer = servicer
        self.consumer = consumer
        self._blocker = blocker

    @property
    def servicers(self) -> Sequence[Mounted]:
        """``Fraud``, for the back office."""
        return ((fraud_pb2_grpc.add_FraudServicer_to_server, self._servicer, "back-office"),)

    async def run(self) -> None:
        """Follow the outbox and act, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.consumer.run(), name="fraud-events")
            group.create_task(self._blocker.run(), name="fraud-actions")


def build(
    *,
    pool: Pool,
    token: Token | None,  # noqa: ARG001 - fraud signs nothing: its words are the registry's directives
    channel: BackOfficeChannel,
    clock: BusinessClock,
    settings: FraudSection,
    limits: ConsumerLimits | None = None,
) -> FraudService:
    """Wire the service; opens and starts nothing."""
    blocker = Blocker(pool=pool, registry=channel.to("registry"), clock=clock)
    watch = CloneWatch(
        registry=channel.to("registry"),
        remembered_statements=settings.remembered_statements,
        now=clock.now,
        acted=blocker.wake,
    )
    consumer = Consumer(name="fraud", kinds=KINDS, pool=pool, ledger=channel.to("ledger"), handler=watch, limits=limits)
    return FraudService(servicer=FraudServicer(pool=pool), consumer=consumer, blocker=blocker)
