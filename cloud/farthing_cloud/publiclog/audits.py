"""Random audits of gateways: drawn from each published checkpoint, judged by the ledger, and a case where one fails.

Rule 1: what is drawn follows from the checkpoint alone (:mod:`farthing.tlog.draw`): nobody chooses, and anybody can draw again.
Rule 2: a draw and the place up to which was drawn commit together: no checkpoint is drawn from twice, none is passed over.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import psycopg
import structlog
from prometheus_client import Counter

from farthing.clock import SECOND_US
from farthing.tlog.draw import drawn, seed
from farthing.tlog.note import parse_note
from farthing.v1 import ledger_pb2, ledger_pb2_grpc, publiclog_pb2
from farthing_cloud.database import Pool, sentence
from farthing_cloud.publiclog.store import Connection

#: Audits judged in one round; the next round takes the rest.
AUDITS_AT_ONCE: Final = 200
CALL_TIMEOUT_S: Final = 30.0
#: Whether detail has come is asked this often, real seconds.
EVERY_S: Final = 60.0
#: A rate: every batch.
ALL_PPM: Final = 1_000_000

_AUDITS = Counter("farthing_cloud_publiclog_audits", "Batches drawn for audit, by what came of it.", ("outcome",))
_log = structlog.stdlib.get_logger(__name__)


def _sql(name: str) -> bytes:
    return sentence("farthing_cloud.publiclog", name)


_KEEP_POSTED = _sql("keep_posted")
_LOCK_DRAWING = _sql("lock_drawing")
_ADVANCE_DRAWING = _sql("advance_drawing")
_NEXT_CHECKPOINT = _sql("next_checkpoint")
_LIST_POSTED = _sql("list_posted")
_LIST_WATCHED = _sql("list_watched")
_ADD_AUDIT = _sql("add_audit")
_WAITING_AUDITS = _sql("waiting_audits")
_END_AUDIT = _sql("end_audit")
_LIST_AUDITS = _sql("list_audits")

_OUTCOMES: Final = {
    ledger_pb2.AUDIT_OUTCOME_PASSED: "passed",
    ledger_pb2.AUDIT_OUTCOME_UNANSWERED: "unanswered",
    ledger_pb2.AUDIT_OUTCOME_FALSE: "false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """Whose batch an entry is; kept beside the log, and not published."""

    batch_hash: bytes
    operator_id: str
    gateway_id: str
    incarnation: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTerms:
    """How many of a million are drawn, by gateway, operator, or else; and how long one may wait, real seconds."""

    rate_ppm: int
    rate_ppm_of: Mapping[str, int]
    due_s: int
    #: For so long after a failed audit was due, all batches of its gateway are drawn; real seconds.
    watch_s: int

    def rate_of(self, *, operator_id: str, gateway_id: str, watched: bool = False) -> int:
        """The rate of one gateway's batches."""
        if watched:
            return ALL_PPM
        of_operator = self.rate_ppm_of.get(operator_id, self.rate_ppm)
        return self.rate_ppm_of.get(gateway_id, of_operator)


async def keep_posted(connection: Connection, posted: Sequence[Posted]) -> None:
    """Remember whose batches entries are, in the transaction that appends them."""
    await connection.execute(
        _KEEP_POSTED,
        {
            "batch_hashes": [each.batch_hash for each in posted],
            "operator_ids": [each.operator_id for each in posted],
            "gateway_ids": [each.gateway_id for each in posted],
            "incarnations": [each.incarnation for each in posted],
            "sequences": [each.sequence for each in posted],
        },
    )


def _real_now_us() -> int:
    return time.time_ns() // 1_000


class Audits:
    """Draws, asks the ledger, and remembers."""

    def __init__(
        self,
        *,
        pool: Pool,
        ledger: grpc.aio.Channel,
        terms: AuditTerms,
        now_us: Callable[[], int] = _real_now_us,
    ) -> None:
        self._pool = pool
        self._ledger = ledger_pb2_grpc.LedgerStub(ledger)
        self._terms = terms
        self._now_us = now_us

    async def run(self) -> None:
        """Draw and judge until cancelled; whoever is away is waited for."""
        while True:
            try:
                while await self.draw():
                    pass
                await self.judge()
            except (grpc.RpcError, psycopg.Error, OSError) as err:
                _log.warning("audits wait", cause=str(err).strip())
            await asyncio.sleep(EVERY_S)

    async def draw(self) -> bool:
        """Draw from the next published checkpoint; whether there was one."""
        async with self._pool.connection() as connection, connection.transaction():
            row = await (await connection.execute(_LOCK_DRAWING)).fetchone()
            assert row is not None, "the schema's step writes it"
            start: int = row[0]
            checkpoint = await (await connection.execute(_NEXT_CHECKPOINT, {"size": start})).fetchone()
            if checkpoint is None:
                return False
            size, note = checkpoint[0], bytes(checkpoint[2])
            seed_of = seed(parse_note(note).text)
            now_us = self._now_us()
            since_us = now_us - self._terms.watch_s * SECOND_US
            failed = await connection.execute(_LIST_WATCHED, {"since_us": since_us})
            watched = {row[0] for row in await failed.fetchall()}
            rows = await connection.execute(_LIST_POSTED, {"start": start, "end": size})
            for batch_hash, operator_id, gateway_id in await rows.fetchall():
                rate_ppm = self._terms.rate_of(
                    operator_id=operator_id, gateway_id=gateway_id, watched=gateway_id in watched
                )
                if drawn(seed_of, bytes(batch_hash), rate_ppm=rate_ppm):
                    await connection.execute(
                        _ADD_AUDIT,
                        {
                            "batch_hash": batch_hash,
                            "checkpoint_size": size,
                            "rate_ppm": rate_ppm,
                            "drawn_at_us": now_us,
                            "due_at_us": now_us + self._terms.due_s * SECOND_US,
                        },
                    )
            await connection.execute(_ADVANCE_DRAWING, {"size": size})
        return True

    async def judge(self) -> int:
        """Ask the ledger about what waits; how many were decided."""
        decided, place = 0, (-1, b"")
        while True:
            async with self._pool.connection() as connection:
                rows = await (
                    await connection.execute(
                        _WAITING_AUDITS, {"due_at_us": place[0], "batch_hash": place[1], "limit": AUDITS_AT_ONCE}
                    )
                ).fetchall()
            for row in rows:
                decided += await self._judge(row)
                place = (row[4], bytes(row[0]))
            if len(rows) < AUDITS_AT_ONCE:
                return decided

    async def _judge(self, row: Any) -> bool:
        batch_hash, gateway_id, incarnation, sequence, due_at_us = row
        answer = await self._ledger.AuditBatch(
            ledger_pb2.AuditBatchRequest(
                batch=ledger_pb2.BatchName(gateway_id=gateway_id, incarnation=incarnation, sequence=sequence),
                due=self._now_us() >= due_at_us,
            ),
            timeout=CALL_TIMEOUT_S,
        )
        outcome = _OUTCOMES.get(answer.outcome)
        if outcome is None:
            return False
        async with self._pool.connection() as connection:
            await connection.execute(
                _END_AUDIT, {"batch_hash": batch_hash, "outcome": outcome, "detail": answer.detail}
            )
        _AUDITS.labels(outcome).inc()
        if outcome != "passed":
            _log.warning(
                "an audit failed",
                gateway=gateway_id,
                incarnation=incarnation,
                sequence=sequence,
                outcome=outcome,
                detail=answer.detail,
            )
        return True

    async def list(self, gateway_id: str, limit: int) -> list[publiclog_pb2.Audit]:
        """What was drawn, newest first; an empty gateway stands for all."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(_LIST_AUDITS, {"gateway_id": gateway_id, "limit": limit})).fetchall()
        return [
            publiclog_pb2.Audit(
                operator_id=row[0],
                gateway_id=row[1],
                incarnation=row[2],
                sequence=row[3],
                batch_hash=bytes(row[4]),
                rate_ppm=row[5],
                checkpoint=bytes(row[6]),
                drawn_at_us=row[7],
                due_at_us=row[8],
                outcome=row[9],
                detail=row[10],
            )
            for row in rows
        ]
