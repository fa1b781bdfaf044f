"""What carried ends billed beyond holds and nobody claimed since, in PostgreSQL. The gateway that gave the grants is locked before."""

from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from farthing.ids import AuthorizationId, GatewayId
from farthing_cloud.database import sentence
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.rows import Claimed, ClaimKey

_PACKAGE: Final = "farthing_cloud.ledger"
_READ: Final = sentence(_PACKAGE, "read_carried_beyond")
_PUT: Final = sentence(_PACKAGE, "put_carried_beyond")
_END: Final = sentence(_PACKAGE, "end_carried_beyond")

Connection = psycopg.AsyncConnection[TupleRow]


async def beyond(
    connection: Connection, known: Mapping[ClaimKey, Claimed], claims: Mapping[str, str]
) -> dict[ClaimKey, int]:
    """Of the claims that a request names, micros; ``known`` are those there were, ``claims`` their names as the sentences take them."""
    # Nearly no claim was ever raised by a carried end: then there is nothing to ask for.
    if all(claim.raised_by is None for claim in known.values()):
        return {}
    rows = await (await connection.execute(_READ, claims)).fetchall()
    return {(AuthorizationId(row[0]), GatewayId(row[1])): int(row[2]) for row in rows}


async def keep(connection: Connection, posting: Posting) -> None:
    """After a posting."""
    for (authorization_id, gateway_id), micros in posting.carried_beyond.items():
        named = {"authorization_id": authorization_id, "gateway_id": gateway_id, "micros": micros}
        await connection.execute(_PUT if micros else _END, named)
