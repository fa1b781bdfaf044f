"""Where entries come from: the ledger's outbox (batches, receipts) and the registry's changes (devices)."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import grpc
import grpc.aio
import psycopg
import structlog
from google.protobuf.message import DecodeError

from farthing.device import cbor
from farthing.ids import DeviceId, OperatorId
from farthing.tlog.entries import BatchEntry, DeviceEntry
from farthing.tlog.tiles import TileError
from farthing.v1 import directive_pb2, events_pb2, ledger_pb2, ledger_pb2_grpc, registry_pb2, registry_pb2_grpc
from farthing_cloud.database import Pool
from farthing_cloud.events.consumer import Connection, Event, PoisonEvent, WorldNotReady
from farthing_cloud.publiclog import store
from farthing_cloud.publiclog.audits import Posted, keep_posted
from farthing_cloud.publiclog.files import Contradiction
from farthing_cloud.publiclog.sequencer import Sequencer
from farthing_cloud.publiclog.store import Leaf

#: The event that says that a batch was posted.
POSTED: Final = "batch.posted"
CALL_TIMEOUT_S: Final = 10.0
#: Changes of devices read at once.
CHANGES_AT_ONCE: Final = 500

_STATUS: Final = {
    directive_pb2.DEVICE_STATUS_ACTIVE: "active",
    directive_pb2.DEVICE_STATUS_SUSPENDED: "suspended",
    directive_pb2.DEVICE_STATUS_BLOCKED: "blocked",
    directive_pb2.DEVICE_STATUS_DECOMMISSIONED: "decommissioned",
}

_log = structlog.stdlib.get_logger(__name__)


class PostedBatches:
    """Handles ``batch.posted``: an entry for each batch and its receipt, exactly once (:class:`farthing_cloud.events.consumer.Handler`)."""

    def __init__(self, sequencer: Sequencer, ledger: grpc.aio.Channel) -> None:
        self._sequencer = sequencer
        self._ledger = ledger_pb2_grpc.LedgerStub(ledger)
        self._epoch = 0
        self._leaves: dict[tuple[str, int, int], Leaf] = {}

    async def prepare(self, events: Sequence[Event]) -> None:
        """Ask the ledger what the receipts say."""
        self._leaves = {}
        names = []
        for event in events:
            # What cannot be read is parked when it is handled, alone.
            with suppress(PoisonEvent):
                names.append(_name(event))
        answer = await self._ledger.ReadReceipts(ledger_pb2.ReadReceiptsRequest(batches=names), timeout=CALL_TIMEOUT_S)
        self._epoch = answer.ledger_epoch
        for receipt in answer.receipts:
            entry = BatchEntry(
                ledger_epoch=receipt.ledger_epoch, batch_hash=receipt.batch_hash, receipt_hash=receipt.receipt_hash
            )
            self._leaves[_key(receipt.batch)] = Leaf(subject=receipt.batch_hash, entry=entry.encode())

    async def handle(self, connection: Connection, events: Sequence[Event]) -> None:
        """Append, in the transaction that remembers the events."""
        leaves, posted = [], []
        for event in events:
            name = _name(event)
            leaf = self._leaves.get(_key(name))
            if leaf is None:
                raise PoisonEvent("the ledger knows no such batch")
            leaves.append(leaf)
            posted.append(
                Posted(
                    batch_hash=leaf.subject,
                    operator_id=events_pb2.BatchPosted.FromString(event.value).operator_id,
                    gateway_id=name.gateway_id,
                    incarnation=name.incarnation,
                    sequence=name.sequence,
                )
            )
        try:
            await self._sequencer.append(
                connection, leaves, ledger_epoch=self._epoch, same=lambda before, entry: before == entry
            )
        except Contradiction as err:
            # Not the event's fault: it waits for people.
            raise WorldNotReady(str(err)) from err
        await keep_posted(connection, posted)

    def committed(self) -> None:
        """The publisher looks by itself."""


def _name(event: Event) -> ledger_pb2.BatchName:
    try:
        posted = events_pb2.BatchPosted.FromString(event.value)
    except DecodeError as err:
        raise PoisonEvent("not a BatchPosted") from err
    return ledger_pb2.BatchName(gateway_id=posted.gateway_id, incarnation=posted.incarnation, sequence=posted.sequence)


def _key(name: ledger_pb2.BatchName) -> tuple[str, int, int]:
    return name.gateway_id, name.incarnation, name.sequence


class DeviceChanges:
    """Reads the registry's changes: an entry for each new identity and status of a device."""

    def __init__(
        self, sequencer: Sequencer, *, pool: Pool, registry: grpc.aio.Channel, ledger: grpc.aio.Channel
    ) -> None:
        self._sequencer = sequencer
        self._pool = pool
        self._registry = registry_pb2_grpc.RegistryStub(registry)
        self._ledger = ledger_pb2_grpc.LedgerStub(ledger)

    async def run(self, *, every_s: float) -> None:
        """Follow until cancelled; whatever is gone is waited for."""
        while True:
            read = 0
            try:
                read = await self.take()
            except (grpc.RpcError, psycopg.Error, OSError) as err:
                _log.warning("the registry's changes wait", cause=str(err).strip())
            except (Contradiction, TileError):
                # Said once, by the sequencer; it waits for people.
                pass
            if read < CHANGES_AT_ONCE:
                await asyncio.sleep(every_s)

    async def take(self) -> int:
        """Take in the next changes, at most ``CHANGES_AT_ONCE``; how many were read."""
        async with self._pool.connection() as connection:
            after = (await store.read_log(connection, self._sequencer.log)).source
        answer = await self._registry.ListDeviceChanges(
            registry_pb2.ListDeviceChangesRequest(
                after_transaction_id=after[0], after_sequence=after[1], limit=CHANGES_AT_ONCE
            ),
            timeout=CALL_TIMEOUT_S,
        )
        if not answer.changes:
            return 0
        ledger = await self._ledger.ReadReceipts(ledger_pb2.ReadReceiptsRequest(), timeout=CALL_TIMEOUT_S)
        leaves = [
            Leaf(subject=change.device.record.device_id.encode(), entry=_entry(change).encode())
            for change in answer.changes
        ]
        last = answer.changes[-1]
        async with self._pool.connection() as connection, connection.transaction():
            row = await store.lock_log(connection, self._sequencer.log)
            if row.source != after:
                return len(leaves)  # another process was faster: look again
            await self._sequencer.append(connection, leaves, ledger_epoch=ledger.ledger_epoch, same=same_identity)
            await store.advance_source(connection, self._sequencer.log, (last.transaction_id, last.sequence))
        return len(leaves)


def _entry(change: registry_pb2.DeviceChange) -> DeviceEntry:
    device = change.device
    return DeviceEntry(
        device=DeviceId(device.record.device_id),
        device_epoch=device.record.device_epoch,
        operator=OperatorId(device.operator_id),
        status=_STATUS[device.record.status],
        statement_key_hash=hashlib.sha256(device.record.statement_key).digest(),
        certificate_hash=hashlib.sha256(device.certificate).digest(),
        at_us=change.at_us,
    )


def same_identity(before: bytes, entry: bytes) -> bool:
    """Whether two entries of a device differ in nothing but when they were made."""
    # ``at_us`` stands last.
    first, second = cbor.decode(before), cbor.decode(entry)
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    return first[:-1] == second[:-1]
