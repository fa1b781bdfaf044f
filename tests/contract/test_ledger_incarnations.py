"""A gateway's journal is lost, rolled back, found again or told twice: the same in memory and in PostgreSQL."""

from dataclasses import replace

import pytest
from ledger_story import CHG, EUR, NOW, OP, TERMS, Story, grants, micros, seal_all

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.incarnations import Standing, UnknownIncarnation
from farthing_cloud.ledger.core.quotas import QuotaRequest
from farthing_cloud.ledger.core.rows import DecisionKind, GatewayCaseKind
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import Cursor, LedgerStore
from farthing_cloud.ledger.store.memory import MemoryStore

G1 = GatewayId("G1")
DIFFERS = gateway_sync_pb2.QUOTA_ANSWER_INCARNATION_DIFFERS
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def wish(*, counter: int, incarnation: int, wanted: str = "0.50") -> QuotaRequest:
    return QuotaRequest(
        operator_id=OP,
        gateway_id=G1,
        incarnation=incarnation,
        counter=counter,
        account_id=AccountId("P"),
        currency=EUR,
        wanted_micros=micros(wanted),
    )


async def said(ledger: Ledger, incarnation: int, start_id: bytes, position: int, **more: object) -> Standing:
    greeting = await ledger.hello(
        G1,
        incarnation=incarnation,
        start_id=start_id,
        position=position,
        now=NOW,
        **more,  # type: ignore[arg-type]  # names stand at the calls
    )
    assert bool(greeting.why) == (greeting.standing is Standing.WAITS)
    return greeting.standing


async def decided(story: Story, kind: DecisionKind = DecisionKind.INCARNATION, gateway: str = "G1") -> None:
    decision = await story.ledger.propose(kind, GatewayId(gateway), reason="a new disk", person="anna", now=NOW)
    assert await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)


async def open_cases(store: LedgerStore) -> list[tuple[int, GatewayCaseKind]]:
    return [(s.case.incarnation, s.case.kind) for s in await store.gateway_cases(OP, open_only=True)]


async def bodies(store: LedgerStore, gateway: str = "G1") -> list[directive_pb2.Directive]:
    return [directive_pb2.Directive.FromString(row.body) for row in await store.directives(GatewayId(gateway), 0, 100)]


async def test_a_first_hello_needs_nobody(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    assert await said(story.ledger, 0, bytes(16), 0) is Standing.BEGIN
    assert await said(story.ledger, 0, bytes(16), 0) is Standing.BEGIN
    assert await said(story.ledger, 1, A, 7, sealed_sequence=0) is Standing.AGREED
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert (gateway.witness_start_id, gateway.witness_position, gateway.adopted) == (A, 7, True)
    # A new start further on, and one that is late on its way.
    assert await said(story.ledger, 1, B, 9) is Standing.AGREED
    assert await said(story.ledger, 1, B, 8) is Standing.AGREED
    assert await open_cases(store) == []
    with pytest.raises(UnknownIncarnation):
        await said(story.ledger, 2, B, 9)


@pytest.mark.parametrize(
    ("hello", "more", "why"),
    [
        ((0, bytes(16), 0), {}, "no journal"),
        ((1, B, 3), {}, "position 3, and position 7"),
        ((1, B, 8), {"sealed_sequence": 0}, "last sealed batch is 0, and 1"),
        ((1, A, 8), {"suspects_rollback": True}, "went backwards"),
        ((1, A, 8), {"salvaged": True}, "salvaged"),
    ],
)
async def test_a_journal_that_is_not_the_one_the_ledger_knows_waits_for_people(
    hello: tuple[int, bytes, int], more: dict[str, object], why: str
) -> None:
    store = MemoryStore()
    story = Story(store)
    await grants(story)
    await story.push(seal_all(story)["G1#1"])
    # The batch showed position 1 of start 0; then a hello a later one.
    assert await said(story.ledger, 1, A, 7, sealed_sequence=1) is Standing.AGREED
    before = await store.balances(OP, "")
    assert await said(story.ledger, *hello, **more) is Standing.WAITS
    (stored,) = await store.gateway_cases(OP, open_only=True)
    assert (stored.case.kind, stored.case.incarnation) == (GatewayCaseKind.INCARNATION, 1)
    assert why in stored.case.detail
    # Said again it stays one case; the witness is kept, and nothing is granted.
    assert await said(story.ledger, *hello, **more) is Standing.WAITS
    assert len(await open_cases(store)) == 1
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert (gateway.witness_start_id, gateway.witness_position) == (A, 7)
    assert (await story.ledger.request_quota(wish(counter=90, incarnation=1), now=NOW)).quota_id == ""
    assert await store.balances(OP, "") == before
    assert len(await store.events(Cursor(), 10, ("gateway.case",))) == 1


async def test_the_journal_that_was_seen_comes_back(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    assert await said(story.ledger, 1, A, 7) is Standing.AGREED
    assert await said(story.ledger, 1, B, 3) is Standing.WAITS
    # The one that was behind grows: it is not believed for that.
    assert await said(story.ledger, 1, B, 30) is Standing.WAITS
    assert await said(story.ledger, 1, C, 30) is Standing.WAITS
    assert await said(story.ledger, 1, A, 8) is Standing.AGREED
    assert await open_cases(store) == []
    assert await said(story.ledger, 1, A, 9) is Standing.AGREED


async def test_a_new_incarnation_freezes_the_old_quotas_and_goes_on_from_its_claims(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    await story.push(sealed["G1#1"])
    late = sealed["G1#2"]
    assert await said(story.ledger, 1, A, 1) is Standing.AGREED
    assert await said(story.ledger, 0, bytes(16), 0) is Standing.WAITS
    held = (await store.exposures(OP))[0][1]
    await decided(story)
    assert await open_cases(store) == []
    welcome = (await bodies(store))[-1].welcome
    assert welcome.incarnation == 2
    # t1 and a1 have said no last word; what a1 has billed so far goes along.
    assert {(c.authorization_id.rstrip(b" \0"), c.net_micros, c.granted_by) for c in welcome.open_claims} == {
        (b"t1", 1_121_495, "G1"),
        (b"a1", 1_534_250, "G1"),
    }
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert (gateway.incarnation, gateway.adopted, gateway.witness_start_id, gateway.trusted) == (2, False, b"", True)
    # Nothing moved: what was held for the old one is held, counts against the exposure, and no longer against the account's number.
    assert (await store.exposures(OP))[0][1] == held
    assert await store.open_quotas(OP, "G1", "") == []
    assert (await story.ledger.request_quota(wish(counter=70, incarnation=1), now=NOW)).quota_id == ""
    # 10 of exposure, 6 granted, 2.8 … of it spent and proven by nobody but posted from its hold: the rest is held still.
    answer = await story.ledger.request_quota(wish(counter=1, incarnation=2, wanted="9"), now=NOW)
    assert answer.amount_micros == min(micros("10") - held, micros("10") - micros("9"))
    # Who has no journal may begin, once.
    assert await said(story.ledger, 2, B, 1) is Standing.AGREED
    assert await said(story.ledger, 0, C, 0) is Standing.WAITS
    # A batch of the old chain turns up, and posts; it closes its own quota.
    assert (await story.push(late)).step is ChainStep.NEXT
    assert (await store.verify()).fault == ""


@pytest.mark.parametrize("first", ["lost", "adopted"])
async def test_an_adopted_session_is_billed_once_whoever_reports_it_first(store: LedgerStore, first: str) -> None:
    story = Story(store)
    await grants(story)
    known = story.seal(
        "G1", [("a1", "c1", 100, 150, "1.00", "0.20", [(0, "1.00", "0.20")])], [("P", "q1", CHG, "10:00")]
    )
    lost = story.seal(
        "G1", [("a1", "c1", 100, 170, "1.40", "0.28", [(0, "0.40", "0.08")])], [("P", "q1", CHG, "10:15")]
    )
    await story.push(known)
    assert await said(story.ledger, 1, A, 1) is Standing.AGREED
    await decided(story)
    story.begins("G1")
    # It goes on from the welcome, up to the end, from the quota of the old incarnation.
    adopted = story.seal(
        "G1", [("a1", "c1", 100, 200, "2.00", "0.40", [(0, "1.00", "0.20")])], [("P", "q1", CHG, "10:30")]
    )
    for raw in (lost, adopted) if first == "lost" else (adopted, lost):
        assert (await story.push(raw)).step is ChainStep.NEXT
    assert (await story.push(lost)).step is ChainStep.REPLAY
    found = {path: b for path, _, b in await store.balances(OP, "")}
    assert found["payer/P"].debits_posted == micros("2.40")
    assert found["clearing/S1/w1"].credits_posted == micros("2.00")
    assert (await store.verify()).fault == ""


async def test_who_goes_on_over_a_lost_journal_may_split_net_and_tax_otherwise(store: LedgerStore) -> None:
    """The journal that is lost had heard a reading at the higher rate of tax: the next one never says as much tax, in any of its batches."""
    story = Story(store)
    await grants(story)
    known = story.seal(
        "G1", [("a1", "c1", 100, 150, "1.00", "0.20", [(0, "1.00", "0.20")])], [("P", "q1", CHG, "10:00")]
    )
    await story.push(known)
    assert await said(story.ledger, 1, A, 1) is Standing.AGREED
    await decided(story)
    story.begins("G1")
    for to, net, more in ((180, "1.30", "0.30"), (200, "1.50", "0.20")):
        further = story.seal("G1", [("a1", "c1", 100, to, net, "0.17", [(0, more, "0")])], [("P", "q1", CHG, "10:30")])
        assert (await story.push(further)).step is ChainStep.NEXT
    found = {path: b for path, _, b in await store.balances(OP, "")}
    assert found["payer/P"].debits_posted == micros("1.70")
    assert (await store.verify()).fault == ""


async def test_closings_count_only_in_the_chain_of_their_incarnation(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    assert await said(story.ledger, 1, A, 1) is Standing.AGREED
    closing = story.seal("G1", [], [], closed=("q1",))
    await decided(story)
    story.begins("G1")
    held = (await store.exposures(OP))[0][1]
    await story.push(story.seal("G1", [], [], closed=("q1",), stopped={"q3": "0.00"}))
    assert (await store.exposures(OP))[0][1] == held
    await story.push(closing)
    assert (await store.exposures(OP))[0][1] == held - micros("4.00")
    assert (await store.verify()).fault == ""


async def test_frozen_quotas_count_against_the_exposure_and_what_is_above_it_is_set_aside(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    assert await said(story.ledger, 1, A, 1) is Standing.AGREED
    await decided(story)
    story.begins("G1")
    # 10 of exposure, 6 frozen: 4 may be billed beyond holds, and the fifth waits for people.
    await story.push(
        story.seal(
            "G1", [("b1", "c9", 0, 50, "5.00", "0", [(0, "5.00", "0")])], [("P", "overrun", ("chg-3", 0), "10:00")]
        )
    )
    found = {path: b for path, _, b in await store.balances(OP, "")}
    assert found["suspense/S1"].debits_posted == micros("1.00")
    assert found["clearing/S1/w1"].credits_posted == micros("4.00")
    assert (await store.verify()).fault == ""


async def test_two_stories_end_authorizing_until_a_new_incarnation(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    await story.push(sealed["G1#1"])
    other = batch_pb2.Batch.FromString(sealed["G1#1"])
    other.sealed_at_us += 1
    for _ in range(2):
        assert (await story.push(other.SerializeToString(deterministic=True))).step is ChainStep.FORK
    assert await open_cases(store) == [(1, GatewayCaseKind.EQUIVOCATION)]
    stops = [body.authorizing_stopped for body in await bodies(store) if body.HasField("authorizing_stopped")]
    assert [(stop.incarnation, "batch 1" in stop.reason) for stop in stops] == [(1, True)]
    # Posting goes on.
    assert (await story.push(sealed["G1#2"])).step is ChainStep.NEXT
    assert (await story.ledger.request_quota(wish(counter=90, incarnation=1), now=NOW)).quota_id == ""
    await decided(story)
    assert await open_cases(store) == []
    assert (await story.ledger.request_quota(wish(counter=1, incarnation=2), now=NOW)).quota_id
    # The old journal authorizes no more: a second story of it is parked, and the new one goes on.
    story.sealed["G1"] = []
    again = batch_pb2.Batch.FromString(sealed["G1#2"])
    again.sealed_at_us += 2
    assert (await story.push(again.SerializeToString(deterministic=True))).step is ChainStep.FORK
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert gateway.trusted
    assert (await store.verify()).fault == ""


async def test_a_quota_request_with_other_content_shows_a_journal_that_went_back(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    await story.fund("P", "10.00", "pay-1")
    asked = await story.ledger.request_quota(wish(counter=90, incarnation=1), now=NOW)
    assert asked.quota_id
    before = await store.balances(OP, "")
    other = replace(wish(counter=90, incarnation=1), account_id=AccountId("Q"))
    for request in (wish(counter=90, incarnation=1, wanted="0.51"), other):
        answer = await story.ledger.request_quota(request, now=NOW)
        assert (answer.answer, answer.quota_id, answer.amount_micros) == (DIFFERS, "", 0)
    # One case and one directive, however often it asks; what was answered stays answered, and nothing more is granted.
    assert await open_cases(store) == [(1, GatewayCaseKind.EQUIVOCATION)]
    stops = [body.authorizing_stopped for body in await bodies(store) if body.HasField("authorizing_stopped")]
    assert [(stop.incarnation, "quota request 90" in stop.reason) for stop in stops] == [(1, True)]
    assert await story.ledger.request_quota(wish(counter=90, incarnation=1), now=NOW) == asked
    assert not (await story.ledger.request_quota(wish(counter=91, incarnation=1), now=NOW)).quota_id
    assert await store.balances(OP, "") == before
    assert len(await store.events(Cursor(), 10, ("gateway.case",))) == 1
    # A new incarnation ends it, and what the old journal asked is no story of the new one.
    assert (await story.ledger.request_quota(wish(counter=1, incarnation=2), now=NOW)).answer == DIFFERS
    await decided(story)
    assert await open_cases(store) == []
    assert (await story.ledger.request_quota(other, now=NOW)).answer == DIFFERS
    assert (await story.ledger.request_quota(wish(counter=1, incarnation=2, wanted="0.30"), now=NOW)).quota_id
    assert await open_cases(store) == []
    assert (await store.verify()).fault == ""


# --- two persons ------------------------------------------------------------------------------------------------------


async def test_maker_and_checker_are_two_persons_who_saw_the_same(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    ledger = story.ledger
    kind = DecisionKind.INCARNATION
    decision = await ledger.propose(kind, G1, reason="a new disk", person="anna", now=NOW)
    assert await store.decisions(OP) == [decision]
    name, seen = decision.decision_id, decision.content_hash

    async def refused(person: str, content_hash: bytes, decision_id: str = name) -> str:
        with pytest.raises(LedgerRefusal) as caught:
            await ledger.approve(decision_id, content_hash=content_hash, person=person, now=NOW)
        return str(caught.value)

    assert "another person" in await refused("anna", seen)
    assert "not this one" in await refused("ben", bytes(32))
    with pytest.raises(UnknownName):
        await ledger.approve("d-none", content_hash=seen, person="ben", now=NOW)
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert gateway.incarnation == 1
    assert await ledger.propose(kind, G1, reason="a new disk", person="anna", now=NOW) == decision
    other = await ledger.propose(kind, G1, reason="another word for it", person="anna", now=NOW)
    assert await ledger.approve(name, content_hash=seen, person="ben", now=Instant(NOW + 1))
    assert not await ledger.approve(name, content_hash=seen, person="ben", now=NOW)
    assert "approved by ben" in await refused("carl", seen)
    # What was proposed of the first incarnation is not approved of the second.
    assert "is in 2" in await refused("carl", other.content_hash, other.decision_id)
    approved = (await store.decisions(OP))[0 if (await store.decisions(OP))[0].decision_id == name else 1]
    assert approved == replace(decision, approved_by="ben", approved_at=Instant(NOW + 1))
    assert (await store.verify()).fault == ""


# --- silence ----------------------------------------------------------------------------------------------------------

HOUR = 3600 * 1_000_000
LIFE, OUTAGE = 6 * HOUR, 72 * HOUR


async def silent_story(store: LedgerStore) -> Story:
    story = Story(store)
    terms = replace(TERMS, lifetime_us=LIFE, outage_us=OUTAGE)
    story.ledger = Ledger(store, terms=terms, receipt_keys=())
    await grants(story)
    return story


async def listened(story: Story, start: int, end: int) -> int:
    """The ledger looks around every four hours of business time."""
    return sum([await story.ledger.end_silent(now=Instant(at)) for at in range(start, end + 1, 4 * HOUR)])


async def held(store: LedgerStore) -> list[int]:
    return [open_micros for _, open_micros in await store.exposures(OP)]


async def test_silence_ends_what_is_held_but_not_before_a_gateway_should_have_reported(store: LedgerStore) -> None:
    story = await silent_story(store)
    # Granted at 0: to be spent for six hours, to be reported for 72 more.
    assert await listened(story, 0, LIFE + OUTAGE) == 0
    assert await held(store) == [micros("6.00"), micros("3.00")]
    # G2 was heard an hour ago, and says that it has a batch which has not arrived.
    late = LIFE + OUTAGE + HOUR
    await story.ledger.hello(
        GatewayId("G2"), incarnation=1, start_id=A, position=1, sealed_sequence=1, now=Instant(late)
    )
    assert await listened(story, late, late) == 2
    assert await held(store) == [0, micros("3.00")]
    voids = [t for t in await store.transfers(OP) if t.cause == "silence"]
    assert sorted((t.kind, t.amount_micros) for t in voids) == [("void", micros("2.00")), ("void", micros("4.00"))]
    # The batch arrives: it spends, and says what is in use; so the hold outlives.
    sealed = seal_all(story)
    await story.push_at(sealed["G2#1"], late)
    stopped = story.sealed["G2"]
    assert len(stopped) == 3
    await story.push_at(sealed["G2#2"], late)
    assert await listened(story, late + 4 * HOUR, late + 68 * HOUR) == 0
    assert (await held(store))[1] == micros("0.078")
    # Then it is silent for longer than any planned outage.
    assert await listened(story, late + 72 * HOUR, late + 76 * HOUR) == 1
    assert await held(store) == [0, 0]
    # What turns up after that goes down the waterfall, and is counted.
    await story.push_at(sealed["G1#1"], late + 80 * HOUR)
    gateway = await store.gateway(G1)
    assert gateway is not None
    # (The toll of it was billed by G2 before, and is set aside.)
    assert gateway.late_micros == micros("3.0411") - micros("1.20")
    assert (await store.verify()).fault == ""


async def test_a_ledger_that_did_not_listen_calls_nobody_silent(store: LedgerStore) -> None:
    story = await silent_story(store)
    assert await listened(story, 0, 12 * HOUR) == 0
    # It was down for a month, or its clock ran ahead by one: it listens anew.
    month = 30 * 24 * HOUR
    assert await listened(story, month, month + 68 * HOUR) == 0
    assert await held(store) == [micros("6.00"), micros("3.00")]
    # A clock that went back: it listens anew from there.
    assert await listened(story, month - 24 * HOUR, month + 44 * HOUR) == 0
    assert await listened(story, month + 48 * HOUR, month + 48 * HOUR) == 3
    assert await held(store) == [0, 0]
    assert (await store.verify()).fault == ""


async def test_silence_ends_a_bounded_number_at_once_and_frees_money_for_debts(store: LedgerStore) -> None:
    story = await silent_story(store)
    assert await listened(story, 0, LIFE + OUTAGE) == 0
    (found,) = await store.overdue_quotas(now=Instant(LIFE + OUTAGE + 1), outage_us=OUTAGE, limit=1)
    assert len(found[1]) == 1
    payer = {path: b for path, _, b in await store.balances(OP, "payer/P")}["payer/P"]
    assert payer.debits_pending == micros("9.00")
    assert await listened(story, LIFE + OUTAGE + 1, LIFE + OUTAGE + 1) == 3
    payer = {path: b for path, _, b in await store.balances(OP, "payer/P")}["payer/P"]
    assert payer.debits_pending == 0


async def test_who_is_heard_often_is_written_down_seldom(store: LedgerStore) -> None:
    story = Story(store)
    await story.open()
    heard = []
    for second in (40, 50, 69, 70, 10):
        await store.contact(G1, now=Instant(second * 1_000_000))
        gateway = await store.gateway(G1)
        assert gateway is not None
        heard.append(gateway.contact_at // 1_000_000)
    assert heard == [40, 40, 40, 70, 70]


async def test_a_forced_void_ends_every_hold_and_what_comes_later_is_late_and_counted(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    await story.push(sealed["G1#1"])
    before = len(await bodies(store))
    await decided(story, DecisionKind.FORCED_VOID)
    assert await held(store) == [0, micros("3.00")]
    assert {t.cause for t in (await store.transfers(OP))[-2:]} == {"forced"}
    # If it lives, it hears at once, for each quota it could still spend, that it may not.
    told = [body.quota_recalled.quota_id for body in (await bodies(store))[before:]]
    assert sorted(told) == sorted([story.quotas["q1"], story.quotas["q3"]])
    await story.push(sealed["G1#2"])
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert (gateway.late_micros, gateway.incarnation) == (micros("2.5242"), 1)
    rows = [t for t in await store.transfers(OP) if t.cause == "late"]
    assert sum(t.amount_micros for t in rows) == micros("2.5242")
    assert (await store.verify()).fault == ""


async def test_demand_sizes_the_next_quota(store: LedgerStore) -> None:
    story = Story(store)
    await grants(story)
    await story.fund("P", "100.00", "pay-9")
    sealed = seal_all(story)
    await story.push(sealed["G1#1"])
    # 3.0411 were spent there just now: that much comes back where less is asked for, and half of it after an hour.
    terms = replace(TERMS, most_open_per_account=10)
    ledger = Ledger(store, terms=terms, receipt_keys=())
    assert (await ledger.request_quota(wish(counter=50, incarnation=1), now=NOW)).amount_micros == micros("3.0411")
    later = Instant(NOW + HOUR)
    assert (await ledger.request_quota(wish(counter=51, incarnation=1), now=later)).amount_micros == 1_520_550
    answer = await ledger.request_quota(wish(counter=52, incarnation=1, wanted="2.00"), now=later)
    assert answer.amount_micros == micros("2.00")
    # Never above the share of what is available.
    share = Ledger(store, terms=replace(terms, share_ppm=1, smallest_micros=1), receipt_keys=())
    assert (await share.request_quota(wish(counter=53, incarnation=1), now=later)).amount_micros < 100
    assert (await store.verify()).fault == ""
