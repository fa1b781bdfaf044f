"""The writer: answers after the commit, repeats after a restart, batches signed once they are durable."""

import asyncio
import io
import threading

import pytest
from edge_playbook import FailingConnection, M, Meter, Policy, clock, until
from engine_site import Here, Site, said

from farthing.device import cose
from farthing.device.messages import AnswerStatus, decode_grant
from farthing.evidence import merkle, parcel
from farthing.evidence.batches import BATCH_RECIPIENT, batch_hash, decompress_leaves
from farthing.hsm import HsmError
from farthing.ids import GatewayId
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands
from farthing_edge.engine import EngineError, batches
from farthing_edge.engine.parcels import export_batches
from farthing_edge.journal import Group, JournalBroken, JournalBusy, JournalFull, JournalRejected, verify


async def test_a_grant_is_signed_and_names_a_durable_position(bench) -> None:
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        answer = await engine.submit(said(Meter("c1", 100).intent(Here()), "card"))
        assert answer.status is AnswerStatus.GRANTED
        signed = cose.decode_sign1(answer.grant)
        assert signed.kid == bench.grant_signer.kid
        assert bench.grant_signer.key.verify("grant", "c1", signed.payload, signed.signature)
        grant = decode_grant(signed.payload)
        assert grant.witness.position <= answer.witness.position == bench.journal.position
        assert grant.witness.start_id == engine.view.start_id


async def test_answers_of_one_group_share_the_newest_grant_of_their_authorization(bench) -> None:
    meter, other = Meter("c1", 0), Meter("x1", 7, tariff="toll-1")
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        first = await engine.submit(said(meter.intent(Here()), "card"))
        meter.authorization = decode_grant(cose.decode_sign1(first.grant).payload).authorization
        signed: list[bytes] = []
        sign_many = bench.grant_signer.sign_many

        async def counted(to_be_signed):
            signed.extend(to_be_signed)
            return await sign_many(to_be_signed)

        bench.grant_signer.sign_many = counted
        *readings, passage = await asyncio.gather(
            *(engine.submit(said(meter.reading(Here(), value))) for value in (100, 200, 300)),
            engine.submit(said(other.intent(Here(), one_shot=1), "card")),
        )
        assert len(signed) == 2
        assert [answer.status for answer in readings] == 3 * [AnswerStatus.RECORDED]
        assert len({answer.grant for answer in readings}) == 1
        newest = cose.decode_sign1(readings[0].grant)
        assert bench.grant_signer.key.verify("grant", "c1", newest.payload, newest.signature)
        # It says what all three have made of the session: the position is the last one's.
        alone = cose.decode_sign1((await engine.submit(said(meter.reading(Here(), 300)))).grant)
        positions = [decode_grant(each.payload).witness.position for each in (newest, alone)]
        assert positions == [bench.journal.position - 2, bench.journal.position]
        assert decode_grant(cose.decode_sign1(passage.grant).payload).authorization != meter.authorization


async def test_a_journal_that_may_have_forgotten_vouches_for_nothing(bench) -> None:
    """A device keeps the furthest witness: this one must not take the place of the one that proves it."""
    meter = Meter("c1", 100)
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        first = await engine.submit(said(meter.intent(Here()), "card"))
        meter.authorization = decode_grant(cose.decode_sign1(first.grant).payload).authorization
        waits = gateway_sync_pb2.HelloResponse(incarnation=1, standing=gateway_sync_pb2.HELLO_STANDING_WAITS)
        await engine.submit(commands.Connected(hello=waits))
        answer = await engine.submit(said(meter.reading(Here(), 200)))
        assert answer.status is AnswerStatus.RECORDED
        assert (answer.witness.start_id, answer.witness.position) == (first.witness.start_id, 0)
        assert answer.receipted_counter == 0


async def test_who_was_not_heard_hears_nothing_of_how_far_the_journal_is(bench) -> None:
    """What its device has seen was not held against the journal: it must go on showing it."""
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        first = await engine.submit(said(Meter("c1", 100).intent(Here()), "card"))
        assert first.witness.position > 0
        unknown = await engine.submit(said(Meter("nobody", 100).intent(Here()), "card"))
        assert unknown.refusal is Refusal.DEVICE_UNKNOWN
        overloaded = engine.answer_refusal(answers=(1, 2), refusal=Refusal.OVERLOADED)
        for answer in (unknown, overloaded):
            assert (answer.witness.incarnation, answer.witness.start_id) == (1, first.witness.start_id)
            assert (answer.witness.position, answer.receipted_counter) == (0, 0)


async def test_a_session_survives_a_restart_and_repeats_are_answered_alike(bench) -> None:
    meter = Meter("c1", 1_000)
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        intent = said(meter.intent(Here()), "card")
        first = await engine.submit(intent)
        meter.authorization = decode_grant(cose.decode_sign1(first.grant).payload).authorization
        reading = said(meter.reading(Here(), 2_000))
        told = await engine.submit(reading)
        assert told.status is AnswerStatus.RECORDED
    async with bench.running() as engine:
        again = await engine.submit(reading)
        assert (again.status, again.closed) == (AnswerStatus.RECORDED, False)
        assert cose.decode_sign1(again.grant).payload == cose.decode_sign1(told.grant).payload
        assert (await engine.submit(intent)).status is AnswerStatus.GRANTED
        end = said(meter.end(Here(), 3_000))
        ended = await engine.submit(end)
        assert (ended.status, ended.closed, ended.grant) == (AnswerStatus.RECORDED, True, None)
        assert engine.view.counts()["unsealed_records"] == 2
        assert engine.view.counts()["quota_held_micros"] == 0
    report = verify(bench.path, bench.settings)
    assert report.fault is None
    assert report.billed_micros == report.unsealed_micros == (500_000 + 2_000 * 250) * 12 // 10


async def test_a_batch_waits_until_nobody_does_and_no_longer_than_twice_what_makes_it_due(bench) -> None:
    meter = Meter("c1", 0)
    async with bench.running() as engine:
        site = Site(engine)
        await site.open(quota=90 * M)
        await site.told(seal=directive_pb2.SealPolicy(amount_micros=1_000 * M, records=4, age_s=3_600))
        first = await engine.submit(said(meter.intent(Here()), "card"))
        meter.authorization = decode_grant(cose.decode_sign1(first.grant).payload).authorization

        async def read_together(values: range) -> int:
            """How far the journal was when they were answered."""
            answers = await asyncio.gather(*(engine.submit(said(meter.reading(Here(), value))) for value in values))
            (answered,) = {answer.witness.position for answer in answers}
            return answered

        # Due, and sealed after the answers, by an entry of its own behind them.
        answered = await read_together(range(100, 600, 100))
        await engine.batches.wait_for(0)
        # More than twice of it: who comes then waits for the batch too, or there would be no end to it.
        with_batch = await read_together(range(600, 1_500, 100))
        await engine.batches.wait_for(1)
        one, two = (batch_pb2.Batch.FromString(row.batch) for row in engine.record.batches_to_send(0))
        assert (one.leaf_count, one.last_position) == (5, answered)
        assert (two.leaf_count, two.last_position) == (9, with_batch - 1)
        # Its leaves are handed on as they were sealed, and said again by the journal to who asks again.
        for batch in (one, two):
            kept, rebuilt = [await engine.detail(batch.sequence) for _ in range(2)]
            assert kept == rebuilt
            assert merkle.root(kept) == batch.merkle_root


async def test_leaves_are_drafted_while_a_commit_runs(bench) -> None:
    meter = Meter("c1", 0)
    release = threading.Event()
    async with bench.running() as engine:
        site = Site(engine)
        await site.open(quota=90 * M)
        await site.told(seal=directive_pb2.SealPolicy(amount_micros=1_000 * M, records=1_000, age_s=3_600))
        first = await engine.submit(said(meter.intent(Here()), "card"))
        meter.authorization = decode_grant(cose.decode_sign1(first.grant).payload).authorization
        commit = bench.journal.commit

        def held(group: Group) -> None:
            release.wait(20)
            commit(group)

        bench.journal.commit = held
        answers = asyncio.gather(
            *(engine.submit(said(meter.reading(Here(), value))) for value in range(100, 1_300, 100))
        )
        await until(lambda: engine._drafts.waiting(engine._state) == 0 < len(engine._state.unsealed))
        assert not answers.done()
        assert all(engine._drafts.of(record) for record in engine._state.unsealed)
        release.set()
        assert {answer.status for answer in await answers} == {AnswerStatus.RECORDED}


async def test_batches_are_sealed_signed_chained_and_rebuilt_from_the_journal(bench) -> None:
    meter = Meter("c1", 0)
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M, seal_age_s=0)
        granted = await engine.submit(said(meter.intent(Here()), "card"))
        meter.authorization = decode_grant(cose.decode_sign1(granted.grant).payload).authorization
        await engine.submit(said(meter.reading(Here(), 500)))
        await engine.batches.wait_for(0)
        await engine.submit(said(Meter("x1", 7, tariff="toll-1").intent(Here(), one_shot=1), "card"))
        await engine.submit(said(meter.end(Here(), 900)))
        await until(
            lambda: (
                not engine.view.counts()["unsealed_records"]
                and engine.view.sealed_sequence == len(engine.record.batches_to_send(0))
            )
        )
        rows = engine.record.batches_to_send(0)
        details = {row.sequence: await engine.detail(row.sequence) for row in rows}
        carried = io.BytesIO()
        assert export_batches(bench.path, GatewayId("G1"), carried, everything=False) == (len(rows), 0)
        owner, batches = parcel.read(io.BytesIO(carried.getvalue()))
        assert owner == "G1"
        assert [
            (each.sequence, each.batch, each.signature, each.key_id, decompress_leaves(each.detail)) for each in batches
        ] == [(row.sequence, row.batch, row.signature, row.key_id, details[row.sequence]) for row in rows]
        previous = bytes(32)
        finals = {}
        for row in rows:
            assert bench.batch_signer.key.verify("batch", BATCH_RECIPIENT, row.batch, row.signature)
            batch = batch_pb2.Batch.FromString(row.batch)
            assert batch.previous_hash == previous
            previous = batch_hash(row.batch)
            leaves = await engine.detail(row.sequence)
            assert merkle.root(leaves) == batch.merkle_root
            assert len(leaves) == batch.leaf_count == sum(line.leaf_count for line in batch.lines)
            finals |= {claim.authorization_id: claim.final for claim in batch.claims}
        assert all(finals.values())
        assert len(finals) == 2
        # A receipt moves the high-water mark, and what devices are told of it.
        last = rows[-1]
        receipt = batch_pb2.Receipt(
            gateway_id="G1", incarnation=1, sequence=last.sequence, batch_hash=batch_hash(last.batch)
        )
        await engine.submit(commands.ReceiptArrived(receipt=receipt, raw=receipt.SerializeToString()))
        assert engine.view.receipted_sequence == last.sequence
        for everything, left in ((False, 0), (True, len(rows))):
            assert export_batches(bench.path, GatewayId("G1"), io.BytesIO(), everything=everything) == (left, 0)
        # Another end of what is over says nothing new, and is receipted with what is.
        late = await engine.submit(said(meter.end(Here(), 900)))
        assert (late.closed, late.receipted_counter) == (True, meter.counter)


async def test_after_a_new_incarnation_what_has_no_receipt_is_sealed_again_and_its_detail_is_the_same(bench) -> None:
    meter = Meter("c1", 0)
    async with bench.running() as engine:
        site = Site(engine)
        await site.open(quota=10 * M, seal_age_s=0)
        granted = await engine.submit(said(meter.intent(Here()), "card"))
        meter.authorization = decode_grant(cose.decode_sign1(granted.grant).payload).authorization
        for value in (300, 600):
            await engine.submit(said(meter.reading(Here(), value)))
            await until(lambda: engine.view.counts()["unsealed_records"] == 0)
        await until(lambda: len(engine.record.batches_to_send(0)) == engine.view.sealed_sequence)
        old = [batch_pb2.Batch.FromString(row.batch) for row in engine.record.batches_to_send(0)]
        leaves = [await engine.detail(batch.sequence) for batch in old]
        # The token is away while the new chain begins, and the process ends in the middle.
        bench.batch_signer.fail = HsmError("the token is away")
        await site.told(
            welcome=directive_pb2.Welcome(
                operator_id="op", site_id="S1", incarnation=2, receipt_keys=[b"k"], time_zone="Europe/Berlin"
            )
        )
        await engine.submit(said(meter.end(Here(), 900)))
        await until(lambda: engine.view.sealed_sequence == len(old) + 1)
        assert engine.record.batches_to_send(0) == []
    bench.batch_signer.fail = None
    async with bench.running() as engine:
        await until(lambda: len(engine.record.batches_to_send(0)) == len(old) + 1)
        await engine.batches.wait_for(len(old))
        new = [batch_pb2.Batch.FromString(row.batch) for row in engine.record.batches_to_send(0)]
        assert [(batch.incarnation, batch.sequence) for batch in new] == [(2, n + 1) for n in range(len(old) + 1)]
        assert [batch.merkle_root for batch in new[:-1]] == [batch.merkle_root for batch in old]
        assert [await engine.detail(batch.sequence) for batch in new[:-1]] == leaves
        # What the earlier chain owes is still there too.
        assert [await engine.detail(batch.sequence, 1) for batch in old] == leaves
        assert new[-1].claims[0].final
    assert verify(bench.path, bench.settings).fault is None


async def test_an_answer_asks_after_what_has_been_silent(bench) -> None:
    meter = Meter("c1", 0)
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        granted = await engine.submit(said(meter.intent(Here()), "card"))
        name = decode_grant(cose.decode_sign1(granted.grant).payload).authorization
        busy = await engine.submit(said(meter.intent(Here()), "card"))
        assert (busy.refusal, busy.asks) == (Refusal.REGISTER_BUSY, (name,))


async def test_same_bytes_are_signed_after_a_crash_between_seal_and_signature(bench) -> None:
    bench.batch_signer.fail = HsmError("the token is away")
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M, seal_age_s=0)
        await engine.submit(said(Meter("x1", 7, tariff="toll-1").intent(Here(), one_shot=1), "card"))
        await until(lambda: engine.view.sealed_sequence > 0)
        assert engine.record.batches_to_send(0) == []
    bench.batch_signer.fail = None
    async with bench.running() as engine:
        await engine.batches.wait_for(0)
        (row,) = engine.record.batches_to_send(0)
        assert bench.batch_signer.key.verify("batch", BATCH_RECIPIENT, row.batch, row.signature)


async def test_a_batch_s_signature_is_kept_with_the_next_group(bench) -> None:
    bench.batch_signer.gate = asyncio.Event()
    meter = Meter("c1", 0)
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M, seal_age_s=0)
        await engine.submit(said(Meter("x1", 7, tariff="toll-1").intent(Here(), one_shot=1), "card"))
        await until(lambda: engine.view.sealed_sequence == 1)
        commit, groups = bench.journal.commit, []

        def counted(group: Group) -> None:
            groups.append((bool(group.entries), len(group.signatures)))
            commit(group)

        bench.journal.commit = counted
        bench.batch_signer.gate.set()
        granted = await engine.submit(said(meter.intent(Here()), "card"))
        await engine.batches.wait_for(0)
        assert groups == [(True, 1)]
        # Where nobody asks it goes alone.
        meter.authorization = decode_grant(cose.decode_sign1(granted.grant).payload).authorization
        await engine.submit(said(meter.end(Here(), 900)))
        await engine.batches.wait_for(1)
        assert groups[-1] == (False, 1)


@pytest.mark.parametrize("fault", [JournalRejected("not this one"), JournalFull("not now")])
async def test_a_batch_s_signature_that_could_not_be_kept_is_made_again(bench, monkeypatch, fault) -> None:
    monkeypatch.setattr(batches, "_SIGN_AGAIN_AT_MOST_S", 0.01)
    passage = Meter("x1", 7, tariff="toll-1")
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M, seal_age_s=0)
        commit, faults = bench.journal.commit, [fault]

        def once(group: Group) -> None:
            if group.signatures and faults:
                raise faults.pop()
            commit(group)

        bench.journal.commit = once
        await engine.submit(said(passage.intent(Here(), one_shot=1), "card"))
        await engine.batches.wait_for(0)
        assert not faults
        (row,) = engine.record.batches_to_send(0)
        assert bench.batch_signer.key.verify("batch", BATCH_RECIPIENT, row.batch, row.signature)


async def test_an_intent_waits_for_a_quota_while_the_cloud_can_be_asked(bench) -> None:
    bench.limits = type(bench.limits)(quota_wait_ms=20_000, tick_ms=20)
    async with bench.running() as engine:
        site = Site(engine)
        await site.open()
        await engine.submit(commands.UplinkChanged(online=True))
        waiting = asyncio.create_task(engine.submit(said(Meter("c1", 0).intent(Here()), "card")))
        await engine.wait_for_quota_request(0)
        (request,) = engine.outstanding_quota_requests()
        assert (request.account_id, request.wanted_micros) == ("P", 1_920_000)
        assert not waiting.done()
        await site.told(quota_granted=Policy.quota("q1", "P", 5 * M, clock("20:00"), request_counter=request.counter))
        assert (await waiting).status is AnswerStatus.GRANTED
        assert engine.outstanding_quota_requests() == []


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (gateway_sync_pb2.QUOTA_ANSWER_GRANTED, None),
        (gateway_sync_pb2.QUOTA_ANSWER_NOTHING_AVAILABLE, None),
        (gateway_sync_pb2.QUOTA_ANSWER_ACCOUNT_SUSPENDED, Refusal.ACCOUNT_SUSPENDED),
    ],
)
async def test_a_checked_intent_waits_once_for_the_cloud_s_word(bench, answer: int, refusal: Refusal | None) -> None:
    bench.limits = type(bench.limits)(quota_wait_ms=20_000, tick_ms=20)
    async with bench.running() as engine:
        site = Site(engine)
        await site.open(quota=50 * M)
        await site.told(online_check=directive_pb2.OnlineCheck(share_ppm=1_000_000))
        await engine.submit(commands.UplinkChanged(online=True))
        waiting = asyncio.create_task(engine.submit(said(Meter("c1", 0).intent(Here()), "card")))
        await engine.wait_for_quota_request(0)
        (request,) = engine.outstanding_quota_requests()
        assert not waiting.done()
        if refusal is None and answer == gateway_sync_pb2.QUOTA_ANSWER_GRANTED:
            quota = Policy.quota("q2", "P", 5 * M, clock("20:00"), request_counter=request.counter)
            await site.told(quota_granted=quota)
        else:
            await engine.submit(commands.QuotaAnswered(counter=request.counter, answer=answer))
        assert (await waiting).refusal is refusal


async def test_the_wait_for_a_quota_is_bounded_and_a_no_ends_it(bench) -> None:
    async with bench.running() as engine:
        await Site(engine).open()
        await engine.submit(commands.UplinkChanged(online=True))
        meter = Meter("c1", 0)
        first = await engine.submit(said(meter.intent(Here()), "card"))
        assert first.refusal is Refusal.NO_QUOTA
        second = asyncio.create_task(engine.submit(said(meter.intent(Here()), "card")))
        await engine.submit(commands.QuotaAnswered(counter=1, answer=gateway_sync_pb2.QUOTA_ANSWER_NOTHING_AVAILABLE))
        assert (await second).refusal is Refusal.NO_QUOTA


async def test_a_full_queue_answers_later(bench) -> None:
    bench.limits = type(bench.limits)(queue=1)
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        meter = Meter("c1", 0)
        answers = await asyncio.gather(*(engine.submit(said(meter.intent(Here()), "card")) for _ in range(5)))
        later = [answer for answer in answers if answer.status is AnswerStatus.LATER]
        assert later
        assert {answer.refusal for answer in later} == {Refusal.OVERLOADED}
        assert all(answer.retry_after_ms for answer in later)


async def test_a_poison_command_is_parked_and_its_group_goes_on(bench, monkeypatch) -> None:
    from farthing_edge.authorization import applying, events

    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        granted = applying._APPLY[events.Granted]

        def poisoned(state, event) -> None:
            if event.device == "c1":
                raise KeyError("a bug")
            granted(state, event)

        monkeypatch.setitem(applying._APPLY, events.Granted, poisoned)
        answers = await asyncio.gather(
            engine.submit(said(Meter("c1", 0).intent(Here()), "card")),
            engine.submit(said(Meter("x1", 7, tariff="toll-1").intent(Here(), one_shot=1), "card")),
        )
        assert [answer.status for answer in answers] == [AnswerStatus.LATER, AnswerStatus.GRANTED]
        assert engine.poisoned == 1
        monkeypatch.setitem(applying._APPLY, events.Granted, granted)
        assert (
            await engine.submit(said(Meter("c1", 0, counter=1).intent(Here()), "card"))
        ).status is AnswerStatus.GRANTED


async def test_a_commit_that_fails_for_io_is_the_last_thing(bench) -> None:
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)

        def broken(group) -> None:
            raise JournalBroken("disk I/O error")

        bench.journal.commit = broken
        with pytest.raises(EngineError):
            await engine.submit(said(Meter("c1", 0).intent(Here()), "card"))
        with pytest.raises(EngineError):
            await engine.submit(said(Meter("x1", 0).intent(Here()), "card"))


@pytest.mark.parametrize("fault_in", ["_time_itself", "_after_commit"])
async def test_a_fault_that_ends_the_engine_leaves_nobody_waiting(bench, monkeypatch, fault_in) -> None:
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)

        def faulty(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(engine, fault_in, faulty)
        async with asyncio.timeout(20):
            with pytest.raises(EngineError):
                await engine.submit(said(Meter("c1", 0).intent(Here()), "card"))


async def test_a_second_daemon_is_refused(bench) -> None:
    async with bench.running():
        with pytest.raises(JournalBusy, match="another farthing-edge"):
            async with bench.running():
                raise AssertionError("two writers")


async def test_a_full_disk_stops_new_uses_and_goes_on_metering(bench) -> None:
    bench.keep_ballast = True
    meter, other = Meter("c1", 0), Meter("x1", 7, tariff="toll-1")
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        granted = await engine.submit(said(meter.intent(Here()), "card"))
        meter.authorization = decode_grant(cose.decode_sign1(granted.grant).payload).authorization
        real = bench.journal._connection
        bench.journal.try_to_reserve = lambda: False
        # The first full disk is met with the reserve: what was asked then is still written.
        bench.journal._connection = FailingConnection(real, 13)
        assert (await engine.submit(said(meter.reading(Here(), 500)))).status is AnswerStatus.RECORDED
        refused = await engine.submit(said(other.intent(Here(), one_shot=1), "card"))
        assert (refused.status, refused.refusal) == (AnswerStatus.LATER, Refusal.STORAGE_FULL)
        assert (await engine.submit(said(meter.reading(Here(), 600)))).status is AnswerStatus.RECORDED
        # With the reserve gone too, nothing is said that was not written, and nothing is lost: the device asks again.
        bench.journal._connection = FailingConnection(real, 13)
        end = said(meter.end(Here(), 900))
        assert (await engine.submit(end)).refusal is Refusal.STORAGE_FULL
        bench.journal._connection = real
        assert (await engine.submit(end)).closed
        del bench.journal.try_to_reserve
        await until(lambda: bench.journal.has_reserve)
        other.counter = 0
        await until(lambda: not engine._storage_full)
        assert (await engine.submit(said(other.intent(Here(), one_shot=1), "card"))).status is AnswerStatus.GRANTED
    report = verify(bench.path, bench.settings)
    assert report.fault is None
    assert report.billed_micros == (500_000 + 900 * 250) * 12 // 10 + 1_200_000


async def test_after_a_failed_fsync_the_next_start_copies_first(bench) -> None:
    meter = Meter("c1", 0)
    intent = said(meter.intent(Here()), "card")
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        bench.journal._connection = FailingConnection(bench.journal._connection, 10)
        with pytest.raises(EngineError):
            await engine.submit(intent)
    assert list(bench.marks.iterdir())
    async with bench.running() as engine:
        assert bench.journal.moved_aside is not None
        assert not list(bench.marks.iterdir())
        assert (await engine.submit(intent)).status is AnswerStatus.GRANTED
