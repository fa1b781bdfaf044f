"""The vault: who may know a token, and who never does."""

import logging
from pathlib import Path

import grpc
import grpc.aio
import psycopg
import pytest
from back_office_parts import BackOffice, Tokens, gateway, register_all

from farthing.hsm import WrappedKey
from farthing.v1 import registry_pb2, vault_pb2

pytestmark = pytest.mark.real

CARD = b"04A2:B1:77:90-CARD"


def put(token: bytes = CARD, **changes: object) -> vault_pb2.PutTokenRequest:
    fields = {"operator_id": "city", "account_id": "acme", "label": "fleet card 1", "token": token, **changes}
    return vault_pb2.PutTokenRequest(**fields)  # type: ignore[arg-type]  # the keys are its fields


async def test_a_gateway_can_look_a_token_up_with_the_key_wrapped_for_it(
    back_office: BackOffice, parties: Path, tokens: Tokens
) -> None:
    await register_all(back_office, parties)
    made = await back_office.vault.PutToken(put())
    chain = back_office.ledger.chains["gw-1"]
    site_key = next(each.site_key for each in chain if each.HasField("site_key"))
    record = chain[-1].token

    await tokens.gateway.unwrap_hmac_key(
        "unwrap",
        WrappedKey(ephemeral_public_key=site_key.ephemeral_public_key, wrapped=site_key.wrapped_key),
        f"site-key-test-{made.token_id}",
    )
    assert record.token_ref == await tokens.gateway.hmac(f"site-key-test-{made.token_id}", CARD)
    assert (record.token_id, record.account_id, record.key_epoch) == (made.token_id, "acme", site_key.epoch)


async def test_the_same_token_is_the_same_id(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    assert (await back_office.vault.PutToken(put(dry_run=True))).token_id == ""
    first = await back_office.vault.PutToken(put())
    again = await back_office.vault.PutToken(put())
    assert (first.change, again.change) == (registry_pb2.CHANGE_CREATED, registry_pb2.CHANGE_NONE)
    assert again.token_id == first.token_id
    assert back_office.ledger.kinds("gw-1").count("token") == 1
    other_operator = await back_office.vault.PutToken(put(operator_id="town"))
    assert other_operator.token_id != first.token_id

    back_office.ledger.accounts.add("bolt")
    moved = await back_office.vault.PutToken(put(account_id="bolt"))
    assert (moved.change, moved.token_id) == (registry_pb2.CHANGE_UPDATED, first.token_id)
    assert back_office.ledger.chains["gw-1"][-1].token.account_id == "bolt"


async def test_a_denied_token_is_denied_at_every_gateway_also_later_ones(
    back_office: BackOffice, parties: Path
) -> None:
    await register_all(back_office, parties)
    made = await back_office.vault.PutToken(put())
    request = vault_pb2.DenyTokenRequest(token_id=made.token_id, reason="lost")
    await back_office.vault.DenyToken(request)
    await back_office.vault.DenyToken(request)
    known, denied = (each for each in back_office.ledger.chains["gw-1"][-2:])
    assert denied.token_denied.token_ref == known.token.token_ref
    assert back_office.ledger.kinds("gw-1").count("token_denied") == 1
    listed = await back_office.vault.ListTokens(vault_pb2.ListTokensRequest(operator_id="city"))
    assert [(each.label, each.denied) for each in listed.tokens] == [("fleet card 1", True)]

    await back_office.registry.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties, "gw-2")))
    assert back_office.ledger.kinds("gw-2")[-3:] == ["site_key", "token", "token_denied"]
    # One site, one key: both gateways know the token by one name.
    assert back_office.ledger.chains["gw-2"][-2].token.token_ref == known.token.token_ref


async def test_a_token_whose_account_comes_later_is_told_later(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await back_office.vault.PutToken(put(account_id="late"))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "no account late" in (caught.value.details() or "")
    back_office.ledger.accounts.add("late")
    await back_office.vault.PutToken(put(account_id="late"))
    assert back_office.ledger.kinds("gw-1").count("token") == 1


@pytest.mark.parametrize(
    "request_",
    [
        put(token=b""),
        put(token=b"x" * 257),
        put(label=""),
        put(label="my card 04a2:b1:77:90-card!"),
        put(account_id="a/b"),
    ],
)
async def test_what_is_no_token_is_refused_without_repeating_it(
    back_office: BackOffice, request_: vault_pb2.PutTokenRequest
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await back_office.vault.PutToken(request_)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert CARD.decode() not in (caught.value.details() or "")


async def test_the_original_is_nowhere_but_sealed(
    back_office: BackOffice, parties: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await register_all(back_office, parties)
    made = await back_office.vault.PutToken(put())
    await back_office.vault.DenyToken(vault_pb2.DenyTokenRequest(token_id=made.token_id, reason="lost"))
    await back_office.registry.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties, "gw-2")))

    needles = (CARD.decode(), CARD.hex())
    assert not [line for line in caplog.text.splitlines() if any(needle in line for needle in needles)]
    chains = str(back_office.ledger.chains).encode() + b"".join(
        each.SerializeToString() for chain in back_office.ledger.chains.values() for each in chain
    )
    assert CARD not in chains
    rows = 0
    with psycopg.connect(back_office.url) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('registry', 'vault')"
        ).fetchall()
        for schema, table in tables:
            for (row,) in connection.execute(f'SELECT t::text FROM "{schema}"."{table}" AS t'.encode()):
                rows += 1
                assert not any(needle in row for needle in needles), table
        # Nor in the files behind the tables, write-ahead log included.
        connection.execute("CHECKPOINT")
        found = connection.execute("SHOW data_directory").fetchone()
    assert rows > 10
    assert found is not None
    assert not files_with(CARD, Path(found[0]))


def files_with(needle: bytes, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]
