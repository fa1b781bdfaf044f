"""Where the logs' entries come from: the ledger's outbox, and a registry that nobody can change unseen."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psycopg
import pytest
from back_office_parts import BackOffice, back_office, device, parties, register_all, tariff, tokens
from log_parts import KEY, MemorySigner, opened

from farthing.tlog.entries import BatchEntry, DeviceEntry, decode
from farthing.v1 import directive_pb2, events_pb2, ledger_pb2, registry_pb2
from farthing_cloud.database import Pool
from farthing_cloud.events.consumer import Consumer, Event, Place, WorldNotReady
from farthing_cloud.publiclog import log_key
from farthing_cloud.publiclog.files import Contradiction, LogFiles
from farthing_cloud.publiclog.sequencer import Sequencer
from farthing_cloud.publiclog.sources import POSTED, DeviceChanges, PostedBatches

__all__ = ["back_office", "parties", "tokens"]

pytestmark = pytest.mark.real


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with opened(database_url) as found:
        yield found


def sequencer(log: str, pool: Pool, folder: Path) -> Sequencer:
    return Sequencer(log=log, pool=pool, files=LogFiles(folder / log, KEY), signer=MemorySigner())  # type: ignore[arg-type]  # one of the two


async def said(log: Sequencer) -> list[BatchEntry | DeviceEntry]:
    await log.publish()
    published = log.files.published()
    assert published is not None
    return [decode(entry) for entry in log.files.reader(published).entries(0, published.size)]


# --- batches ----------------------------------------------------------------------------------------------------------


def post(office: BackOffice, sequence: int, *, epoch: int = 1) -> Event:
    """The ledger has posted a batch: its event."""
    posted = ledger_pb2.PostedReceipt(
        batch=ledger_pb2.BatchName(gateway_id="gw-1", incarnation=1, sequence=sequence),
        ledger_epoch=epoch,
        batch_hash=hashlib.sha256(b"batch %d" % sequence).digest(),
        receipt_hash=hashlib.sha256(b"receipt %d %d" % (sequence, epoch)).digest(),
    )
    office.ledger.posted["gw-1", 1, sequence] = posted
    value = events_pb2.BatchPosted(gateway_id="gw-1", incarnation=1, sequence=sequence)
    return Event(
        place=Place(transaction_id=100 * epoch + sequence, sequence=1),
        kind=POSTED,
        key="gw-1",
        at_us=1,
        value=value.SerializeToString(),
        traceparent="",
    )


@pytest.fixture
def consuming(back_office: BackOffice, pool: Pool, tmp_path: Path) -> tuple[Sequencer, Consumer]:
    log = sequencer("batches", pool, tmp_path)
    handler = PostedBatches(log, back_office.channel)
    return log, Consumer(name="publiclog", kinds=(POSTED,), pool=pool, ledger=back_office.channel, handler=handler)


def sequences(entries: Sequence[BatchEntry | DeviceEntry]) -> list[tuple[int, bytes]]:
    return [(entry.ledger_epoch, entry.batch_hash) for entry in entries if isinstance(entry, BatchEntry)]


def named(*posted: tuple[int, int]) -> list[tuple[int, bytes]]:
    return [(epoch, hashlib.sha256(b"batch %d" % sequence).digest()) for epoch, sequence in posted]


async def test_each_posted_batch_is_one_entry(
    back_office: BackOffice, consuming: tuple[Sequencer, Consumer], pool: Pool
) -> None:
    log, consumer = consuming
    events = [post(back_office, sequence) for sequence in (1, 2, 3)]
    await consumer.take(events[:2])
    await consumer.take(events)
    assert sequences(await said(log)) == named((1, 1), (1, 2), (1, 3))
    # What is no event of a batch, or of one that the ledger does not know, is parked; the others go on.
    unknown = Event(
        place=Place(transaction_id=500, sequence=1), kind=POSTED, key="x", at_us=1, value=b"\xff", traceparent=""
    )
    nobody = post(back_office, 77)
    del back_office.ledger.posted["gw-1", 1, 77]
    await consumer.take([unknown, nobody, post(back_office, 4)])
    assert consumer.state.parked == 2
    assert sequences(await said(log)) == named((1, 1), (1, 2), (1, 3), (1, 4))


async def test_a_restored_ledger_waits_for_people_and_parks_nothing(
    back_office: BackOffice, consuming: tuple[Sequencer, Consumer]
) -> None:
    log, consumer = consuming
    await consumer.take([post(back_office, 1)])
    back_office.ledger.epoch = 2
    again = post(back_office, 1, epoch=2)
    with pytest.raises(WorldNotReady):
        await consumer.take([again])
    assert consumer.state.parked == 0
    assert "epoch 2" in log.waits_for
    assert sequences(await said(log)) == named((1, 1))
    await log.reconcile(None)
    await consumer.take([again])
    # The batch is one; it has two receipts, and both are said.
    assert sequences(await said(log)) == named((1, 1), (2, 1))


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def following(back_office: BackOffice, pool: Pool, tmp_path: Path) -> tuple[Sequencer, DeviceChanges]:
    log = sequencer("devices", pool, tmp_path)
    return log, DeviceChanges(log, pool=pool, registry=back_office.channel, ledger=back_office.channel)


async def test_every_device_and_what_becomes_of_it_is_published(
    back_office: BackOffice, following: tuple[Sequencer, DeviceChanges], parties: Path
) -> None:
    log, changes = following
    assert await changes.take() == 0
    await register_all(back_office, parties)
    await back_office.registry.SetDeviceStatus(
        registry_pb2.SetDeviceStatusRequest(
            device_id="chg-1", status=directive_pb2.DEVICE_STATUS_SUSPENDED, reason="noisy"
        )
    )
    await back_office.registry.PutDevice(registry_pb2.PutDeviceRequest(device=device(parties, "toll-1")))
    while await changes.take():
        pass
    entries = await said(log)
    charger = device(parties)
    first = entries[0]
    assert isinstance(first, DeviceEntry)
    assert first.statement_key_hash == hashlib.sha256(charger.record.statement_key).digest()
    assert first.certificate_hash == hashlib.sha256(charger.certificate).digest()
    assert [(entry.device, entry.operator, entry.status) for entry in entries if isinstance(entry, DeviceEntry)] == [
        ("chg-1", "city", "active"),
        ("chg-1", "city", "suspended"),
        ("toll-1", "city", "active"),
    ]

    # Another tariff is no other device: nothing is said. Active again is said.
    await back_office.registry.PutTariff(registry_pb2.PutTariffRequest(tariff=tariff(2)))
    await back_office.registry.PutDevice(
        registry_pb2.PutDeviceRequest(device=device(parties, "toll-1", tariff_version=2))
    )
    await back_office.registry.SetDeviceStatus(
        registry_pb2.SetDeviceStatusRequest(
            device_id="chg-1", status=directive_pb2.DEVICE_STATUS_ACTIVE, reason="quiet"
        )
    )
    while await changes.take():
        pass
    more = (await said(log))[3:]
    assert [(entry.device, entry.status) for entry in more if isinstance(entry, DeviceEntry)] == [("chg-1", "active")]


async def test_a_device_slipped_into_the_database_is_published_all_the_same(
    back_office: BackOffice, following: tuple[Sequencer, DeviceChanges], parties: Path
) -> None:
    log, changes = following
    await register_all(back_office, parties)
    slipped = device(parties, "toll-1")
    async with await psycopg.AsyncConnection.connect(back_office.url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO registry.device (device_id, operator_id, status, content) VALUES ('toll-1', 'city', 1, %s)",
            (slipped.SerializeToString(),),
        )
    while await changes.take():
        pass
    assert [entry.device for entry in await said(log) if isinstance(entry, DeviceEntry)] == ["chg-1", "toll-1"]


async def test_devices_wait_too_when_the_ledger_was_restored(
    back_office: BackOffice, following: tuple[Sequencer, DeviceChanges], parties: Path
) -> None:
    log, changes = following
    await register_all(back_office, parties)
    await changes.take()
    back_office.ledger.epoch = 2
    await back_office.registry.PutDevice(registry_pb2.PutDeviceRequest(device=device(parties, "toll-1")))
    with pytest.raises(Contradiction):
        await changes.take()
    assert len(await said(log)) == 1
    await log.reconcile(None)
    await changes.take()
    assert len(await said(log)) == 2


def test_a_logs_name_is_the_keys_or_the_operators(parties: Path) -> None:
    spki = (parties / "cloud/public/log.der").read_bytes()
    named_by_us = log_key(spki, origin="example.com/city", log="devices")
    assert named_by_us.name == "example.com/city/devices"
    by_key = log_key(spki, origin="", log="devices")
    assert by_key.name == f"farthing-{hashlib.sha256(spki).hexdigest()[:16]}/devices"
    assert by_key.public == named_by_us.public
