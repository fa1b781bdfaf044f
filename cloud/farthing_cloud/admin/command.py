"""``farthing-admin``: people's way into the back office.

A command loads only what it needs: groups are imported when one of their commands is named.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

# gRPC's fork handlers are of no use here, and say so on stderr.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# What a dead line means is said by us, in one sentence.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _operators() -> typer.Typer:
    from farthing_cloud.admin.registry import operators

    return operators


def _sites() -> typer.Typer:
    from farthing_cloud.admin.registry import sites

    return sites


def _gateways() -> typer.Typer:
    from farthing_cloud.admin.registry import gateways

    return gateways


def _devices() -> typer.Typer:
    from farthing_cloud.admin.registry import devices

    return devices


def _tariffs() -> typer.Typer:
    from farthing_cloud.admin.tariffs import tariffs

    return tariffs


def _tokens() -> typer.Typer:
    from farthing_cloud.admin.vault import tokens

    return tokens


def _accounts() -> typer.Typer:
    from farthing_cloud.admin.ledger import accounts

    return accounts


def _entitlements() -> typer.Typer:
    from farthing_cloud.admin.entitlements import entitlements

    return entitlements


def _quotas() -> typer.Typer:
    from farthing_cloud.admin.ledger import quotas

    return quotas


def _batches() -> typer.Typer:
    from farthing_cloud.admin.ledger import batches

    return batches


def _corrections() -> typer.Typer:
    from farthing_cloud.admin.corrections import corrections

    return corrections


def _ledger() -> typer.Typer:
    from farthing_cloud.admin.ledger import ledger

    return ledger


def _evidence() -> typer.Typer:
    from farthing_cloud.admin.evidence import evidence

    return evidence


def _log() -> typer.Typer:
    from farthing_cloud.admin.publiclog import log

    return log


def _fraud() -> typer.Typer:
    from farthing_cloud.admin.fraud import app

    return app


def _settlement() -> typer.Typer:
    from farthing_cloud.admin.settlement import settlement

    return settlement


def _split_rules() -> typer.Typer:
    from farthing_cloud.admin.settlement import split_rules

    return split_rules


def _agencies() -> typer.Typer:
    from farthing_cloud.admin.settlement import agencies

    return agencies


def _documents() -> typer.Typer:
    from farthing_cloud.admin.documents import documents

    return documents


def _apply() -> typer.Typer:
    from farthing_cloud.admin.apply import apply_command

    return apply_command


#: Name → what loads it, in the order of the help.
_GROUPS: Mapping[str, Callable[[], typer.Typer]] = {
    "apply": _apply,
    "operators": _operators,
    "agencies": _agencies,
    "sites": _sites,
    "gateways": _gateways,
    "split-rules": _split_rules,
    "tariffs": _tariffs,
    "accounts": _accounts,
    "devices": _devices,
    "tokens": _tokens,
    "entitlements": _entitlements,
    "quotas": _quotas,
    "corrections": _corrections,
    "batches": _batches,
    "ledger": _ledger,
    "evidence": _evidence,
    "log": _log,
    "fraud": _fraud,
    "settlement": _settlement,
    "documents": _documents,
}


class _LateGroup(TyperGroup):
    """Loads a group when it is named."""

    def list_commands(self, _ctx: Any) -> list[str]:
        return list(_GROUPS)

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        load = _GROUPS.get(cmd_name)
        if load is None:
            return None
        command = typer.main.get_command(load())
        command.name = cmd_name
        return command


app = typer.Typer(cls=_LateGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def farthing_admin(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", envvar="FARTHING_ADMIN_CONFIG", help="admin.toml")] = None,
) -> None:
    """People's way into the back office of Farthing."""
    if ctx.resilient_parsing:
        return
    from farthing_cloud.admin.connection import Connection

    connection = Connection(config)
    ctx.obj = connection
    ctx.call_on_close(connection.close)


def run() -> NoReturn:
    """The installed command: run it and leave at once.

    gRPC's signer for keys in a token keeps a thread alive for as long as anything still refers to its credentials, and an
    interpreter that ends waits for it: a command that had printed its answer would hang.
    """
    code: int | str | None = 1
    try:
        app()
    except SystemExit as stop:
        code = stop.code
    except BaseException:  # noqa: BLE001 shown in full, then we leave with 1: nothing is answered as done
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)
