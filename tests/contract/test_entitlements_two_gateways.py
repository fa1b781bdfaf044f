"""One pass at two gateways, through both real cores: what is covered in all is never more than what the pass was funded with."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "edge"))

import pytest
from edge_playbook import Gateway, M, Meter, Policy, clock, fund
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_story import EUR, OP

from farthing.clock import SECOND_US, Instant
from farthing.ids import AccountId, GatewayId, SiteId
from farthing.v1 import directive_pb2
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import Funding, UnknownName
from farthing_cloud.ledger.core.quotas import GrantTerms, QuotaRequest
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import AccountStatus
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import LedgerStore
from farthing_cloud.ledger.store.memory import MemoryStore

WH_MICROS = 200
DEVICES = ("c1", "c2")
PASS = {
    "id": "pass-kwh",
    "currency": "EUR",
    "tax_included": True,
    "elements": [{"price_components": [{"type": "ENERGY", "price": 0.20, "vat": 20.0, "step_size": 1}]}],
}
TERMS = GrantTerms(
    share_ppm=500_000,
    smallest_micros=100 * WH_MICROS,
    most_open_per_account=4,
    lifetime_us=3600 * SECOND_US,
    outage_us=3600 * SECOND_US,
)

step = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(["G1", "G2"]), st.sampled_from(["P", "pass"]), st.integers(1, 4_000)),
    st.tuples(st.just("begin"), st.sampled_from(["G1", "G2"]), st.sampled_from(DEVICES)),
    st.tuples(st.just("use"), st.sampled_from(["G1", "G2"]), st.sampled_from(DEVICES), st.integers(0, 100)),
    st.tuples(st.just("end"), st.sampled_from(["G1", "G2"]), st.sampled_from(DEVICES), st.integers(0, 100)),
    st.tuples(st.just("push"), st.sampled_from(["G1", "G2"])),
    st.tuples(st.just("buy"), st.integers(1, 3_000)),
)


class Town:
    """A payer with money and a pass, a ledger, and two gateways with two chargers each; devices stop where they are told to."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.ledger = Ledger(self.store, terms=TERMS, receipt_keys=())
        self.gateways = {name: Gateway(name, f"S-{name}", at=clock("10:00")) for name in ("G1", "G2")}
        self.meters = {(name, device): Meter(f"{name}-{device}", 0) for name in self.gateways for device in DEVICES}
        self.open: set[tuple[str, str]] = set()
        self.sent: list[bytes] = []
        self.bought_wh = 0
        self.requests = 0

    async def opens(self) -> None:
        for name, gateway in self.gateways.items():
            await self.ledger.put_gateway(
                gateway_id=GatewayId(name),
                operator_id=OP,
                site_id=SiteId(f"S-{name}"),
                currency=EUR,
                exposure_micros=100 * M,
                batch_key=b"",
                grant_key=b"",
                time_zone="Europe/Berlin",
                now=gateway.at,
            )
        await put_accounts(self.ledger)
        await self.fund("P", 2 * M)
        for name, gateway in self.gateways.items():
            gateway.told(tariff=Policy.tariff("chg-3"))
            gateway.told(
                tariff=directive_pb2.TariffRecord(
                    tariff_id="pass-kwh", version=1, currency="EUR", ocpi_json=json.dumps(PASS).encode()
                )
            )
            fund(gateway, "P", "card")
            gateway.told(account=Policy.account("pass"))
            for device in DEVICES:
                gateway.told(device=Policy.device(f"{name}-{device}", rated_per_hour=6_000))
            gateway.told(entitlement=entitlement())

    async def fund(self, account: str, micros: int) -> None:
        self.requests += 1
        funding = Funding(
            operator_id=OP,
            account_id=AccountId(account),
            currency=EUR,
            amount_micros=micros,
            payment_id=f"p{self.requests}",
            source="bank/main",
        )
        await self.ledger.fund(funding, now=clock("10:00"))

    async def act(self, action: tuple[object, ...]) -> None:
        match action:
            case ("buy", int(wh)):
                self.bought_wh += wh
                await self.fund("pass", wh * WH_MICROS)
            case ("ask", str(name), str(account), int(wh)):
                await self.ask(name, account, wh * WH_MICROS)
            case ("begin", str(name), str(device)) if (name, device) not in self.open:
                meter, gateway = self.meters[name, device], self.gateways[name]
                reply = gateway.say(meter.intent(gateway), "card")
                if reply is not None and reply.grant_of is not None:
                    meter.authorization = reply.grant_of
                    meter.tariff = gateway.state.authorizations[reply.grant_of].tariff.tariff_id
                    self.open.add((name, device))
            case ("use", str(name), str(device), int(percent)) if (name, device) in self.open:
                gateway, value = self.used(name, device, percent)
                gateway.say(self.meters[name, device].reading(gateway, value))
            case ("end", str(name), str(device), int(percent)) if (name, device) in self.open:
                gateway, value = self.used(name, device, percent)
                gateway.say(self.meters[name, device].end(gateway, value))
                self.open.discard((name, device))
            case ("push", str(name)):
                await self.push(name)

    async def ask(self, name: str, account: str, wanted_micros: int) -> None:
        self.requests += 1
        request = QuotaRequest(
            operator_id=OP,
            gateway_id=GatewayId(name),
            incarnation=1,
            counter=self.requests,
            account_id=AccountId(account),
            currency=EUR,
            wanted_micros=wanted_micros,
        )
        answer = await self.ledger.request_quota(request, now=self.gateways[name].at)
        if answer.quota_id:
            until = Instant(self.gateways[name].at + TERMS.lifetime_us)
            self.gateways[name].told(quota_granted=Policy.quota(answer.quota_id, account, answer.amount_micros, until))

    def used(self, name: str, device: str, percent: int) -> tuple[Gateway, int]:
        """It goes on for a while, up to its limit at most: so many percent of the way."""
        gateway, meter = self.gateways[name], self.meters[name, device]
        gateway.at = Instant(gateway.at + 300 * SECOND_US)
        use = gateway.state.authorizations[meter.authorization]
        return gateway, use.value + min(500, (use.told.limit - use.value) * percent // 100)

    async def push(self, name: str) -> None:
        batch = self.gateways[name].seal()
        if batch is None:
            return
        raw = batch.SerializeToString(deterministic=True)
        received = receive(raw, signature=b"", key_id=b"", currency=EUR)
        outcome = await self.ledger.post_batch(received, currency=EUR, now=self.gateways[name].at)
        assert outcome.step is ChainStep.NEXT
        self.sent.append(raw)

    async def check(self) -> None:
        """P1 in units at every instant: covered or held anywhere is never more than what was bought."""
        assert (await self.store.verify()).fault == ""
        promised_wh = sum(
            (quota.spent_micros + quota.held_micros) // WH_MICROS
            for gateway in self.gateways.values()
            for quota in gateway.state.quotas.values()
            if quota.account_id == "pass"
        )
        assert promised_wh <= self.bought_wh
        balances = {path: balance for path, _, balance in await self.store.balances(OP, "")}
        payer = balances.get("payer/pass")
        if payer is not None:
            assert payer.debits_posted + payer.debits_pending <= payer.credits_posted == self.bought_wh * WH_MICROS
        for gateway in self.gateways.values():
            assert not gateway.state.directive_faults
            assert not gateway.state.parked


def entitlement(**changes: object) -> directive_pb2.EntitlementRecord:
    fields: dict[str, object] = {
        "account_id": "P",
        "paid_by_account_id": "pass",
        "tariff_id": "pass-kwh",
        "tariff_version": 1,
        "unit": "Wh",
        "from_us": clock("00:00"),
        "until_us": clock("23:59") + 10**12,
        **changes,
    }
    return directive_pb2.EntitlementRecord(entitlement_id="e1", **fields)


async def put_accounts(ledger: Ledger) -> None:
    for account in ("P", "pass"):
        await ledger.put_account(
            operator_id=OP,
            account_id=AccountId(account),
            currency=EUR,
            credit_limit_micros=0,
            debt_limit_micros=0,
            status=AccountStatus.ACTIVE,
            preload_micros=0,
            now=clock("09:00"),
        )


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(step, min_size=6, max_size=30))
async def test_a_pass_at_two_gateways_never_covers_more_than_was_bought(steps: list[tuple[object, ...]]) -> None:
    town = Town()
    await town.opens()
    for action in (("buy", 3_000), ("ask", "G1", "pass", 2_000), ("ask", "G2", "pass", 2_000), *steps):
        await town.act(action)
        await town.check()
    # P3, P5: everything ends; each covered watt-hour was taken from the pass once, all others were paid with money.
    for name, device in sorted(town.open):
        await town.act(("end", name, device, 100))
    for name in town.gateways:
        await town.push(name)
    await town.check()
    uses = [use for gateway in town.gateways.values() for use in gateway.state.authorizations.values()]
    covered_wh = sum(use.value - use.start for use in uses if use.account_id == "pass")
    counted_wh = sum(meter.value for meter in town.meters.values())
    assert covered_wh + sum(use.value - use.start for use in uses if use.account_id == "P") == counted_wh
    balances = {path: balance for path, _, balance in await town.store.balances(OP, "")}
    posted = {path: balance.debits_posted for path, balance in balances.items()}
    assert posted.get("payer/pass", 0) == covered_wh * WH_MICROS
    assert posted.get("payer/P", 0) == sum(use.gross_micros for use in uses if use.account_id == "P")
    before = await town.store.transfers(OP)
    for raw in town.sent:
        received = receive(raw, signature=b"", key_id=b"", currency=EUR)
        assert (await town.ledger.post_batch(received, currency=EUR, now=clock("12:00"))).step is ChainStep.REPLAY
    assert await town.store.transfers(OP) == before


async def test_a_gateway_hears_of_the_paying_account_before_the_entitlement(store: LedgerStore) -> None:
    ledger = Ledger(store, terms=TERMS, receipt_keys=())
    await ledger.put_gateway(
        gateway_id=GatewayId("G1"),
        operator_id=OP,
        site_id=SiteId("S1"),
        currency=EUR,
        exposure_micros=M,
        batch_key=b"",
        grant_key=b"",
        time_zone="UTC",
        now=clock("09:00"),
    )
    await put_accounts(ledger)

    async def issue(record: directive_pb2.EntitlementRecord, key: str) -> int:
        return await ledger.issue_directive(OP, GatewayId("G1"), record, idempotency_key=key, now=clock("10:00"))

    # The welcome, the account, the entitlement; the same wish again, and another end for it.
    assert await issue(entitlement(), "k1") == 3
    assert await issue(entitlement(), "k1") == 3
    assert await issue(entitlement(until_us=clock("12:00")), "k2") == 4
    bodies = [
        directive_pb2.Directive.FromString(row.body).WhichOneof("body")
        for row in await store.directives(GatewayId("G1"), 0, 9)
    ]
    assert bodies == ["welcome", "account", "entitlement", "entitlement"]
    with pytest.raises(UnknownName):
        await issue(entitlement(paid_by_account_id="nobody"), "k3")
