"""What was posted and which devices there are, published so that nobody can change it unseen: append-only logs as static files."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from prometheus_client import Counter, Gauge

from farthing.clock import BusinessClock
from farthing.hsm import HsmError, Token
from farthing.tlog.entries import BATCHES, DEVICES, LOG_NAMES, LogName
from farthing.tlog.note import NoteKey, SignatureType
from farthing.tlog.tiles import TileError
from farthing.v1 import publiclog_pb2_grpc
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import PublicLogSection
from farthing_cloud.database import Pool
from farthing_cloud.events.consumer import Consumer
from farthing_cloud.offering import Mounted
from farthing_cloud.publiclog.audits import Audits, AuditTerms
from farthing_cloud.publiclog.files import Contradiction, LogFiles
from farthing_cloud.publiclog.sequencer import LEAVES_AT_ONCE, LOG_KEY, Sequencer
from farthing_cloud.publiclog.servicer import PublicLogServicer
from farthing_cloud.publiclog.sources import POSTED, DeviceChanges, PostedBatches

SCHEMA: Final = "publiclog"

_PUBLISHED = Counter("farthing_cloud_publiclog_published", "Leaves published since the start.", ("log",))
_WAITS = Gauge("farthing_cloud_publiclog_waits", "1 while a log waits for people, else 0.", ("log",))

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicLogService:
    """The public logs as the composition root mounts them."""

    sequencers: Mapping[LogName, Sequencer]
    consumer: Consumer
    devices: DeviceChanges
    audits: Audits
    interval_s: int

    @property
    def servicers(self) -> Sequence[Mounted]:
        """The back office's PublicLog."""
        servicer = PublicLogServicer(self.sequencers, self.audits)
        return ((publiclog_pb2_grpc.add_PublicLogServicer_to_server, servicer, "back-office"),)

    async def run(self) -> None:
        """Take entries in and publish, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.consumer.run())
            tasks.create_task(self.devices.run(every_s=self.interval_s))
            tasks.create_task(self.audits.run())
            for sequencer in self.sequencers.values():
                tasks.create_task(self._publish(sequencer))

    async def _publish(self, sequencer: Sequencer) -> None:
        while True:
            published = 0
            try:
                published = await sequencer.publish()
            except (HsmError, psycopg.Error, OSError) as err:
                _log.warning("a checkpoint waits", log=sequencer.log, cause=str(err).strip())
            except (Contradiction, TileError):
                # Said once, by the sequencer; it waits for people.
                pass
            _WAITS.labels(sequencer.log).set(1 if sequencer.waits_for else 0)
            _PUBLISHED.labels(sequencer.log).inc(published)
            if published < LEAVES_AT_ONCE:
                await asyncio.sleep(self.interval_s)


def log_key(spki: bytes, *, origin: str, log: str) -> NoteKey:
    """The verifier key of one of the logs; ``origin`` empty: named after the key itself, so that no two clouds share one."""
    public = load_der_public_key(spki)
    if not isinstance(public, Ed25519PublicKey):
        raise HsmError(f"the key {LOG_KEY!r} is no Ed25519 key")
    prefix = origin or f"farthing-{hashlib.sha256(spki).hexdigest()[:16]}"
    return NoteKey(
        name=f"{prefix}/{log}",
        kind=SignatureType.ED25519,
        public=public.public_bytes(Encoding.Raw, PublicFormat.Raw),
    )


def build(
    *, pool: Pool, token: Token, channel: BackOfficeChannel, clock: BusinessClock, settings: PublicLogSection
) -> PublicLogService:
    """The service; checkpoints are signed with the key ``log`` of the cloud's token."""
    del clock  # a log's order is its own, and a device's change says when it was written
    assert settings.directory is not None, "load_config fills it in"
    spki = token.party.public_key(LOG_KEY)
    sequencers = {
        name: Sequencer(
            log=name,
            pool=pool,
            files=LogFiles(settings.directory / name, log_key(spki, origin=settings.origin, log=name)),
            signer=token,
        )
        for name in LOG_NAMES
    }
    ledger = channel.to("ledger")
    return PublicLogService(
        sequencers=sequencers,
        consumer=Consumer(
            name="publiclog",
            kinds=(POSTED,),
            pool=pool,
            ledger=ledger,
            handler=PostedBatches(sequencers[BATCHES], ledger),
        ),
        devices=DeviceChanges(sequencers[DEVICES], pool=pool, registry=channel.to("registry"), ledger=ledger),
        audits=Audits(
            pool=pool,
            ledger=ledger,
            terms=AuditTerms(
                rate_ppm=settings.audit_ppm,
                rate_ppm_of=settings.audit_ppm_of,
                due_s=settings.audit_due_s,
                watch_s=settings.audit_watch_s,
            ),
        ),
        interval_s=settings.interval_s,
    )
