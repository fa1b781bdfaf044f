"""Reach the back office as a person: ``admin.toml``, and a TLS key that stays in the person's token."""

from collections.abc import Callable
from pathlib import Path

import grpc
import typer
from pydantic import ValidationError

from farthing.configuration import Address, ConfigError, FilePath, Section, explain, read_toml, resolved
from farthing.hsm import Hsm, HsmError, load_party
from farthing.hsm.tls import channel_credentials, read_roots
from farthing_cloud.channel import CHANNEL_OPTIONS

#: The label of a person's key.
TLS_KEY = "tls"


class AdminConfig(Section):
    """Everything that ``farthing-admin`` reads."""

    #: The back office, "host:port".
    address: Address
    #: Folder of a person that ``farthing-hsm-sim`` made.
    party: FilePath
    #: The root that all certificates lead to, PEM.
    ca_file: FilePath


def load_admin_config(path: Path) -> AdminConfig:
    """Read ``path``; relative paths in it are relative to its folder. Raise ``ConfigError``."""
    try:
        config = AdminConfig.model_validate(read_toml(path))
    except ValidationError as err:
        raise ConfigError(explain(path, err)) from err
    return config.model_copy(
        update={
            "party": resolved(path, config.party),
            "ca_file": resolved(path, config.ca_file),
        }
    )


class Connection:
    """Opens the token and the channel at the first call, and closes both with the command."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._channel: grpc.Channel | None = None
        self._closers: list[Callable[[], None]] = []

    def __call__(self) -> grpc.Channel:
        """The channel; what is wrong on the way ends the command with one sentence and status 1."""
        if self._channel is None:
            try:
                self._channel = self._open()
            except (ConfigError, HsmError) as err:
                typer.echo(str(err), err=True)
                raise typer.Exit(1) from err
            except OSError as err:
                typer.echo(f"{err.filename}: {err.strerror}", err=True)
                raise typer.Exit(1) from err
        return self._channel

    def _open(self) -> grpc.Channel:
        if self._path is None:
            raise ConfigError("say where admin.toml is: --config FILE, or FARTHING_ADMIN_CONFIG")
        config = load_admin_config(self._path)
        party = load_party(config.party)
        if party.kind != "person":
            raise ConfigError(f"{self._path}: party: {config.party} is a {party.kind}'s; commands are given by persons")
        roots = read_roots(config.ca_file)
        hsm = Hsm.of(party)
        hsm.start()
        self._closers.append(hsm.close)
        credentials = channel_credentials(
            hsm.attach(party), TLS_KEY, certificate_chain=party.certificate(TLS_KEY), roots=roots
        )
        channel = grpc.secure_channel(config.address, credentials, options=CHANNEL_OPTIONS)
        self._closers.append(channel.close)
        return channel

    def close(self) -> None:
        """Close the channel, then the token it signs with. Idempotent."""
        while self._closers:
            self._closers.pop()()
