"""Carry out what cases ask for: make a device's status stricter, never more lenient.

An action is due, durably, until its peer has said that it is done; there is no attempt limit.
"""

import asyncio
from typing import Any

import grpc.aio
import psycopg
import structlog
from psycopg.rows import dict_row

from farthing.clock import BusinessClock
from farthing.v1 import directive_pb2, registry_pb2, registry_pb2_grpc
from farthing_cloud.database import Pool, sentence
from farthing_cloud.fraud.watch import REGISTRY_TIMEOUT_S

#: Actions tried in one pass; those with fewer attempts first, so that one that fails does not starve the others.
ACTIONS_AT_ONCE = 100
#: First pause after a failed action, doubled up to the cap.
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
MAX_REASON_SIZE = 500

#: How little each status allows.
_STRICTNESS: dict[int, int] = {
    directive_pb2.DEVICE_STATUS_UNSPECIFIED: 0,
    directive_pb2.DEVICE_STATUS_ACTIVE: 0,
    directive_pb2.DEVICE_STATUS_SUSPENDED: 1,
    directive_pb2.DEVICE_STATUS_BLOCKED: 2,
    directive_pb2.DEVICE_STATUS_DECOMMISSIONED: 3,
}

_ACTION_DONE = sentence(__package__, "action_done")
_ACTION_FAILED = sentence(__package__, "action_failed")
_DUE_ACTIONS = sentence(__package__, "due_actions")

_log = structlog.stdlib.get_logger(__name__)


def loosens(current: int, wanted: int) -> bool:
    """By values of ``DeviceStatus``: whether ``wanted`` would allow what ``current`` forbids.

    A status we do not know counts as the strictest.
    """
    return _STRICTNESS[wanted] < _STRICTNESS.get(current, max(_STRICTNESS.values()) + 1)


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
