"""The only one that moves money: accounts, holds, quotas, batches; the gateways' door."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from farthing.clock import SECOND_US, BusinessClock
from farthing.hsm import Token
from farthing.money import MICROS
from farthing.v1 import gateway_sync_pb2_grpc, ledger_pb2_grpc
from farthing_cloud.callers import caller
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import LedgerSection
from farthing_cloud.database import Pool
from farthing_cloud.ledger.back_office import LedgerServicer
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.core.quotas import GrantTerms
from farthing_cloud.ledger.door import GatewaySyncServicer
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.signing import PublicKeys, Signatures
from farthing_cloud.ledger.store.interface import StoreError
from farthing_cloud.ledger.store.postgres import PostgresStore
from farthing_cloud.offering import Mounted

SCHEMA: Final = "ledger"
#: Half a unit: a share smaller than a short stay would cost a directive for every use.
SMALLEST_QUOTA_MICROS: Final = MICROS // 2
#: How often settled debts are looked for, real seconds: nobody waits for it at a device.
RESOLVE_EVERY_S: Final = 2.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerService:
    """The ledger as the composition root mounts it."""

    door: GatewaySyncServicer
    back_office: LedgerServicer
    signatures: Signatures
    ledger: Ledger
    clock: BusinessClock

    @property
    def servicers(self) -> Sequence[Mounted]:
        """The gateways' door, and the back office's Ledger."""
        return (
            (gateway_sync_pb2_grpc.add_GatewaySyncServicer_to_server, self.door, "door"),
            (ledger_pb2_grpc.add_LedgerServicer_to_server, self.back_office, "back-office"),
        )

    async def run(self) -> None:
        """Sign directives, and give room of floors back, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.signatures.run())
            tasks.create_task(self._resolve_floors())

    async def _resolve_floors(self) -> None:
        while True:
            try:
                if await self.ledger.resolve_floors(now=self.clock.now()):
                    self.signatures.wanted.ring()
            except StoreError as err:
                _log.warning("floors wait to be resolved", cause=str(err))
            await asyncio.sleep(RESOLVE_EVERY_S)


def grant_terms(settings: LedgerSection) -> GrantTerms:
    """How quotas are sized; times of the configuration are business seconds."""
    return GrantTerms(
        share_ppm=settings.quota_share_ppm,
        smallest_micros=SMALLEST_QUOTA_MICROS,
        most_open_per_account=settings.max_open_quotas,
        lifetime_us=settings.quota_lifetime_s * SECOND_US,
        outage_us=settings.outage_s * SECOND_US,
    )


def build(
    *, pool: Pool, token: Token, channel: BackOfficeChannel, clock: BusinessClock, settings: LedgerSection
) -> LedgerService:
    """The service; receipts and directives are signed with the keys ``receipt`` and ``directive`` of the cloud's token."""
    del channel  # the ledger asks no other service
    store = PostgresStore(pool)
    keys = PublicKeys(receipt=token.party.public_key("receipt"), directive=token.party.public_key("directive"))
    signatures = Signatures(signer=token, keys=keys, store=store)
    ledger = Ledger(store, terms=grant_terms(settings), receipt_keys=(keys.receipt,))
    events = Bell()
    return LedgerService(
        door=GatewaySyncServicer(
            ledger=ledger,
            signatures=signatures,
            clock=clock,
            caller=caller,
            events=events,
            head_interval_s=settings.directive_head_interval_s,
        ),
        back_office=LedgerServicer(
            ledger=ledger,
            reports=Reports(pool),
            clock=clock,
            directives_wanted=signatures.wanted,
            events=events,
            caller=caller,
        ),
        signatures=signatures,
        ledger=ledger,
        clock=clock,
    )
