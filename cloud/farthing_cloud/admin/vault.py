"""``farthing-admin tokens``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from farthing.configuration import ConfigError
from farthing.v1 import vault_pb2, vault_pb2_grpc
from farthing_cloud.admin.apply import change_name
from farthing_cloud.admin.document import token_bytes
from farthing_cloud.admin.session import CALL_TIMEOUT_S, DryRun, Json, Operator, Row, back_office, fail, show, show_one

tokens = typer.Typer(help="What payers present.", no_args_is_help=True)


@tokens.command("list")
def list_tokens(
    ctx: typer.Context,
    operator: Annotated[str, typer.Option("--operator", envvar="FARTHING_ADMIN_OPERATOR", help="Default: all.")] = "",
    as_json: Json = False,
) -> None:
    """Ids and names; the tokens themselves are shown to nobody."""
    with back_office(ctx) as channel:
        answer = vault_pb2_grpc.VaultStub(channel).ListTokens(
            vault_pb2.ListTokensRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            "token_id": token.token_id,
            "operator_id": token.operator_id,
            "account_id": token.account_id,
            "label": token.label,
            "denied": token.denied,
        }
        for token in answer.tokens
    ]
    show(rows, ("token_id", "operator_id", "account_id", "label", "denied"), as_json=as_json)


@tokens.command("put")
def put_token(
    ctx: typer.Context,
    operator: Operator,
    account: Annotated[str, typer.Option(help="Who pays what it buys.")],
    label: Annotated[str, typer.Option(help="A name for people; never the token.")],
    token_file: Annotated[
        Path, typer.Option(help="Holds the token, text or hex:…; “-”: standard input. Never on the command line.")
    ],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take a token in."""
    try:
        text = sys.stdin.read() if str(token_file) == "-" else token_file.read_text("utf-8")
        token = token_bytes(text.strip())
    except (OSError, UnicodeDecodeError, ConfigError) as err:
        fail(f"{token_file}: cannot be read as a token ({type(err).__name__})")
    with back_office(ctx) as channel:
        answer = vault_pb2_grpc.VaultStub(channel).PutToken(
            vault_pb2.PutTokenRequest(
                operator_id=operator, account_id=account, label=label, token=token, dry_run=dry_run
            ),
            timeout=CALL_TIMEOUT_S,
        )
    show_one({"token_id": answer.token_id, "change": change_name(answer.change)}, as_json=as_json)


@tokens.command("deny")
def deny_token(
    ctx: typer.Context,
    token_id: Annotated[str, typer.Argument()],
    reason: Annotated[str, typer.Option(help="Why; gateways are told.")],
    as_json: Json = False,
) -> None:
    """Make every gateway refuse it, for ever."""
    with back_office(ctx) as channel:
        vault_pb2_grpc.VaultStub(channel).DenyToken(
            vault_pb2.DenyTokenRequest(token_id=token_id, reason=reason), timeout=CALL_TIMEOUT_S
        )
    show_one({"token_id": token_id, "denied": True}, as_json=as_json)
