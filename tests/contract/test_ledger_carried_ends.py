"""An end that another gateway carries is billed once, from what the old gateway's quotas still hold; a hostile carrier gains nothing."""

from dataclasses import replace
from typing import Any

import pytest
from carried_bundle import device_certificate
from carried_session import AUTHORIZATION, DEVICE, END, GRANT, GRANTER, INTENT, OCPI, STRANGER, register, said
from evidence_bundles import BATCH, ROOT, sealed, spki
from ledger_story import CHG, EUR, NOW, OP, Story, grants, micros

from farthing.clock import Instant
from farthing.device import messages as m
from farthing.evidence.bundle import decode
from farthing.evidence.carried import authorization_of
from farthing.evidence.proof import BundleFault, prove
from farthing.ids import DeviceId, GatewayId, QuotaId, authorization_id
from farthing.v1 import batch_pb2, directive_pb2, movements_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger.bundles import Bundles
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.received import BatchError, receive
from farthing_cloud.ledger.core.rows import RegisterKey, Touch
from farthing_cloud.ledger.movements import Movements
from farthing_cloud.ledger.store.interface import Cursor, LedgerStore, Transaction
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import PostgresStore

G1, G2 = GatewayId("G1"), GatewayId("G2")
#: What the session costs in all: 0.50 and 4 kWh at 0.25, a fifth of tax.
NET, TAX = "1.50", "0.30"


async def opened(store: LedgerStore) -> Story:
    """G1 has granted a session from q1, and knows the device and its tariff."""
    story = Story(store)
    await grants(story)
    ledger = story.ledger
    await story.fund("P", "5.00", "pay-3")
    await granted_by(story, GRANTER.spki, now=NOW)
    tariff = directive_pb2.TariffRecord(tariff_id="chg-3", version=1, currency=EUR, ocpi_json=OCPI)
    device = directive_pb2.DeviceRecord(
        device_id="dev",
        status=directive_pb2.DEVICE_STATUS_ACTIVE,
        statement_key=DEVICE.spki,
        registers=[directive_pb2.RegisterRecord(register_id="c1", unit="Wh", modulus=1_000_000)],
    )
    await ledger.issue_directive(OP, G1, tariff, idempotency_key="t", now=NOW)
    await ledger.issue_directive(OP, G1, device, idempotency_key="d", now=NOW)
    return story


async def granted_by(
    story: Story, grant_key: bytes, *, now: Instant, batch_key: bytes = b"", revoked: bytes = b""
) -> None:
    """G1 signs its grants with this key from now on."""
    await story.ledger.put_gateway(
        gateway_id=G1,
        operator_id=OP,
        site_id="S1",  # type: ignore[arg-type]  # a name
        currency=EUR,
        exposure_micros=micros("10"),
        batch_key=batch_key,
        grant_key=grant_key,
        time_zone="Europe/Berlin",
        now=now,
        revoked_keys=(revoked,) if revoked else (),
    )


def granted(story: Story, *quotas: str, **changes: Any) -> m.Grant:
    held = tuple(m.Held(quota_id=QuotaId(story.quotas[name]), amount_micros=1) for name in quotas)
    return replace(GRANT, **{"held": held, **changes})


def carried(*statements: m.Statement, grant: m.Grant, **changes: Any) -> batch_pb2.CarriedEnd:
    signed, told = said(*statements, grant=grant)
    fields = {"granted_by": "G1", "granted_incarnation": 3, "statements": signed, "grant": told, **changes}
    return batch_pb2.CarriedEnd(**fields)


def own(net: str, tax: str, to: int, *shares: tuple[str, str]) -> tuple[Any, ...]:
    """What G1 itself bills of the session, on lines of one share each."""
    return ("", "dev", 1000, to, net, tax, [(line, n, t) for line, (n, t) in enumerate(shares)])


def seal_own(story: Story, claim: tuple[Any, ...], quota: str = "q1") -> bytes:
    """A batch of G1 about the session; its authorization's id is the real one."""
    lines = [("P", quota, CHG, "10:00")] * len(claim[6])
    raw = batch_pb2.Batch.FromString(story.seal("G1", [claim], lines))
    raw.claims[0].authorization_id = AUTHORIZATION
    raw.claims[0].register_id = "c1"
    story.sealed["G1"][-1] = raw.SerializeToString(deterministic=True)
    return story.sealed["G1"][-1]


async def balance(store: LedgerStore, path: str) -> tuple[int, int]:
    found = {at: b for at, _, b in await store.balances(OP, path)}.get(path)
    return (found.debits_posted, found.credits_posted) if found is not None else (0, 0)


async def told(store: LedgerStore) -> list[directive_pb2.EndCarried]:
    bodies = [directive_pb2.Directive.FromString(row.body) for row in await store.directives(G1, 0, 99)]
    return [body.end_carried for body in bodies if body.HasField("end_carried")]


async def test_it_is_billed_to_what_the_grant_holds_and_the_gateway_hears_of_it(store: LedgerStore) -> None:
    story = await opened(store)
    held = {g.gateway_id: open_micros for g, open_micros in await store.exposures(OP)}
    outcome = await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1")),)))
    assert outcome.step is ChainStep.NEXT
    # At the site of the gateway that gave it, from the hold of the quota that it named.
    assert await balance(store, "clearing/S1/w1") == (0, micros(NET))
    assert await balance(store, "clearing/S2/w1") == (0, 0)
    now_held = {g.gateway_id: open_micros for g, open_micros in await store.exposures(OP)}
    assert (held["G1"] - now_held["G1"], held["G2"] - now_held["G2"]) == (micros("1.80"), 0)
    (message,) = await told(store)
    assert (message.carried_by, message.claim.granted_by, message.claim.final) == ("G2", "G1", True)
    assert (message.claim.net_micros, message.claim.tax_micros) == (micros(NET), micros(TAX))
    assert len(message.statements) == 2
    # Nothing in that batch is left to be proven, and nothing of it stands against anybody's exposure.
    batch = await store.batch(G2, 1, 1)
    assert batch is not None
    assert (batch.proven, batch.beyond_micros) == (True, 0)
    assert (await store.verify()).fault == ""


async def test_a_one_shot_yes_is_billed_to_what_its_gateway_holds_for_who_pays(store: LedgerStore) -> None:
    story = await opened(store)
    before = len(await store.transfers(OP))
    passage = replace(INTENT, one_shot=4000)
    # It is billed with its yes: nothing is held for it any more.
    grant = granted(story, net_micros=micros(NET), tax_micros=micros(TAX), limit=5000)
    for _ in range(2):
        await story.push(story.seal("G2", [], [], carried=(carried(passage, grant=grant),)))
    assert await causes_of(store, before) == {"use": micros("1.80")}
    (message,) = await told(store)
    assert (message.claim.final, message.claim.register_from, message.claim.register_to) == (True, 1000, 5000)
    # Its own gateway's batch exceeds nothing.
    await story.push(seal_own(story, own(NET, TAX, 5000, (NET, TAX))))
    assert await causes_of(store, before) == {"use": micros("1.80")}
    assert (await store.verify()).fault == ""


BEGAN = m.Reading(
    recipient=G1,
    device=DeviceId("dev"),
    device_epoch=0,
    counter=2,
    at=INTENT.at,
    register=register(1000),
    tariff=GRANT.tariff,
)
STANDS = replace(BEGAN, counter=8, at=END.at, register=register(5000))


def carried_readings(*readings: m.Reading) -> batch_pb2.CarriedEnd:
    return batch_pb2.CarriedEnd(granted_by="G1", statements=[DEVICE.signed(reading) for reading in readings])


async def standing(story: Story, account: str) -> None:
    record = directive_pb2.DeviceRecord(
        device_id="dev",
        status=directive_pb2.DEVICE_STATUS_ACTIVE,
        statement_key=DEVICE.spki,
        profile=directive_pb2.DEVICE_PROFILE_STANDING,
        tariff_id="chg-3",
        standing_account_id=account,
        registers=[directive_pb2.RegisterRecord(register_id="c1", unit="Wh", modulus=1_000_000)],
    )
    await story.ledger.issue_directive(OP, G1, record, idempotency_key="standing", now=NOW)


async def test_standing_readings_are_billed_as_far_as_they_came_and_go_on(store: LedgerStore) -> None:
    story = await opened(store)
    await standing(story, "P")
    await spent(story, q1="4.00", q3="1.50")
    before = len(await store.transfers(OP))
    for reading in (replace(STANDS, counter=7, register=register(2000)), STANDS, STANDS):
        await story.push(story.seal("G2", [], [], carried=(carried_readings(BEGAN, reading),)))
    # 0.90 up to 2,000, of which 0.50 are held; then 0.90 more: nobody stops a meter.
    assert await causes_of(store, before) == {"use": micros("0.50"), "overrun": micros("1.30")}
    messages = await told(store)
    assert [(each.claim.final, each.claim.register_to) for each in messages] == [(False, 2000), (False, 5000)]
    assert (await store.verify()).fault == ""


@pytest.mark.real
@pytest.mark.parametrize("kind", ["end", "one-shot", "standing"])
async def test_who_paid_for_what_was_carried_is_told_so(ledger_pool: Pool, kind: str) -> None:
    store = PostgresStore(ledger_pool)
    story = await opened(store)
    await standing(story, "P")
    end = {
        "end": carried(INTENT, END, grant=granted(story, "q1")),
        "one-shot": carried(
            replace(INTENT, one_shot=4000),
            grant=granted(story, net_micros=micros(NET), tax_micros=micros(TAX), limit=5000),
        ),
        "standing": carried_readings(BEGAN, STANDS),
    }[kind]
    # Somebody's rubbish about the same use says nothing of it.
    rubbish = batch_pb2.CarriedEnd(granted_by="G1", statements=end.statements, grant=b"\0")
    await story.push(story.seal("G2", [], [], carried=(rubbish, end)))
    movements = Movements(ledger_pool, store)
    items = [
        item async for item in movements.of_account(movements_pb2.ListMovementsRequest(operator_id=OP, account_id="P"))
    ]
    (billing,) = [item.billing for item in items if item.WhichOneof("item") == "billing"]
    assert (billing.tariff_id, billing.net_micros, billing.tax_micros) == ("chg-3", micros(NET), micros(TAX))
    (named,) = billing.authorization_ids
    use = await movements.of_use(movements_pb2.ShowUseRequest(operator_id=OP, authorization_id=named))
    assert [(part.tariff_id, part.quarter, part.net_micros) for part in use.parts] == [
        ("chg-3", billing.quarter, micros(NET))
    ]


async def test_standing_readings_that_their_gateway_has_not_heard_are_missing_where_it_spends_on_others(
    store: LedgerStore,
) -> None:
    """Nothing is held for them between readings, and nobody says how far they were heard: the sum is what was carried (ADR 29)."""
    story = await opened(store)
    await standing(story, "P")
    await story.push(story.seal("G2", [], [], carried=(carried_readings(BEGAN, STANDS),)))
    before = len(await store.transfers(OP))
    others = [
        ("o1", "x1", 10, 20, "4.00", "0", [(0, "4.00", "0")]),
        ("o2", "x1", 20, 30, "2.00", "0", [(1, "2.00", "0")]),
    ]
    await story.push(story.seal("G1", others, [("P", "q1", CHG, "10:00"), ("P", "q3", CHG, "10:00")]))
    assert await causes_of(store, before) == {"use": micros("4.20"), "late": micros("1.80")}
    assert (await store.verify()).fault == ""


async def test_readings_of_who_was_never_told_yes_once_and_for_all_prove_nothing(store: LedgerStore) -> None:
    story = await opened(store)
    before = len(await store.transfers(OP))
    await story.push(story.seal("G2", [], [], carried=(carried_readings(BEGAN, STANDS),)))
    assert await causes_of(store, before) == {}
    assert not await told(store)


@pytest.mark.parametrize("kind", ["end", "one-shot", "standing"])
async def test_what_was_carried_is_shown_to_anybody_from_public_keys(store: LedgerStore, kind: str) -> None:
    story = await opened(store)
    await standing(story, "P")
    await story.ledger.put_gateway(
        gateway_id=G2,
        operator_id=OP,
        site_id="S2",  # type: ignore[arg-type]  # a name
        currency=EUR,
        exposure_micros=micros("8"),
        batch_key=spki(BATCH),
        grant_key=b"",
        time_zone="Europe/Berlin",
        now=NOW,
    )
    grant = granted(story, "q1")
    words = {
        "end": carried(INTENT, END, grant=grant),
        "one-shot": carried(replace(INTENT, one_shot=4000), grant=replace(grant, limit=5000)),
        "standing": carried_readings(BEGAN, STANDS),
    }
    signed = sealed(BATCH, "batch", "cloud", story.seal("G2", [], [], carried=(words[kind],)))
    batch = receive(signed.body, signature=signed.signature, key_id=signed.key_id, currency=EUR)
    assert (await story.ledger.post_batch(batch, currency=EUR, now=NOW)).step is ChainStep.NEXT
    # A later batch of the carrier's has nothing to do with it, nor who signs grants now.
    await granted_by(story, STRANGER.spki, now=NOW)
    await story.push(story.seal("G2", [], []))
    authorization = authorization_of(G1, words[kind].statements)
    assert authorization is not None
    bundle = decode(await Bundles(store, receipt_keys=()).of(OP, authorization))
    assert (bundle.gateway, bundle.batched_by, len(bundle.signed_batches)) == ("G1", "G2", 1)
    proof = prove(replace(bundle, certificates=(device_certificate(),)), roots=[ROOT])
    assert any("counted from 1000 to 5000 Wh" in said for said in proof.proven)
    assert any(f"costs {NET} and {TAX} tax" in said for said in proof.proven)
    with pytest.raises(BundleFault, match="a key that is not the device's"):
        prove(bundle, roots=[ROOT])


@pytest.mark.parametrize(("late_us", "billed"), [(0, True), (1, False)])
async def test_a_grant_is_judged_by_the_key_of_the_time_when_its_use_began(
    store: LedgerStore, late_us: int, billed: bool
) -> None:
    """As the device dates its intent: whoever has the old key dates grants as he likes."""
    story = await opened(store)
    # Twice: the first key is not the last one's neighbour.
    await granted_by(story, STRANGER.spki, now=Instant(INTENT.at - late_us))
    await granted_by(story, spki(BATCH), now=END.at)
    end = carried(INTENT, END, grant=granted(story, "q1"))
    await story.push(story.seal("G2", [], [], carried=(end,)))
    assert (await balance(store, "clearing/S1/w1"))[1] == (micros(NET) if billed else 0)
    # What is not believed waits for people.
    opened_cases = await store.events(Cursor(), 10, ("case.opened",))
    assert len(opened_cases) == (not billed)
    assert (await store.verify()).fault == ""


@pytest.mark.parametrize("revoked_first", [False, True])
async def test_grants_of_a_token_that_was_copied_wait_for_people_though_their_use_began_before(
    store: LedgerStore, revoked_first: bool
) -> None:
    story = await opened(store)
    old, new = spki(BATCH), DEVICE.spki
    await granted_by(story, GRANTER.spki, now=NOW, batch_key=old)
    if revoked_first:
        await granted_by(story, GRANTER.spki, now=END.at, batch_key=old, revoked=old)
        await granted_by(story, STRANGER.spki, now=END.at, batch_key=new)
    else:
        await granted_by(story, STRANGER.spki, now=END.at, batch_key=new)
        await granted_by(story, STRANGER.spki, now=END.at, batch_key=new, revoked=old)
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1")),)))
    assert await store.claimed(AUTHORIZATION, G1) is None
    # What was billed on one before is shown by it still.
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert [each.key for each in gateway.earlier_grant_keys] == [GRANTER.spki]
    # The next change is one like any other.
    await granted_by(story, GRANTER.spki, now=END.at, batch_key=new)
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert [(each.key, each.until) for each in gateway.earlier_grant_keys] == [(STRANGER.spki, END.at)]
    assert (await store.verify()).fault == ""


async def test_a_grant_key_that_comes_back_is_good_for_what_it_signs_again(store: LedgerStore) -> None:
    story = await opened(store)
    await granted_by(story, STRANGER.spki, now=Instant(INTENT.at - 1))
    await granted_by(story, GRANTER.spki, now=INTENT.at)
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert [each.key for each in gateway.earlier_grant_keys] == [STRANGER.spki]
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1")),)))
    assert (await balance(store, "clearing/S1/w1"))[1] == micros(NET)


@pytest.mark.parametrize("away_after", [0, 1, 2])
async def test_whoever_reports_a_use_and_in_whatever_order_it_is_billed_once(
    store: LedgerStore, away_after: int
) -> None:
    story = await opened(store)
    begun = seal_own(story, own("1.00", "0.20", 3000, ("1.00", "0.20")))
    ended = seal_own(story, own(NET, TAX, 5000, ("0.50", "0.10")))
    away = story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1")),))
    # The same, carried once more, with another grant of the same authorization.
    again = story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q3")),))
    batches = [begun, ended]
    batches.insert(away_after, away)
    for raw in (*batches, again):
        assert (await story.push(raw)).step is ChainStep.NEXT
    for raw in batches:
        assert (await story.push(raw)).step is ChainStep.REPLAY
    assert await balance(store, "clearing/S1/w1") == (0, micros(NET))
    assert (await balance(store, "payer/P"))[0] == micros("1.80")
    assert await balance(store, "suspense/S1") == (0, 0)
    assert len(await told(store)) == 1
    assert (await store.verify()).fault == ""


async def test_its_gateways_own_late_batches_go_up_beside_it_and_never_down(store: LedgerStore) -> None:
    """Readings in between made it dearer than its first and last statements say; the batches that know it come one by one, late."""
    story = await opened(store)
    late = [
        # Less of it, with more tax; then more of both, not yet so far on the register; then the end.
        seal_own(story, own("1.00", "0.36", 3000, ("1.00", "0.36"))),
        seal_own(story, own("1.60", "0.40", 4000, ("0.60", "0.04"))),
        seal_own(story, own("1.80", "0.44", 5000, ("0.20", "0.04"))),
    ]
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1")),)))
    for raw, due in zip(late, ("1.86", "2.00", "2.24"), strict=True):
        assert (await story.push(raw)).step is ChainStep.NEXT
        assert (await balance(store, "payer/P"))[0] == micros(due)
        assert (await store.verify()).fault == ""
    assert await balance(store, "suspense/S1") == (0, 0)

    async def first_case(tx: Transaction) -> object:
        return (await tx.load(Touch(operator_id=OP, currency=EUR, case_id=1))).case

    assert await store.run(first_case) is None


async def spent(story: Story, **quotas: str) -> None:
    """G1 bills so much of each of its quotas for other uses."""
    for number, (name, amount) in enumerate(quotas.items()):
        claim = (f"z{name}", f"z{number}", 0, 1, amount, "0", [(0, amount, "0")])
        await story.push(story.seal("G1", [claim], [("P", name, ("chg-3", 0), "10:00")]))


async def causes_of(store: LedgerStore, before: int) -> dict[str, int]:
    causes: dict[str, int] = {}
    for transfer in (await store.transfers(OP))[before:]:
        causes[transfer.cause] = causes.get(transfer.cause, 0) + transfer.amount_micros
    return causes


#: What the newest grant said of the session: billed and held, as much as it costs in the end.
COVERED = {"net_micros": micros(NET), "tax_micros": micros(TAX)}


async def test_beyond_what_is_held_it_goes_down_the_waterfall_as_late(store: LedgerStore) -> None:
    story = await opened(store)
    # q3 holds 2.00, of which 1.50 are spent, and q1 nothing any more: 0.50 from q3, then what P has available.
    await spent(story, q1="4.00", q3="1.50")
    before = len(await store.transfers(OP))
    grant = granted(story, "q3", **COVERED)
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=grant),)))
    assert await causes_of(store, before) == {"use": micros("0.50"), "late": micros("1.30")}
    assert (await store.verify()).fault == ""


async def test_what_was_billed_before_the_newest_grant_is_paid_by_the_quota_that_held_it(store: LedgerStore) -> None:
    story = await opened(store)
    # The grant names q3 alone, which has 0.50 left; what it cost before was on q1, and is held there still.
    await spent(story, q3="1.50")
    before = len(await store.transfers(OP))
    grant = granted(story, "q3", **COVERED)
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=grant),)))
    assert await causes_of(store, before) == {"use": micros("1.80")}
    # Its own gateway's batches, which name q1, exceed nothing.
    await story.push(seal_own(story, own(NET, TAX, 5000, (NET, TAX))))
    assert await causes_of(store, before) == {"use": micros("1.80")}
    assert (await store.verify()).fault == ""


async def test_a_later_incarnations_quotas_pay_for_no_older_grant() -> None:
    store = MemoryStore()
    story = await opened(store)
    before = len(await store.transfers(OP))
    witness = replace(GRANT.witness, incarnation=0)
    grant = granted(story, **COVERED, witness=witness)
    end = carried(INTENT, END, grant=grant, granted_incarnation=0)
    await story.push(story.seal("G2", [], [], carried=(end,)))
    assert await causes_of(store, before) == {"late": micros("1.80")}


@pytest.mark.parametrize(
    ("floor", "billed", "causes"),
    [
        ("1.80", "0", {"floor": "1.80"}),
        # A grant on the floor alone: all of it was.
        ("0.30", "1.50", {"floor": "1.80"}),
        ("0.30", "1.00", {"floor": "1.30", "overrun": "0.50"}),
        ("0", "1.00", {"overrun": "0.80", "late": "1.00"}),
        ("0", "0", {"overrun": "1.80"}),
    ],
)
async def test_beyond_holds_each_part_is_booked_by_its_own_name(
    store: LedgerStore, floor: str, billed: str, causes: dict[str, str]
) -> None:
    """Floor as far as the grant was on it; overrun what no grant ever covered; late what was covered and is held no more."""
    story = await opened(store)
    await spent(story, q1="4.00", q3="2.00")
    before = len(await store.transfers(OP))
    held = (m.Held(quota_id=QuotaId("floor"), amount_micros=micros(floor)),) if micros(floor) else ()
    grant = granted(story, net_micros=micros(billed), tax_micros=0, held=held)
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=grant),)))
    assert await causes_of(store, before) == {cause: micros(amount) for cause, amount in causes.items()}
    assert (await store.verify()).fault == ""


@pytest.mark.parametrize(("account", "pays"), [("P", "payer/P"), (None, "risk"), ("nobody", "risk")])
async def test_a_floor_names_who_pays_or_the_operator_bears_it(account: str | None, pays: str) -> None:
    store = MemoryStore()
    story = await opened(store)
    floor = replace(GRANT, held=(m.Held(quota_id=QuotaId("floor"), amount_micros=1),), account=account)
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=floor),)))
    assert (await balance(store, pays))[0] == micros("1.80")
    assert (await store.verify()).fault == ""


async def test_a_stolen_gateways_grants_take_no_more_than_its_exposure_from_anybody(store: LedgerStore) -> None:
    story = await opened(store)
    # 99 kWh for 25.25, on nothing at all, from an account that never was at this site. G1's exposure is 10.00, of which 6.00 are held.
    much = replace(END, register=register(100_000))
    grant = granted(story, "q1", net_micros=micros("25.25"), tax_micros=micros("5.05"))
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, much, grant=grant),)))
    causes = await causes_of(store, 0)
    assert causes["late"] == micros("4.00") + causes["use"]
    assert causes["exposure"] == micros("30.30") - causes["late"] - causes["use"]
    assert {g.gateway_id: g.late_micros for g, _ in await store.exposures(OP)}[G1] == causes["late"]
    assert (await store.verify()).fault == ""
    await story.ledger.decide_case(1, release=True, now=NOW)
    assert await balance(store, "clearing/S1/w1") == (0, micros("25.25"))
    assert (await store.verify()).fault == ""


def another(story: Story, number: int, **changes: Any) -> tuple[bytes, batch_pb2.CarriedEnd]:
    """One more session of 99 kWh for 25.25 + 5.05 that G1 gave; its id, and its end as it is carried."""
    start, counter = 200_000 * number, 20 * number
    named = authorization_id("dev", 0, counter, G1)
    intent = replace(INTENT, counter=counter, register=register(start))
    end = replace(END, counter=counter + 1, authorization=named, register=register(start + 99_000))
    grant = granted(story, "q1", authorization=named, intent_counter=counter, start=start, limit=start + 100_000)
    grant = replace(grant, **{"net_micros": micros("25.25"), "tax_micros": micros("5.05"), **changes})
    return named, carried(intent, end, grant=grant)


async def beyond(store: LedgerStore) -> int:
    """What stands against G1's exposure beside its quotas."""
    gateway = await store.gateway(G1)
    assert gateway is not None
    return gateway.beyond_micros


async def test_nor_by_several_ends_in_one_batch(store: LedgerStore) -> None:
    story = await opened(store)
    ends = tuple(another(story, number)[1] for number in (1, 2))
    await story.push(story.seal("G2", [], [], carried=ends))
    causes = await causes_of(store, 0)
    # The first takes all the room that there is, and what its hold made; of the other nothing fits.
    assert await beyond(store) == causes["late"] == micros("4.00") + causes["use"]
    assert causes["exposure"] == 2 * micros("30.30") - causes["late"] - causes["use"]
    assert (await store.verify()).fault == ""


async def test_nor_in_any_number_of_batches_until_its_own_detail_shows_the_use(store: LedgerStore) -> None:
    story = await opened(store)
    sessions = [another(story, number) for number in range(1, 5)]
    for _, end in sessions[:2]:
        await story.push(story.seal("G2", [], [], carried=(end,)))
    # What q1 held was posted by the first: that much room it made.
    causes = await causes_of(store, 0)
    assert await beyond(store) == causes["late"] == micros("4.00") + causes["use"]
    assert causes["exposure"] == 2 * micros("30.30") - causes["late"] - causes["use"]
    # Its own chain says less of the first use, then as much: it stands against it all the while, and no longer when that is proven.
    stood = await beyond(store)

    def says(to: int, net: str, tax: str, *, leaves: int = 1) -> bytes:
        shares = [(0, net, tax)] if leaves else []
        lines = [("P", "q1", CHG, "10:00")] if leaves else []
        raw = batch_pb2.Batch.FromString(story.seal("G1", [("", "dev", 200_000, to, net, tax, shares)], lines))
        raw.claims[0].authorization_id = sessions[0][0]
        raw.claims[0].register_id = "c1"
        raw.leaf_count = leaves
        story.sealed["G1"][-1] = raw.SerializeToString(deterministic=True)
        return story.sealed["G1"][-1]

    await story.push(says(250_000, "1.00", "0.20"))
    # Words without detail show nothing: they are proven because nothing is in them.
    await story.push(says(299_000, "25.25", "5.05", leaves=0))
    shows = says(299_000, "25.25", "5.05")
    # It takes something over, so it goes alone.
    waiting = receive(shows, signature=b"", key_id=b"", currency=EUR)
    assert await story.ledger.post_batches((waiting,), currency=EUR, now=NOW) == ()
    await story.push(shows)
    assert [await story.ledger.prove(G1, 1, sequence, events=(), now=NOW) for sequence in (1, 2)] == [True, False]
    assert await beyond(store) == stood
    await story.push(story.seal("G2", [], [], carried=(sessions[2][1],)))
    assert (await causes_of(store, 0))["late"] == causes["late"]
    assert await story.ledger.prove(G1, 1, 3, events=(), now=NOW)
    assert await beyond(store) == 0
    await story.push(story.seal("G2", [], [], carried=(sessions[3][1],)))
    assert await beyond(store) > 0
    assert (await causes_of(store, 0))["late"] == causes["late"] + await beyond(store)
    assert (await store.verify()).fault == ""


async def test_who_claimed_first_stays_first_when_its_end_is_only_carried_once_more(store: LedgerStore) -> None:
    story = await opened(store)
    await story.push(seal_own(story, own(NET, TAX, 5000, (NET, TAX))))
    raw = batch_pb2.Batch.FromString(
        story.seal("G2", [("o1", "dev", 4000, 4500, "0.10", "0", [(0, "0.10", "0")])], [("P", "q2", CHG, "10:00")])
    )
    raw.claims[0].register_id = "c1"
    # The second claim is set aside; the carried end says again what was claimed before it.
    raw.carried.append(carried(INTENT, END, grant=granted(story, "q1")))
    story.sealed["G2"][-1] = raw.SerializeToString(deterministic=True)
    await story.push(story.sealed["G2"][-1])
    assert await balance(store, "suspense/S1") == (0, 0)

    async def work(tx: Transaction) -> bool:
        key = (AUTHORIZATION, G1)
        view = await tx.load(
            Touch(
                operator_id=OP,
                currency=EUR,
                claims={key: (RegisterKey(device_id=DeviceId("dev"), register_id="c1", register_epoch=0), 1000, 5000)},
            )
        )
        return view.claimed[key].aside

    assert await store.run(work) is False
    assert (await store.verify()).fault == ""


async def test_another_use_of_its_register_stands_in_the_way_of_it_as_of_any_claim(store: LedgerStore) -> None:
    story = await opened(store)
    raw = batch_pb2.Batch.FromString(
        story.seal("G2", [("o1", "dev", 4000, 4500, "0.10", "0", [(0, "0.10", "0")])], [("P", "q2", CHG, "10:00")])
    )
    raw.claims[0].register_id = "c1"
    raw.carried.append(carried(INTENT, END, grant=granted(story, "q1")))
    await story.push(raw.SerializeToString(deterministic=True))
    assert (await balance(store, "suspense/S1"))[0] == micros("1.80")
    assert await balance(store, "clearing/S1/w1") == (0, 0)
    # That much of the hold is given back, and a person decides.
    assert (await store.verify()).fault == ""
    await story.ledger.decide_case(1, release=True, now=NOW)
    assert await balance(store, "clearing/S1/w1") == (0, micros(NET))
    assert (await store.verify()).fault == ""


@pytest.mark.parametrize("release", [False, True])
async def test_what_an_end_says_beyond_a_claim_that_is_final_waits_for_people(
    store: LedgerStore, release: bool
) -> None:
    story = await opened(store)
    # A decision closed the use at the last value its device had proved: its claim is final.
    closed = batch_pb2.Batch.FromString(seal_own(story, own("1.00", "0.20", 3000, ("1.00", "0.20"))))
    closed.claims[0].final = True
    raw = story.sealed["G1"][-1] = closed.SerializeToString(deterministic=True)
    await story.push(raw)
    # The device's own end turns up elsewhere, twice.
    for _ in range(2):
        await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1")),)))
    assert await balance(store, "clearing/S1/w1") == (0, micros("1.00"))
    assert (await balance(store, "payer/P"))[0] == micros("1.20")
    assert (await balance(store, "suspense/S1"))[0] == micros("0.60")
    assert (await store.verify()).fault == ""

    await story.ledger.decide_case(1, release=release, now=NOW)
    assert await balance(store, "clearing/S1/w1") == (0, micros(NET if release else "1.00"))
    assert (await balance(store, "payer/P"))[0] == micros("1.80" if release else "1.20")
    suspense = await balance(store, "suspense/S1")
    assert suspense[0] == suspense[1]
    assert (await store.verify()).fault == ""


async def test_what_waits_for_people_takes_nothing_of_what_its_gateway_let_go_and_spends_on_others(
    store: LedgerStore,
) -> None:
    story = await opened(store)
    closed = batch_pb2.Batch.FromString(seal_own(story, own("1.00", "0.20", 3000, ("1.00", "0.20"))))
    closed.claims[0].final = True
    raw = story.sealed["G1"][-1] = closed.SerializeToString(deterministic=True)
    await story.push(raw)
    before = len(await store.transfers(OP))
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1", "q3")),)))
    assert await causes_of(store, before) == {"second-claim": micros("0.60")}
    # Its holds ended with the use: all that is left of its quotas is for other uses, before and after it heard of the end.
    before = len(await store.transfers(OP))
    others = [
        ("o1", "x1", 10, 20, "2.80", "0", [(0, "2.80", "0")]),
        ("o2", "x1", 20, 30, "2.00", "0", [(1, "2.00", "0")]),
    ]
    await story.push(story.seal("G1", others, [("P", "q1", CHG, "10:00"), ("P", "q3", CHG, "10:00")]))
    assert await causes_of(store, before) == {"use": micros("4.80")}
    batch = await store.batch(G1, 1, 2)
    assert batch is not None
    assert batch.beyond_micros == 0
    assert (await store.verify()).fault == ""


async def test_each_quota_pays_what_the_grant_held_of_it_whoever_comes_first(store: LedgerStore) -> None:
    story = await opened(store)
    before = len(await store.transfers(OP))
    held = (("q1", "0.30"), ("q3", "1.90"))
    grant = granted(
        story,
        net_micros=0,
        held=tuple(m.Held(quota_id=QuotaId(story.quotas[name]), amount_micros=micros(part)) for name, part in held),
    )
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=grant),)))
    # All the rest of both was for others, and is reported later.
    others = [
        ("o1", "x1", 10, 20, "3.70", "0", [(0, "3.70", "0")]),
        ("o2", "x1", 20, 30, "0.50", "0", [(1, "0.50", "0")]),
    ]
    await story.push(story.seal("G1", others, [("P", "q1", CHG, "10:00"), ("P", "q3", CHG, "10:00")]))
    assert await causes_of(store, before) == {"use": micros("6.00")}
    assert (await store.verify()).fault == ""


async def test_what_an_end_says_beyond_a_decision_that_is_still_to_come_is_missing_where_its_gateway_let_go(
    store: LedgerStore,
) -> None:
    """Nobody has told the ledger that the use was over: what its gateway spends of its hold comes late, as much as it was not over."""
    story = await opened(store)
    grant = granted(story, held=(m.Held(quota_id=QuotaId(story.quotas["q1"]), amount_micros=micros("2.00")),))
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=grant),)))
    closed = batch_pb2.Batch.FromString(seal_own(story, own("1.00", "0.20", 3000, ("1.00", "0.20"))))
    closed.claims[0].final = True
    raw = story.sealed["G1"][-1] = closed.SerializeToString(deterministic=True)
    await story.push(raw)
    before = len(await store.transfers(OP))
    others = [("o1", "x1", 10, 20, "2.80", "0", [(0, "2.80", "0")])]
    await story.push(story.seal("G1", others, [("P", "q1", CHG, "10:00")]))
    assert await causes_of(store, before) == {"use": micros("2.20"), "late": micros("0.60")}
    assert (await store.verify()).fault == ""


async def test_an_end_that_says_again_what_a_final_claim_says_is_priced_by_whoever_saw_the_readings(
    store: LedgerStore,
) -> None:
    story = await opened(store)
    # Readings in between made it cheaper than its first and last statements say.
    closed = batch_pb2.Batch.FromString(seal_own(story, own("1.40", "0.28", 5000, ("1.40", "0.28"))))
    closed.claims[0].final = True
    raw = story.sealed["G1"][-1] = closed.SerializeToString(deterministic=True)
    await story.push(raw)
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1")),)))
    assert await balance(store, "clearing/S1/w1") == (0, micros("1.40"))
    assert await balance(store, "suspense/S1") == (0, 0)
    assert (await told(store), (await store.verify()).fault) == ([], "")


FORGED = (
    lambda story: batch_pb2.CarriedEnd(
        granted_by="G1",
        granted_incarnation=3,
        statements=[DEVICE.signed(INTENT), STRANGER.signed(replace(END, register=register(900_000)))],
        grant=GRANTER.signed(granted(story, "q1")),
    ),
    lambda story: batch_pb2.CarriedEnd(
        granted_by="G1",
        granted_incarnation=3,
        statements=said(INTENT, END)[0],
        grant=STRANGER.signed(granted(story, "q1")),
    ),
    lambda story: carried(INTENT, END, grant=granted(story, "q1"), granted_by="G2"),
    lambda story: carried(INTENT, END, grant=granted(story, "q1"), granted_by="G9"),
    lambda _story: batch_pb2.CarriedEnd(granted_by="G1"),
)


async def test_what_does_not_prove_itself_raises_no_claim_and_takes_nothing(store: LedgerStore) -> None:
    story = await opened(store)
    before = await store.transfers(OP)
    for number, forged in enumerate(FORGED, 1):
        assert (await story.push(story.seal("G2", [], [], carried=(forged(story),)))).step is ChainStep.NEXT

        async def work(tx: Transaction, number: int = number) -> str:
            case = (await tx.load(Touch(operator_id=OP, currency=EUR, case_id=number))).case
            assert case is not None
            return case.kind

        assert await store.run(work) == "carried"
    assert await store.transfers(OP) == before
    assert await told(store) == []
    # The honest end still bills all of it, and so does the gateway that gave it.
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1")),)))
    assert await balance(store, "clearing/S1/w1") == (0, micros(NET))
    assert (await store.verify()).fault == ""


async def test_a_revoked_gateways_grant_takes_nothing_and_people_hear_of_it(store: LedgerStore) -> None:
    story = await opened(store)
    await story.ledger.revoke_gateway(G1, now=NOW)
    before = await store.transfers(OP)
    raw = story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1")),))
    assert (await story.push(raw)).step is ChainStep.NEXT
    assert await store.transfers(OP) == before
    assert await store.claimed(AUTHORIZATION, G1) is None
    assert (await told(store), (await store.verify()).fault) == ([], "")


async def test_quotas_of_others_pay_nothing_whatever_a_grant_names(store: LedgerStore) -> None:
    story = await opened(store)
    await spent(story, q1="4.00", q3="2.00")
    held = {g.gateway_id: open_micros for g, open_micros in await store.exposures(OP)}
    # q2 is G2's: a grant of G1 does not reach it.
    grant = granted(story, "q2", **COVERED)
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=grant),)))
    assert {g.gateway_id: open_micros for g, open_micros in await store.exposures(OP)} == held
    assert {t.cause for t in (await store.transfers(OP))[-2:]} == {"late"}
    assert (await store.verify()).fault == ""


@pytest.mark.parametrize(
    ("ends", "granted_by", "why"),
    [
        ((batch_pb2.CarriedEnd(granted_by="G1"),) * 65, "", "more than 64"),
        ((batch_pb2.CarriedEnd(granted_by="G1", statements=[bytes(769)]),), "", "768 bytes"),
        ((batch_pb2.CarriedEnd(granted_by="G1", statements=[b""] * 17),), "", "16 statements"),
        ((batch_pb2.CarriedEnd(granted_by="G1", grant=bytes(2177)),), "", "grant of more"),
        ((), "G1", "carried, not claimed"),
    ],
)
def test_a_batch_carries_a_bounded_number_and_claims_nothing_of_others(
    ends: tuple[batch_pb2.CarriedEnd, ...], granted_by: str, why: str
) -> None:
    story = Story(MemoryStore())
    batch = batch_pb2.Batch.FromString(story.seal("G2", [("a1", "d", 0, 1, "0", "0", [])], [], carried=ends))
    batch.claims[0].granted_by = granted_by
    with pytest.raises(BatchError, match=why):
        receive(batch.SerializeToString(), signature=b"", key_id=b"", currency=EUR)


@pytest.mark.real
@pytest.mark.parametrize(
    ("tampering", "fault"),
    [
        (
            b"UPDATE batches SET carried = '[]' WHERE carried <> '[]'",
            "claim 8f6a54a7f1178c1c95d4d49f8761521d: says (5000, 1500000, 300000), batch 1 of G2, incarnation 1, says (-1, -1, -1)",
        ),
        (
            b"""UPDATE batches SET carried = jsonb_set(carried, '{0,authorization_id}', '"00112233445566778899aabbccddeeff"')
            WHERE carried <> '[]'""",
            "claim 00112233445566778899aabbccddeeff: batch 1 of G2 carries no such end",
        ),
        (
            b"UPDATE claims SET raised_by = NULL WHERE raised_by IS NOT NULL",
            "claim 8f6a54a7f1178c1c95d4d49f8761521d: the batch that raised it is not there",
        ),
    ],
)
async def test_verify_names_what_somebody_changed_about_it(ledger_pool: Pool, tampering: bytes, fault: str) -> None:
    store = PostgresStore(ledger_pool)
    story = await opened(store)
    await story.push(story.seal("G2", [], [], carried=(carried(INTENT, END, grant=granted(story, "q1")),)))
    assert (await store.verify()).fault == ""
    async with ledger_pool.connection() as connection, connection.transaction():
        await connection.execute(b"SET LOCAL session_replication_role = replica")
        assert (await connection.execute(tampering)).rowcount == 1
    assert fault == (await store.verify()).fault
