"""Partitions of the transfers, by posting numbers (ADR 39): the next ones made ahead, and what was taken out never taken for nothing.

Who reads the transfers of certain postings asks first whether they are here: an archived partition would read as if nothing had moved.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import psycopg
import psycopg_pool
from psycopg.rows import TupleRow

from farthing_cloud.database import sentence
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.store.arrays import numbers
from farthing_cloud.ledger.store.interface import StoreError

Connection: TypeAlias = psycopg.AsyncConnection[TupleRow]
Pool: TypeAlias = psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]

_PACKAGE: Final = "farthing_cloud.ledger"
MAKE: Final = sentence(_PACKAGE, "make_partitions")
COUNT_POSTINGS_LEFT: Final = sentence(_PACKAGE, "count_postings_left")
LIST_BALANCES_AT: Final = sentence(_PACKAGE, "list_balances_at")
LIST_BALANCES_BACK_AT: Final = sentence(_PACKAGE, "list_balances_back_at")
_COUNT_DATED_AFTER: Final = sentence(_PACKAGE, "count_dated_after")
_FIND_DATED_TAKEN_OUT: Final = sentence(_PACKAGE, "find_dated_taken_out")
#: No audit chain comes as far: a bigint's last.
LAST_PLACE: Final = 2**63 - 1
_FIND_TAKEN_OUT: Final = sentence(_PACKAGE, "find_taken_out")
_FIND_TAKEN_OUT_BETWEEN: Final = sentence(_PACKAGE, "find_taken_out_between")
_FIND_SHORT_TAKEN_OUT: Final = sentence(_PACKAGE, "find_short_taken_out")
_RECONCILE: Final = sentence(_PACKAGE, "reconcile")


class Partitions:
    """The partitions of one ledger's transfers; ``postings`` go into each that is made."""

    def __init__(self, pool: Pool, *, postings: int) -> None:
        self._pool = pool
        self._postings = postings

    async def make_ahead(self) -> tuple[int, int]:
        """Have a whole empty range ready; how many partitions were made, and how many postings find theirs now.

        Posting goes on meanwhile. Raise ``StoreError`` where it cannot be done.
        """
        try:
            async with self._pool.connection() as connection:
                made = await (await connection.execute(MAKE, {"postings": self._postings})).fetchone()
                left = await (await connection.execute(COUNT_POSTINGS_LEFT)).fetchone()
        except (psycopg.Error, psycopg_pool.PoolTimeout) as err:
            raise StoreError("the next partition of the transfers cannot be made") from err
        assert made is not None
        assert left is not None
        return int(made[0]), int(left[0])


def is_missing(err: psycopg.errors.CheckViolation) -> bool:
    """Whether it says that no partition takes a row: a check that fails has a name."""
    return err.diag.table_name == "transfers" and err.diag.constraint_name is None


async def must_be_here(connection: Connection, posting_ids: Sequence[int]) -> None:
    """Raise ``LedgerRefusal`` where the transfers of one of these postings were taken out."""
    _refuse(await (await connection.execute(_FIND_TAKEN_OUT, {"posting_ids": numbers(posting_ids)})).fetchone())


async def must_be_here_between(connection: Connection, operator_id: str, after: int, to: int) -> None:
    """Raise ``LedgerRefusal`` where transfers between two places of an operator's audit chain were taken out."""
    named = {"operator_id": operator_id, "after": after, "to": to}
    _refuse(await (await connection.execute(_FIND_TAKEN_OUT_BETWEEN, named)).fetchone())


async def balances_at(connection: Connection, named: Mapping[str, Any]) -> list[TupleRow]:
    """Balances as the postings dated up to an instant left them.

    From the present balances back where less was posted since than before, else from the first posting on: what is read is bounded by the
    nearer end. Where transfers on that way were taken out, the other one; ``LedgerRefusal`` where those of both were.
    """
    count = await (await connection.execute(_COUNT_DATED_AFTER, named)).fetchone()
    assert count is not None
    since, every = count
    ways = [(True, LIST_BALANCES_BACK_AT), (False, LIST_BALANCES_AT)]
    taken_out: list[TupleRow] = []
    for after, sums in ways if 2 * since <= every else reversed(ways):
        gap = await (await connection.execute(_FIND_DATED_TAKEN_OUT, {**named, "after": after})).fetchone()
        if gap is None:
            return await (await connection.execute(sums, named)).fetchall()
        taken_out.append(gap)
    raise _archived(taken_out[0])


async def reconciled(connection: Connection, named: Mapping[str, Any]) -> TupleRow:
    """Every sum of an operator; ``LedgerRefusal`` where what its accounts lacked after a restore was taken out."""
    _refuse(await (await connection.execute(_FIND_SHORT_TAKEN_OUT, named)).fetchone())
    row = await (await connection.execute(_RECONCILE, named)).fetchone()
    assert row is not None
    return row


def _refuse(taken_out: TupleRow | None) -> None:
    if taken_out is not None:
        raise _archived(taken_out)


def _archived(taken_out: TupleRow) -> LedgerRefusal:
    return LedgerRefusal(
        f"the transfers of postings {taken_out[0]} to {taken_out[1]} were archived: attach their partition again"
    )
