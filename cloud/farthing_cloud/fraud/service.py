"""Fraud as a service: follows the ledger's outbox, acts through the registry, answers who asks for cases.

Rule 1: it can only reduce what is allowed: the one thing it does is to block a device.
Rule 2: an action is due, durably, until its peer has said that it is done; there is no attempt limit.
Rule 3: nobody waits for this service; when it was away it goes on from its cursor.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import psycopg
import structlog
from psycopg.rows import dict_row

from farthing.clock import BusinessClock
from farthing.hsm import Token
from farthing.money import format_micros
from farthing.v1 import directive_pb2, fraud_pb2, fraud_pb2_grpc, registry_pb2, registry_pb2_grpc
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import FraudSection
from farthing_cloud.database import Pool, sentence
from farthing_cloud.events.consumer import Consumer, ConsumerLimits
from farthing_cloud.fraud.actions import loosens
from farthing_cloud.fraud.watch import KINDS, PROOFS_PER_CASE, REGISTRY_TIMEOUT_S, CloneWatch
from farthing_cloud.offering import Mounted

#: Actions tried in one pass; those with fewer attempts first, so that one that fails does not starve the others.
ACTIONS_AT_ONCE = 100
#: First pause after a failed action, doubled up to the cap.
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
#: Cases in one answer, newest first: more than anybody reads in a list.
LISTED_CASES = 1_000
MAX_REASON_SIZE = 500

_ACTION_DONE = sentence(__package__, "action_done")
_ACTION_FAILED = sentence(__package__, "action_failed")
_DUE_ACTIONS = sentence(__package__, "due_actions")
_LIST_CASES = sentence(__package__, "list_cases")
_SHOW_ACTIONS = sentence(__package__, "show_actions")
_SHOW_PROOF = sentence(__package__, "show_proof")

_log = structlog.stdlib.get_logger(__name__)


class Blocker:
    """Carries out what cases ask for, until it is done."""

    def __init__(
        self,
        *,
        pool: Pool,
        registry: grpc.aio.Channel,
        clock: BusinessClock,
        first_pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self._pool = pool
        self._registry = registry_pb2_grpc.RegistryStub(registry)
        self._clock = clock
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._woken = asyncio.Event()
        self._said = ""

    def wake(self) -> None:
        """Something may be due."""
        self._woken.set()

    async def run(self) -> None:
        """Do what is due, until cancelled; look again when woken, or after a pause where something failed."""
        pause_s = self._first_pause_s
        while True:
            self._woken.clear()
            try:
                failed = await self._pass()
            except (psycopg.OperationalError, psycopg.InterfaceError) as err:
                self._say(f"the database is away: {err}")
                failed = True
            except Exception:  # noqa: BLE001 - a fault here must not end the services beside us (P8)
                _log.exception("fraud_action_fault")
                failed = True
            try:
                async with asyncio.timeout(pause_s if failed else self._longest_pause_s):
                    await self._woken.wait()
            except TimeoutError:
                pass
            pause_s = min(pause_s * 2, self._longest_pause_s) if failed else self._first_pause_s

    async def _pass(self) -> bool:
        """Try everything that is due once; whether something failed."""
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_DUE_ACTIONS, {"limit": ACTIONS_AT_ONCE})
            due = await cursor.fetchall()
        failed = False
        for row in due:
            try:
                outcome = await self._block(row["operator_id"], row["device_id"], row["case_id"])
            except grpc.aio.AioRpcError as err:
                failed = True
                error = f"{err.code().name}: {err.details()}"[:MAX_REASON_SIZE]
                self._say(f"device {row['device_id']} cannot be blocked yet: {error}")
                await self._record(_ACTION_FAILED, case_id=row["case_id"], error=error)
            else:
                _log.warning("device_blocked", device=row["device_id"], case=row["case_id"], outcome=outcome)
                await self._record(_ACTION_DONE, case_id=row["case_id"], wish=row["wish"], outcome=outcome)
        return failed

    async def _block(self, operator_id: str, device_id: str, case_id: int) -> str:
        """Block a device at the registry, which tells all gateways concerned; what was done."""
        listed = await self._registry.ListDevices(
            registry_pb2.ListDevicesRequest(operator_id=operator_id), timeout=REGISTRY_TIMEOUT_S
        )
        for device in listed.devices:
            current = device.record.status
            if device.record.device_id == device_id and loosens(current, directive_pb2.DEVICE_STATUS_BLOCKED):
                return f"left as it is: {directive_pb2.DeviceStatus.Name(current)} allows less"
        answer = await self._registry.SetDeviceStatus(
            registry_pb2.SetDeviceStatusRequest(
                device_id=device_id,
                status=directive_pb2.DEVICE_STATUS_BLOCKED,
                reason=f"fraud case {case_id}: a clone was proven",
            ),
            timeout=REGISTRY_TIMEOUT_S,
        )
        return "blocked" if answer.change != registry_pb2.CHANGE_NONE else "was blocked already"

    async def _record(self, statement: bytes, **values: Any) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(statement, {**values, "at_us": self._clock.now()})

    def _say(self, what: str) -> None:
        """One line for one fault, however often it is met."""
        if what != self._said:
            self._said = what
            _log.warning("fraud_action_waits", why=what)


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
