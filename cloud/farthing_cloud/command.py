"""``farthing-cloud``: run the settlement back end."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def farthing_cloud() -> None:
    """The settlement back end of Farthing."""


@app.command()
def serve(
    config: Annotated[Path, typer.Option("--config", help="cloud.toml")],
    services: Annotated[
        list[str] | None, typer.Argument(help="ledger, vault, registry, settlement, fraud; none named: all.")
    ] = None,
) -> None:
    """Serve until SIGTERM."""
    # Our children are PostgreSQL's tools, started and waited for: gRPC's fork handlers only complain about them.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # Whoever connects without a certificate would write a line of gRPC's own into our log, each time.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from farthing.clock import ClockError
    from farthing.configuration import ConfigError
    from farthing.hsm import HsmError
    from farthing_cloud.callers import CallerTableError
    from farthing_cloud.config import load_config
    from farthing_cloud.database import DatabaseError
    from farthing_cloud.interpreter import set_interpreter
    from farthing_cloud.listeners import ListenError
    from farthing_cloud.logs import configure_logs
    from farthing_cloud.serve import check_names
    from farthing_cloud.serve import serve as run

    try:
        names = check_names(services or [])
        loaded = load_config(config)
        configure_logs(loaded.log.level)
        set_interpreter()
        asyncio.run(run(loaded, names))
    except (ConfigError, ClockError, HsmError, CallerTableError, DatabaseError, ListenError) as err:
        typer.echo(str(err), err=True)
        raise typer.Exit(1) from err
    except OSError as err:
        # A full disk, a state_dir that is not ours: the path and the system's word for it.
        typer.echo(f"{err.filename or config}: {err.strerror}", err=True)
        raise typer.Exit(1) from err


@app.command("mark-restored")
def mark_restored(
    config: Annotated[Path, typer.Option("--config", help="cloud.toml")],
    reason: Annotated[str, typer.Option("--reason", help="Which backup, and why; it is kept with the ledger's state.")],
) -> None:
    """Say, before the first start on it, that the database came back from a backup: nothing is granted or paid until two persons have
    begun the ledger's next epoch."""
    from farthing.clock import ClockError
    from farthing.configuration import ConfigError
    from farthing_cloud.config import load_config
    from farthing_cloud.database import DatabaseError
    from farthing_cloud.ledger.core.corrections import MAX_TEXT
    from farthing_cloud.ledger.store.interface import StoreError
    from farthing_cloud.serve import mark_restored as mark

    if not 1 <= len(reason) <= MAX_TEXT or not reason.isprintable():
        raise typer.BadParameter(f"a reason has 1 to {MAX_TEXT} printable characters")
    try:
        said = asyncio.run(mark(load_config(config), why=reason))
    except (ConfigError, ClockError, DatabaseError, StoreError) as err:
        typer.echo(str(err), err=True)
        raise typer.Exit(1) from err
    typer.echo(said)


@app.command()
def check(config: Annotated[Path, typer.Option("--config", help="cloud.toml")]) -> None:
    """Read the configuration and say whether it can be used; start nothing."""
    from farthing.configuration import ConfigError
    from farthing_cloud.callers import CallerTableError, make_table
    from farthing_cloud.config import load_config

    try:
        make_table(load_config(config).callers)
    except (ConfigError, CallerTableError) as err:
        typer.echo(str(err), err=True)
        raise typer.Exit(1) from err
    typer.echo(f"{config}: fine")
