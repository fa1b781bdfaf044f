"""Directives that a service wants on gateways' chains, kept until the ledger has put them there.

Rule 1: a wish is written in the transaction of the change that causes it, so neither is ever without the other.
Rule 2: a gateway's wishes go to the ledger in their order, under a lock, each with a key of its own and its content: a crash
between two steps is healed by doing the rest again.
Rule 3: a wish that the ledger refuses is parked with the reason; it stops neither the gateway's other wishes nor the service,
and is tried again with the next call about that gateway.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
import grpc.aio
import psycopg
import structlog

from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.database import Pool, sentence

#: Wishes sent under one lock and transaction: some tenths of a second of calls.
WISHES_AT_ONCE = 200
#: How often what is left over is looked for; what a call causes is sent at once.
LOOK_INTERVAL_S = 2.0
CALL_TIMEOUT_S = 10.0
#: The world is broken, not the wish: it is kept and sent again.
_LATER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)

_ADD = sentence("farthing_cloud", "add_wish")
_LOCK = sentence("farthing_cloud", "lock_wishes")
_NEXT = sentence("farthing_cloud", "next_wishes")
_DONE = sentence("farthing_cloud", "end_wish")
_PARK = sentence("farthing_cloud", "park_wish")
_FORGET_PARKED = sentence("farthing_cloud", "forget_parked_wishes")
_UNPARK = sentence("farthing_cloud", "unpark_wishes")
_OPEN = sentence("farthing_cloud", "list_wishing_gateways")

_log = structlog.stdlib.get_logger(__name__)


class WishRefused(Exception):
    """The ledger refused a directive; it is parked. The message is the ledger's."""


def waits(err: grpc.aio.AioRpcError) -> bool:
    """Whether a failed call is worth repeating as it is."""
    return err.code() in _LATER


async def add_wish(
    connection: psycopg.AsyncConnection[Any],
    gateway_ids: Iterable[str],
    subject: str,
    request: ledger_pb2.IssueDirectiveRequest,
) -> None:
    """Want the body of ``request`` on the chain of each of ``gateway_ids``; in the caller's transaction.

    ``subject`` says what it is about ("device/chg-1"): a parked wish about the same must not come later than this one.
    """
    for gateway_id in gateway_ids:
        wanted = ledger_pb2.IssueDirectiveRequest()
        wanted.CopyFrom(request)
        wanted.gateway_id = gateway_id
        await connection.execute(_FORGET_PARKED, {"gateway_id": gateway_id, "subject": subject})
        await connection.execute(
            _ADD,
            {
                "gateway_id": gateway_id,
                "subject": subject,
                "request": wanted.SerializeToString(deterministic=True),
            },
        )


class Wishes:
    """The wishes in one service's schema."""

    def __init__(self, *, pool: Pool, ledger: grpc.aio.Channel, service: str) -> None:
        self._pool = pool
        self._ledger = ledger_pb2_grpc.LedgerStub(ledger)
        self._service = service

    async def fulfil(self, gateway_id: str, *, parked_too: bool = False) -> None:
        """Send everything wanted for ``gateway_id``; ``parked_too``: what was refused before is tried again.

        Raises ``grpc.aio.AioRpcError`` where the ledger cannot be reached (the rest is kept), ``WishRefused`` after all were
        sent if it refused one.
        """
        refused: WishRefused | None = None
        while True:
            async with self._pool.connection() as connection:
                # The transaction ends with the block: wishes sent and not yet deleted are sent again with the same key.
                await connection.execute(_LOCK, {"gateway_id": gateway_id})
                if parked_too:
                    await connection.execute(_UNPARK, {"gateway_id": gateway_id})
                    parked_too = False
                rows = await (
                    await connection.execute(_NEXT, {"gateway_id": gateway_id, "limit": WISHES_AT_ONCE})
                ).fetchall()
                for sequence, body in rows:
                    fault = await self._send(sequence, bytes(body))
                    if fault is None:
                        await connection.execute(_DONE, {"sequence": sequence})
                    else:
                        refused = WishRefused(fault)
                        await connection.execute(_PARK, {"sequence": sequence, "reason": fault})
            if len(rows) < WISHES_AT_ONCE:
                break
        if refused is not None:
            raise refused

    async def _send(self, sequence: int, body: bytes) -> str | None:
        request = ledger_pb2.IssueDirectiveRequest.FromString(body)
        request.idempotency_key = f"{self._service}/{sequence}/{hashlib.sha256(body).hexdigest()[:16]}"
        try:
            await self._ledger.IssueDirective(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as err:
            if waits(err):
                raise
            fault = f"{err.code().name}: {err.details()}"
            _log.error("the ledger refused a directive", gateway=request.gateway_id, sequence=sequence, reason=fault)
            return fault
        return None

    async def wishing(self) -> list[str]:
        """Gateways with wishes that are neither sent nor parked."""
        async with self._pool.connection() as connection:
            return [row[0] for row in await (await connection.execute(_OPEN)).fetchall()]


async def keep_sending(due: Callable[[], Awaitable[Iterable[str]]], send: Callable[[str], Awaitable[None]]) -> None:
    """Send what was left over to the gateways that ``due`` names, until cancelled; a broken world is waited for."""
    while True:
        try:
            for gateway_id in await due():
                try:
                    await send(gateway_id)
                except WishRefused as err:
                    _log.warning("a directive stays parked", gateway=gateway_id, reason=str(err))
        except (grpc.aio.AioRpcError, psycopg.OperationalError, psycopg.InterfaceError) as err:
            _log.info("directives wait", cause=err.details() if isinstance(err, grpc.aio.AioRpcError) else str(err))
        await asyncio.sleep(LOOK_INTERVAL_S)
