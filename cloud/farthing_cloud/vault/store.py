"""Every SQL sentence of the vault, typed. Each call runs in the caller's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg

from farthing.v1 import vault_pb2
from farthing_cloud.database import sentence

Connection: TypeAlias = psycopg.AsyncConnection[Any]


def _sql(name: str) -> bytes:
    return sentence("farthing_cloud.vault", name)


_LOCK_OPERATOR = _sql("lock_operator")
_FIND_TOKEN = _sql("find_token")
_ADD_TOKEN = _sql("add_token")
_UPDATE_TOKEN = _sql("update_token")
_DENY_TOKEN = _sql("deny_token")
_GET_TOKEN = _sql("get_token")
_TOKENS_OF_OPERATOR = _sql("tokens_of_operator")
_LIST_TOKENS = _sql("list_tokens")
_COUNT_TOKENS = _sql("count_tokens")
_GET_GATEWAY = _sql("get_gateway")
_PUT_GATEWAY = _sql("put_gateway")
_GATEWAYS_OF_OPERATOR = _sql("gateways_of_operator")
_GET_SITE_KEY = _sql("get_site_key")
_ADD_SITE_KEY = _sql("add_site_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundToken:
    """A token that was put before, as far as people may see it."""

    token_id: str
    account_id: str
    label: str
    denied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedToken:
    """A token with its original, sealed."""

    token_id: str
    operator_id: str
    account_id: str
    sealed: bytes
    denied_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldGateway:
    """A gateway that hears of every token of its operator, and the epoch of its site's key."""

    gateway_id: str
    site_id: str
    epoch: int


async def lock_operator(connection: Connection, operator_id: str) -> None:
    """What happens to the tokens of one operator happens one after the other."""
    await connection.execute(_LOCK_OPERATOR, {"operator_id": operator_id})


async def find_token(connection: Connection, operator_id: str, lookup: bytes) -> FoundToken | None:
    row: Any = await (await connection.execute(_FIND_TOKEN, {"operator_id": operator_id, "lookup": lookup})).fetchone()
    if row is None:
        return None
    return FoundToken(token_id=row[0], account_id=row[1], label=row[2], denied=row[3] is not None)


async def add_token(
    connection: Connection,
    *,
    token_id: str,
    operator_id: str,
    lookup: bytes,
    account_id: str,
    label: str,
    sealed: bytes,
) -> None:
    await connection.execute(
        _ADD_TOKEN,
        {
            "token_id": token_id,
            "operator_id": operator_id,
            "lookup": lookup,
            "account_id": account_id,
            "label": label,
            "sealed": sealed,
        },
    )


async def update_token(connection: Connection, *, token_id: str, account_id: str, label: str) -> None:
    await connection.execute(_UPDATE_TOKEN, {"token_id": token_id, "account_id": account_id, "label": label})


async def deny_token(connection: Connection, token_id: str, reason: str) -> None:
    await connection.execute(_DENY_TOKEN, {"token_id": token_id, "reason": reason})


async def get_token(connection: Connection, token_id: str) -> SealedToken | None:
    row: Any = await (await connection.execute(_GET_TOKEN, {"token_id": token_id})).fetchone()
    if row is None:
        return None
    return SealedToken(
        token_id=token_id, operator_id=row[0], account_id=row[1], sealed=bytes(row[2]), denied_reason=row[3]
    )


async def tokens_of_operator(connection: Connection, operator_id: str) -> list[SealedToken]:
    rows: Sequence[Any] = await (await connection.execute(_TOKENS_OF_OPERATOR, {"operator_id": operator_id})).fetchall()
    return [
        SealedToken(
            token_id=row[0], operator_id=operator_id, account_id=row[1], sealed=bytes(row[2]), denied_reason=row[3]
        )
        for row in rows
    ]


async def count_tokens(connection: Connection, operator_id: str) -> int:
    row: Any = await (await connection.execute(_COUNT_TOKENS, {"operator_id": operator_id})).fetchone()
    return int(row[0])


async def list_tokens(connection: Connection, operator_id: str) -> list[vault_pb2.TokenSummary]:
    rows: Sequence[Any] = await (await connection.execute(_LIST_TOKENS, {"operator_id": operator_id})).fetchall()
    return [
        vault_pb2.TokenSummary(token_id=row[0], operator_id=row[1], account_id=row[2], label=row[3], denied=row[4])
        for row in rows
    ]


async def get_gateway_unwrap_key(connection: Connection, gateway_id: str) -> bytes | None:
    row: Any = await (await connection.execute(_GET_GATEWAY, {"gateway_id": gateway_id})).fetchone()
    return None if row is None else bytes(row[2])


async def put_gateway(
    connection: Connection, *, gateway_id: str, operator_id: str, site_id: str, unwrap_key: bytes
) -> None:
    await connection.execute(
        _PUT_GATEWAY,
        {"gateway_id": gateway_id, "operator_id": operator_id, "site_id": site_id, "unwrap_key": unwrap_key},
    )


async def gateways_of_operator(connection: Connection, operator_id: str) -> list[ToldGateway]:
    rows: Sequence[Any] = await (
        await connection.execute(_GATEWAYS_OF_OPERATOR, {"operator_id": operator_id})
    ).fetchall()
    return [ToldGateway(gateway_id=row[0], site_id=row[1], epoch=row[2]) for row in rows]


async def get_site_key_epoch(connection: Connection, site_id: str) -> int | None:
    row: Any = await (await connection.execute(_GET_SITE_KEY, {"site_id": site_id})).fetchone()
    return None if row is None else int(row[0])


async def add_site_key(connection: Connection, *, site_id: str, operator_id: str, epoch: int) -> None:
    await connection.execute(_ADD_SITE_KEY, {"site_id": site_id, "operator_id": operator_id, "epoch": epoch})
