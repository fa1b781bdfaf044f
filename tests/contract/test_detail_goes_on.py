"""Detail that arrives at the ledger goes on from the detail before it, in whatever order it comes, and whichever store keeps it."""

import hashlib
from dataclasses import dataclass

import pytest
from ledger_story import TERMS
from placed_site import KEY, MORNING, Site

from farthing.clock import Instant
from farthing.evidence.batches import compress_leaves
from farthing.evidence.detail import RegisterFacts
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, SiteId
from farthing.money import parse_currency
from farthing.tariff import parse
from farthing.v1 import batch_pb2, ledger_pb2
from farthing_cloud.ledger.auditing import Auditor
from farthing_cloud.ledger.continuing import broken
from farthing_cloud.ledger.core.funds import UnknownName
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import AccountStatus, GatewayCaseKind
from farthing_cloud.ledger.facts import GatewayFacts
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import Detail, LedgerStore

EUR, OP, G1, NOW = parse_currency("EUR"), OperatorId("op"), GatewayId("G1"), Instant(1)


@dataclass
class Sealed:
    """A batch with its leaves, and what they say."""

    batch: batch_pb2.Batch
    leaves: list[bytes]
    site: Site

    def at(self, sequence: int, previous: bytes) -> "Sealed":
        """The same at another place of a chain: what a gateway that lies can sign."""
        self.batch.sequence = sequence
        self.batch.previous_hash = previous
        return self

    @property
    def body(self) -> bytes:
        return self.batch.SerializeToString(deterministic=True)


class Arrivals:
    """A ledger that takes batches and their detail as the door does."""

    def __init__(self, store: LedgerStore, site: Site) -> None:
        self.store = store
        self.ledger = Ledger(store, terms=TERMS, receipt_keys=())
        self.facts = GatewayFacts(
            keys={("c1", KEY.key_id): KEY},
            tariffs={("day", 1): parse(site.documents[1])},
            time_zone="Europe/Berlin",
        )

    async def open(self, *sealed: Sealed) -> None:
        await self.ledger.put_gateway(
            gateway_id=G1,
            operator_id=OP,
            site_id=SiteId("S1"),
            currency=EUR,
            exposure_micros=100_000_000,
            batch_key=b"",
            grant_key=b"",
            time_zone="Europe/Berlin",
            now=NOW,
        )
        await self.ledger.put_account(
            operator_id=OP,
            account_id=AccountId("P"),
            currency=EUR,
            credit_limit_micros=100_000_000,
            debt_limit_micros=0,
            status=AccountStatus.ACTIVE,
            preload_micros=0,
            now=NOW,
        )
        for each in sealed:
            for claim in each.batch.claims:
                name = (claim.device_id, claim.register_id, claim.register_epoch)
                self.facts.registers[name] = RegisterFacts(unit="Wh", modulus=10**9)
            received = receive(each.body, signature=b"", key_id=b"", currency=EUR)
            outcome = await self.ledger.post_batch(received, currency=EUR, now=NOW)
            assert outcome.receipt is not None, outcome

    async def detail(self, each: Sealed) -> str:
        """What the door says of it; without a fault, it is proven."""
        verified = each.site.proven(each.batch, each.leaves)
        fault = await broken(self.store, G1, each.batch, verified, self.facts)
        if not fault:
            await self.ledger.prove(
                G1,
                1,
                each.batch.sequence,
                events=(),
                now=NOW,
                detail=Detail(
                    authorizations=tuple(AuthorizationId(claim.authorization_id) for claim in each.batch.claims),
                    leaves=compress_leaves(each.leaves),
                ),
            )
        return fault


def session(first_at: str) -> list[Sealed]:
    """One session in three batches; where it stood at first is the only thing that differs."""
    site = Site(MORNING)
    site.begin()
    sealed: list[Sealed] = []
    previous = bytes(32)
    for at, value in ((first_at, 2_000), ("10:00", 3_000), ("10:30", 6_000)):
        site.read(at, value)
        batch, leaves = site.seal()
        sealed.append(Sealed(batch=batch, leaves=leaves, site=site).at(len(sealed) + 1, previous))
        previous = hashlib.sha256(sealed[-1].body).digest()
    return sealed


def spliced() -> list[Sealed]:
    """The first batch of one story, the others of another: each holds by itself, at the same totals."""
    one, other = session("09:45"), session("09:50")
    first, second, third = one[0], other[1], other[2]
    second.at(2, hashlib.sha256(first.body).digest())
    third.at(3, hashlib.sha256(second.body).digest())
    return [first, second, third]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=["in order", "last first", "first last"])
async def test_a_session_goes_on_in_any_order(store: LedgerStore, order: tuple[int, ...]) -> None:
    sealed = session("09:45")
    arrivals = Arrivals(store, sealed[0].site)
    await arrivals.open(*sealed)
    assert [await arrivals.detail(sealed[index]) for index in order] == ["", "", ""]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "the later first"])
async def test_two_stories_of_one_use_are_found_whichever_comes_first(
    store: LedgerStore, order: tuple[int, ...]
) -> None:
    sealed = spliced()
    arrivals = Arrivals(store, sealed[0].site)
    await arrivals.open(*sealed)
    first, second = order
    assert await arrivals.detail(sealed[first]) == ""
    assert (
        await arrivals.detail(sealed[second])
        == "batch 1/2: leaf 0 stood elsewhere than the record before it left the use"
    )
    # What goes on from one of them is no fault.
    assert await arrivals.detail(sealed[2]) == ""


async def test_a_suspicion_is_one_case_for_people_and_stops_nothing(store: LedgerStore) -> None:
    sealed = session("09:45")
    arrivals = Arrivals(store, sealed[0].site)
    await arrivals.open(*sealed)
    for kind in (GatewayCaseKind.EVIDENCE, GatewayCaseKind.AUDIT):
        assert await arrivals.ledger.suspect(G1, 1, kind, "batch 1/2: it does not go on", now=NOW)
        assert not await arrivals.ledger.suspect(G1, 1, kind, "batch 1/3: nor does this", now=NOW)
    cases = await store.gateway_cases(OP, open_only=True)
    assert [(each.case.kind, each.case.detail) for each in cases] == [
        (GatewayCaseKind.EVIDENCE, "batch 1/2: it does not go on"),
        (GatewayCaseKind.AUDIT, "batch 1/2: it does not go on"),
    ]
    gateway = await store.gateway(G1)
    assert gateway is not None
    assert not gateway.quarantined
    assert (await store.verify()).fault == ""


# --- audits -----------------------------------------------------------------------------------------------------------


async def test_an_audit_waits_for_detail_and_then_looks_again_at_what_is_kept(store: LedgerStore) -> None:
    sealed = session("09:45")
    arrivals = Arrivals(store, sealed[0].site)
    await arrivals.open(*sealed)
    auditor = Auditor(arrivals.ledger)

    async def audit(sequence: int, *, due: bool = False) -> tuple[int, str]:
        return await auditor.audit(G1, 1, sequence, due=due, now=NOW)

    async def cases() -> list[tuple[GatewayCaseKind, str]]:
        return [(each.case.kind, each.case.detail) for each in await store.gateway_cases(OP, open_only=True)]

    with pytest.raises(UnknownName):
        await audit(9)
    assert await audit(1) == (ledger_pb2.AUDIT_OUTCOME_WAITS, "its detail has not come yet")
    assert await cases() == []
    assert await audit(1, due=True) == (ledger_pb2.AUDIT_OUTCOME_UNANSWERED, "its detail has not come, or did not hold")
    assert await cases() == [
        (GatewayCaseKind.AUDIT, "batch 1/1, drawn for audit: its detail has not come, or did not hold")
    ]
    # Of a gateway that the ledger told nothing of the device, kept detail cannot hold: it does not pass unseen.
    assert await arrivals.detail(sealed[1]) == ""
    outcome, why = await audit(2)
    assert (outcome, bool(why)) == (ledger_pb2.AUDIT_OUTCOME_FALSE, True)


async def test_detail_that_holds_passes_whether_it_is_kept_or_not(
    store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = session("09:45")
    arrivals = Arrivals(store, sealed[0].site)
    await arrivals.open(*sealed)
    auditor = Auditor(arrivals.ledger)

    async def told(_: GatewayId) -> GatewayFacts:
        return arrivals.facts

    monkeypatch.setattr(auditor._facts, "of", told)
    assert await arrivals.detail(sealed[0]) == ""
    assert await auditor.audit(G1, 1, 1, due=True, now=NOW) == (ledger_pb2.AUDIT_OUTCOME_PASSED, "")
    assert await store.forget_details(Instant(NOW + 1), 10) == 1
    assert await auditor.audit(G1, 1, 1, due=True, now=NOW) == (
        ledger_pb2.AUDIT_OUTCOME_PASSED,
        "its detail was verified on arrival, and is not kept any more",
    )
    assert await store.gateway_cases(OP, open_only=True) == []
