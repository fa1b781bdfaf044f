"""The only one that moves money: accounts, holds, quotas, batches; the gateways' door."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from farthing.clock import SECOND_US, BusinessClock, Instant
from farthing.hsm import Party, Token
from farthing.money import MICROS
from farthing.v1 import gateway_sync_pb2_grpc, ledger_pb2_grpc, movements_pb2_grpc
from farthing_cloud.callers import caller
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import LedgerSection
from farthing_cloud.database import Pool
from farthing_cloud.ledger import metrics
from farthing_cloud.ledger.back_office import LedgerServicer
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.bundles import Bundles
from farthing_cloud.ledger.core.exposure import loss_of
from farthing_cloud.ledger.core.quotas import GrantTerms
from farthing_cloud.ledger.core.rows import Gateway, LedgerState
from farthing_cloud.ledger.door import GatewaySyncServicer
from farthing_cloud.ledger.imports import Imports
from farthing_cloud.ledger.movements import Movements, MovementsServicer
from farthing_cloud.ledger.operations import OVERDUE_AT_ONCE, Ledger
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.signing import PublicKeys, Signatures
from farthing_cloud.ledger.store.interface import StoreError
from farthing_cloud.ledger.store.partitions import Partitions
from farthing_cloud.ledger.store.postgres import PostgresStore
from farthing_cloud.offering import Mounted

SCHEMA: Final = "ledger"
#: Half a unit: a share smaller than a short stay would cost a directive for every use.
SMALLEST_QUOTA_MICROS: Final = MICROS // 2
#: How often settled debts are looked for, real seconds: nobody waits for it at a device.
RESOLVE_EVERY_S: Final = 2.0
#: How often a restored ledger looks whether every gateway has rewound, real seconds.
OPEN_EVERY_S: Final = 1.0
#: How often silent gateways are looked for, real seconds: holds outlive for days.
SILENCE_EVERY_S: Final = 10.0
#: How often details older than their retention are looked for, real seconds, and how many are forgotten in one round.
FORGET_EVERY_S: Final = 60.0
FORGET_AT_ONCE: Final = 1_000
#: Events that every reader has passed: how many go in one round.
PRUNE_AT_ONCE: Final = 1_000
#: How often the figures of maximum loss are taken, real seconds: as often as a scraper asks.
EXPOSURE_EVERY_S: Final = 10.0
#: How often the next partition of the transfers is seen to, real seconds: a whole one is ready ahead.
PARTITIONS_EVERY_S: Final = 60.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerService:
    """The ledger as the composition root mounts it."""

    door: GatewaySyncServicer
    back_office: LedgerServicer
    movements: MovementsServicer
    signatures: Signatures
    ledger: Ledger
    partitions: Partitions
    clock: BusinessClock
    silent_us: int
    keep_detail_us: int
    keep_events_us: int
    event_readers: tuple[str, ...]
    prune_interval_s: int

    @property
    def servicers(self) -> Sequence[Mounted]:
        """The gateways' door, and the back office's Ledger and Movements."""
        return (
            (gateway_sync_pb2_grpc.add_GatewaySyncServicer_to_server, self.door, "door"),
            (ledger_pb2_grpc.add_LedgerServicer_to_server, self.back_office, "back-office"),
            (movements_pb2_grpc.add_MovementsServicer_to_server, self.movements, "back-office"),
        )

    async def run(self) -> None:
        """Sign directives, and give room of floors back, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.signatures.run())
            tasks.create_task(self._resolve_floors())
            tasks.create_task(self._end_silent())
            tasks.create_task(self._measure_exposure())
            tasks.create_task(self._forget_details())
            tasks.create_task(self._prune_events())
            tasks.create_task(self._open_again())
            tasks.create_task(self._make_partitions())

    async def _end_silent(self) -> None:
        while True:
            looked_at = 0
            try:
                looked_at = await self.ledger.end_silent(now=self.clock.now())
                metrics.SILENCED.inc(looked_at)
            except StoreError as err:
                _log.warning("silent gateways wait to be looked at", cause=str(err))
            # A full round has more behind it.
            await asyncio.sleep(RESOLVE_EVERY_S if looked_at == OVERDUE_AT_ONCE else SILENCE_EVERY_S)

    async def _open_again(self) -> None:
        while True:
            try:
                if await self.ledger.restored.open_again(now=self.clock.now()):
                    _log.warning("every gateway has rewound: the ledger grants, refunds and pays again")
                metrics.LEDGER_OPEN.set((await self.ledger.store.epoch()).state is LedgerState.OPEN)
            except StoreError as err:
                _log.warning("the ledger waits to be opened again", cause=str(err))
            await asyncio.sleep(OPEN_EVERY_S)

    async def _forget_details(self) -> None:
        while True:
            forgotten = 0
            try:
                before = Instant(self.clock.now() - self.keep_detail_us)
                forgotten = await self.ledger.store.forget_details(before, FORGET_AT_ONCE)
            except StoreError as err:
                _log.warning("old details wait to be forgotten", cause=str(err))
            # A full round has more behind it.
            await asyncio.sleep(RESOLVE_EVERY_S if forgotten == FORGET_AT_ONCE else FORGET_EVERY_S)

    async def _prune_events(self) -> None:
        while True:
            pruned = 0
            try:
                before = Instant(self.clock.now() - self.keep_events_us)
                pruned = await self.ledger.store.prune_events(self.event_readers, before, PRUNE_AT_ONCE)
                metrics.EVENTS_PRUNED.inc(pruned)
            except StoreError as err:
                _log.warning("old events wait to be pruned", cause=str(err))
            # A full round has more behind it.
            await asyncio.sleep(RESOLVE_EVERY_S if pruned == PRUNE_AT_ONCE else self.prune_interval_s)

    async def _make_partitions(self) -> None:
        while True:
            try:
                made, left = await self.partitions.make_ahead()
                metrics.POSTINGS_LEFT.set(left)
                if made:
                    _log.info("partitions of the transfers made", partitions=made, postings_left=left)
            except StoreError as err:
                _log.error("the next partition of the transfers waits to be made", cause=str(err.__cause__))
            await asyncio.sleep(PARTITIONS_EVERY_S)

    async def _measure_exposure(self) -> None:
        while True:
            try:
                rows = await self.ledger.store.exposures("")
            except StoreError as err:
                _log.warning("maximum loss cannot be read", cause=str(err))
            else:
                measure_exposure(rows, silent_us=self.silent_us, now=self.clock.now())
            await asyncio.sleep(EXPOSURE_EVERY_S)

    async def _resolve_floors(self) -> None:
        while True:
            try:
                if await self.ledger.resolve_floors(now=self.clock.now()):
                    self.signatures.wanted.ring()
            except StoreError as err:
                _log.warning("floors wait to be resolved", cause=str(err))
            await asyncio.sleep(RESOLVE_EVERY_S)


def measure_exposure(rows: Sequence[tuple[Gateway, int]], *, silent_us: int, now: Instant) -> None:
    """Set the gauges of maximum loss; ``rows`` are gateways with what is held for their quotas."""
    metrics.MAXIMUM_LOSS.clear()
    metrics.LATE.clear()
    metrics.GATEWAYS_WAITING.clear()
    for gateway, open_micros in rows:
        loss = loss_of(gateway, open_micros=open_micros, silent_us=silent_us, now=now)
        names = (gateway.operator_id, gateway.site_id, gateway.gateway_id, gateway.currency)
        metrics.MAXIMUM_LOSS.labels(*names, "quotas").set(loss.quotas_micros)
        metrics.MAXIMUM_LOSS.labels(*names, "floors").set(loss.floors_micros)
        metrics.MAXIMUM_LOSS.labels(*names, "overrun").set(loss.overrun_micros)
        metrics.LATE.labels(*names).set(loss.late_micros)
        metrics.GATEWAYS_WAITING.labels(gateway.operator_id).inc(0 if gateway.trusted else 1)


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
    ledger = Ledger(
        store,
        terms=grant_terms(settings),
        receipt_keys=(keys.receipt,),
        payback_alone_micros=settings.payback_alone_micros,
    )
    events = Bell()
    door = GatewaySyncServicer(
        ledger=ledger,
        signatures=signatures,
        clock=clock,
        caller=caller,
        events=events,
        head_interval_s=settings.directive_head_interval_s,
    )
    return LedgerService(
        door=door,
        back_office=LedgerServicer(
            ledger=ledger,
            reports=Reports(pool),
            bundles=Bundles(store, receipt_keys=(keys.receipt,), key_certificates=_key_certificates(token.party)),
            plans=CorrectionPlans(ledger),
            imports=Imports(ledger, door),
            clock=clock,
            directives_wanted=signatures.wanted,
            events=events,
            caller=caller,
            silent_us=settings.silent_after_s * SECOND_US,
        ),
        movements=MovementsServicer(Movements(pool, store)),
        signatures=signatures,
        ledger=ledger,
        partitions=Partitions(pool, postings=settings.partition_postings),
        clock=clock,
        silent_us=settings.silent_after_s * SECOND_US,
        keep_detail_us=settings.keep_detail_s * SECOND_US,
        keep_events_us=settings.keep_events_s * SECOND_US,
        event_readers=settings.event_readers,
        prune_interval_s=settings.prune_interval_s,
    )


def _key_certificates(party: Party) -> list[bytes]:
    """By what the root vouches for the keys that sign receipts and public logs (DER); a party of an earlier ceremony has none."""
    return [
        x509.load_pem_x509_certificate(party.certificate(name)).public_bytes(Encoding.DER)
        for name in ("receipt", "log")
        if (party.certificates / f"{name}.pem").is_file()
    ]
