"""What the engine shows of its journal to a ledger that was restored, and what stays as it was."""

import asyncio

from edge_playbook import M, Meter
from engine_site import Here, Site, said

from farthing.evidence.batches import batch_hash
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization import commands


async def test_the_journal_shows_what_the_cloud_signed_after_a_restart_too(bench) -> None:
    async with bench.running() as engine:
        site = Site(engine)
        await site.open(quota=10 * M)
        for records in range(1, 21):
            await site.told(seal=directive_pb2.SealPolicy(records=records, age_s=3_600))
        last = engine.view.directive_version
    async with bench.running() as engine:
        links = engine.record.directive_links()
        # The newest, then at distances that double, and the first.
        assert [version for version, _ in links] == [last, last - 1, last - 3, last - 7, last - 15, 1]
        shown = engine.record.directives(last - 3, 2)
        assert [row.version for row in shown] == [last - 2, last - 1]
        told = dict(links)
        assert batch_hash(shown[1].raw) == told[last - 1]
        assert batch_hash(engine.record.directives(last - 1)[0].raw) == engine.view.directive_hash == told[last]
        assert engine.record.directives(last) == []


async def test_a_new_epoch_changes_no_money_and_a_receipt_is_kept_as_it_was_signed(bench) -> None:
    async with bench.running() as engine:
        site = Site(engine)
        await site.open(quota=10 * M, seal_age_s=0)
        await engine.submit(said(Meter("x1", 7).intent(Here(), one_shot=1), "card"))
        await asyncio.wait_for(engine.batches.wait_for(0), 30)
        (batch,) = engine.record.batches_to_send(0)
        receipt = batch_pb2.Receipt(
            ledger_epoch=1, gateway_id="G1", incarnation=1, sequence=1, batch_hash=batch_hash(batch.batch)
        )
        raw = receipt.SerializeToString()
        await engine.submit(commands.ReceiptArrived(receipt=receipt, raw=raw, signature=b"s", key_id=b"k"))
        before = engine.view.counts()
        assert engine.view.ledger_epoch == 1
        await site.told(ledger_restored=directive_pb2.LedgerRestored(ledger_epoch=2, directives=3, last_version=9))
        assert engine.view.ledger_epoch == 2
        assert engine.view.counts() == before
    async with bench.running() as engine:
        assert engine.view.last_receipt == (raw, b"s", b"k")
        assert engine.view.ledger_epoch == 2
        # Receipted, and still there to be sent again, with the signature that it had.
        assert engine.record.batches_to_send(0) == [batch]
        assert engine.record.batches_to_send(0, incarnation=1) == [batch]
        assert engine.record.earlier_incarnations() == []
        # A second receipt, in another epoch, is nobody's: the batch is receipted.
        again = batch_pb2.Receipt(
            ledger_epoch=2, gateway_id="G1", incarnation=1, sequence=1, batch_hash=batch_hash(batch.batch)
        )
        position = engine.view.position
        await engine.submit(commands.ReceiptArrived(receipt=again, raw=again.SerializeToString()))
        assert engine.view.position == position
