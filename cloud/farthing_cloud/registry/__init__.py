"""Operators, sites, gateways, devices and tariffs: who and what there is, and what each gateway must know of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from farthing.clock import BusinessClock
from farthing.hsm import Token
from farthing.v1 import registry_pb2_grpc
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import RegistrySection
from farthing_cloud.database import Pool
from farthing_cloud.offering import Mounted
from farthing_cloud.registry.servicer import RegistryServicer

SCHEMA = "registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryService:
    """The registry as the composition root mounts it."""

    servicer: RegistryServicer

    @property
    def servicers(self) -> Sequence[Mounted]:
        """The back office's Registry."""
        return ((registry_pb2_grpc.add_RegistryServicer_to_server, self.servicer, "back-office"),)

    async def run(self) -> None:
        """Send what gateways were not told yet, until cancelled."""
        await self.servicer.run()


def build(
    *, pool: Pool, token: Token, channel: BackOfficeChannel, clock: BusinessClock, settings: RegistrySection
) -> RegistryService:
    """The service; it trusts device certificates that the CA in the cloud's party folder issued."""
    del settings  # nothing to set yet: the section exists so that its name is reserved
    return RegistryService(
        servicer=RegistryServicer(
            pool=pool,
            ledger=channel.to("ledger"),
            vault=channel.to("vault"),
            root=x509.load_pem_x509_certificate(token.party.certificate("ca")),
            clock=clock,
        )
    )
