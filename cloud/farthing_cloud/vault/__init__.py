"""The only place with the original token."""

from collections.abc import Sequence
from dataclasses import dataclass

from farthing.clock import BusinessClock
from farthing.hsm import Token
from farthing.v1 import vault_pb2_grpc
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import VaultSection
from farthing_cloud.database import Pool
from farthing_cloud.offering import Mounted
from farthing_cloud.vault.servicer import VaultServicer

SCHEMA = "vault"


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultService:
    """The vault as the composition root mounts it."""

    servicer: VaultServicer

    @property
    def servicers(self) -> Sequence[Mounted]:
        """The back office's Vault."""
        return ((vault_pb2_grpc.add_VaultServicer_to_server, self.servicer, "back-office"),)

    async def run(self) -> None:
        """Send what gateways were not told yet, until cancelled."""
        await self.servicer.run()


def build(
    *, pool: Pool, token: Token, channel: BackOfficeChannel, clock: BusinessClock, settings: VaultSection
) -> VaultService:
    """The service; its keys are in ``token``, and made there at the first need."""
    del clock  # the ledger dates what it issues
    return VaultService(
        servicer=VaultServicer(
            pool=pool,
            token=token,
            ledger=channel.to("ledger"),
            registry=channel.to("registry"),
            settings=settings,
        )
    )
