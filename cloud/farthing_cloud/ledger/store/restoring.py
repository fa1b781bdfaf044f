"""What PostgreSQL keeps of a ledger that was restored: its epochs, and what it took back from gateways."""

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId, OperatorId
from farthing.money import Currency
from farthing_cloud.database import sentence
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.restoring import Tail
from farthing_cloud.ledger.core.rows import Epoch, LedgerState, Rewinding
from farthing_cloud.ledger.store.interface import GatewayRewinding

_PACKAGE: Final = "farthing_cloud.ledger"
READ_EPOCH: Final = sentence(_PACKAGE, "read_epoch")
SET_EPOCH: Final = sentence(_PACKAGE, "set_epoch")
TAKE_ALL_BOOKS: Final = sentence(_PACKAGE, "take_all_books")
READ_TAIL: Final = sentence(_PACKAGE, "read_tail")
_LIST_REWINDINGS: Final = sentence(_PACKAGE, "list_rewindings")
LIST_CHAINS: Final = sentence(_PACKAGE, "list_chains")
_LIST_OVERDRAWN: Final = sentence(_PACKAGE, "list_overdrawn")
_ADD_SHORT: Final = sentence(_PACKAGE, "add_short")
LISTEN_ANEW: Final = sentence(_PACKAGE, "listen_anew")
_SET_TAIL_ASIDE: Final = sentence(_PACKAGE, "set_tail_aside")
_DROP_TAIL: Final = sentence(_PACKAGE, "drop_tail")
_ADD_EPOCH: Final = sentence(_PACKAGE, "add_epoch")
_PUT_GATEWAY_EPOCH: Final = sentence(_PACKAGE, "put_gateway_epoch")
_PUT_REWINDING: Final = sentence(_PACKAGE, "put_rewinding")

Connection = psycopg.AsyncConnection[TupleRow]


def epoch_of(row: TupleRow | None) -> Epoch:
    """The one row there is."""
    assert row is not None
    return Epoch(number=row[0], state=LedgerState(row[1]), since=Instant(row[2]), why=row[3])


async def epoch(connection: Connection) -> Epoch:
    """The present one."""
    return epoch_of(await (await connection.execute(READ_EPOCH)).fetchone())


async def rewindings(connection: Connection) -> Sequence[GatewayRewinding]:
    """How far each gateway is in the present epoch."""
    number = (await epoch(connection)).number
    rows = await connection.execute(_LIST_REWINDINGS)
    return [rewinding_of(row, number) for row in await rows.fetchall()]


async def overdrawn(connection: Connection, limit: int) -> Sequence[tuple[OperatorId, Currency, AccountId]]:
    """Accounts that hold and have spent more than they have."""
    rows = await connection.execute(_LIST_OVERDRAWN, {"limit": limit})
    return [(OperatorId(row[0]), Currency(row[1]), AccountId(row[2])) for row in await rows.fetchall()]


async def make_room(connection: Connection, posting: Posting) -> None:
    """Before a posting: what its directives take the place of goes aside."""
    if posting.chain_replaced is not None:
        assert posting.rewinding is not None
        gateway_id, version = posting.chain_replaced
        named = {"gateway_id": gateway_id, "version": version, "epoch": posting.rewinding.epoch}
        await connection.execute(_SET_TAIL_ASIDE, named)
        await connection.execute(_DROP_TAIL, named)


async def keep(connection: Connection, posting: Posting) -> None:
    """After a posting: epochs and rewindings."""
    for gateway_id, number in posting.gateway_epochs:
        await connection.execute(_PUT_GATEWAY_EPOCH, {"gateway_id": gateway_id, "epoch": number})
    if posting.rewinding is not None:
        await connection.execute(_PUT_REWINDING, _parameters(posting.rewinding))
    if posting.short:
        number = (await epoch(connection)).number
        for gateway_id, short_micros in posting.short:
            named = {"gateway_id": gateway_id, "epoch": number, "short_micros": short_micros}
            await connection.execute(_ADD_SHORT, named)
    if posting.epoch_begun is not None and posting.approved is not None:
        number, decision_id = posting.epoch_begun
        await connection.execute(_ADD_EPOCH, {"epoch": number, "decision_id": decision_id, "at_us": posting.posted_at})


def _parameters(rewinding: Rewinding) -> dict[str, Any]:
    return {
        "gateway_id": rewinding.gateway_id,
        "epoch": rewinding.epoch,
        "shown_at_us": rewinding.shown_at,
        "directives": rewinding.directives,
        "set_aside": rewinding.set_aside,
        "quotas": rewinding.quotas,
        "reinstated_micros": rewinding.reinstated_micros,
        "short_micros": rewinding.short_micros,
        "incarnation": rewinding.incarnation,
        "sequence": rewinding.sequence,
        "given_up": rewinding.given_up,
    }


async def tail(connection: Connection, gateway_id: GatewayId, after_version: int) -> Sequence[Tail]:
    """A gateway's directives after a version."""
    rows = await connection.execute(READ_TAIL, {"gateway_id": gateway_id, "version": after_version})
    return [Tail(*row) for row in await rows.fetchall()]


def rewinding_of(row: TupleRow, number: int) -> GatewayRewinding:
    """A row of ``list_rewindings``."""
    gateway_id = GatewayId(row[0])
    found = (
        Rewinding(
            gateway_id=gateway_id,
            epoch=number,
            shown_at=Instant(row[3]),
            directives=row[4],
            set_aside=row[5],
            quotas=row[6],
            reinstated_micros=int(row[7]),
            short_micros=int(row[8]),
            incarnation=row[9],
            sequence=row[10],
            given_up=row[11],
        )
        if row[3] is not None
        else None
    )
    return GatewayRewinding(
        gateway_id=gateway_id,
        operator_id=OperatorId(row[1]),
        has_shown=row[2] >= number,
        rewinding=found,
        posted_sequence=row[12],
    )
