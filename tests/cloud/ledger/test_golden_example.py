"""The worked example (shared/example/EXAMPLE.md), table T4, transfer by transfer, through the ledger's core.

The batches are built from the example's table of batches. What a row says is written here as the page writes it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import Currency, format_micros
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import Funding
from farthing_cloud.ledger.core.posting import Transfer
from farthing_cloud.ledger.core.quotas import GrantTerms, QuotaRequest
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import AccountStatus
from farthing_cloud.ledger.core.windows import SplitRule
from farthing_cloud.ledger.operations import BatchOutcome, Ledger
from farthing_cloud.ledger.store.memory import MemoryStore

OP, EUR = OperatorId("op"), Currency("EUR")
SITES = {"G1": "S1", "G2": "S2"}
CHG, TOLL = ("chg-3", 200_000), ("toll-1", 70_000)
NOW = Instant(0)
TERMS = GrantTerms(share_ppm=1_000_000, smallest_micros=1, most_open_per_account=3, lifetime_us=1, outage_us=1)
#: The ids of requests, so that the quotas are the example's q1, q2, q3.
SPLIT = SplitRule(
    rule_version=1,
    parts=(("agency/A", 600_000), ("agency/B", 300_000), ("fee/op", 100_000)),
    remainder_path="agency/A",
)


def micros(text: str) -> int:
    whole, _, rest = text.partition(".")
    return int(whole) * 1_000_000 + int(f"{rest:0<6}")


class Story:
    """Two gateways' batches, sealed in order, and the ledger they go to."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.ledger = Ledger(self.store, terms=TERMS, receipt_keys=())
        self.sealed: dict[str, list[bytes]] = {"G1": [], "G2": []}
        self.quotas: dict[str, str] = {}
        self.counter = 0

    def account(self, name: str) -> str:
        return name

    async def open(self) -> None:
        for gateway, exposure in (("G1", "10"), ("G2", "8")):
            await self.ledger.put_gateway(
                gateway_id=GatewayId(gateway),
                operator_id=OP,
                site_id=SiteId(SITES[gateway]),
                currency=EUR,
                exposure_micros=micros(exposure),
                batch_key=b"",
                grant_key=b"",
                time_zone="Europe/Berlin",
                now=NOW,
            )
        for account in ("P", "F"):
            await self.ledger.put_account(
                operator_id=OP,
                account_id=AccountId(account),
                currency=EUR,
                credit_limit_micros=0,
                debt_limit_micros=micros("1"),
                status=AccountStatus.ACTIVE,
                preload_micros=0,
                now=NOW,
            )

    async def fund(self, account: str, amount: str, payment: str) -> None:
        funding = Funding(
            operator_id=OP,
            account_id=AccountId(account),
            currency=EUR,
            amount_micros=micros(amount),
            payment_id=payment,
            source="bank/main",
        )
        assert await self.ledger.fund(funding, now=NOW)
        assert not await self.ledger.fund(funding, now=NOW)

    async def grant(self, name: str, gateway: str, amount: str) -> None:
        self.counter += 1
        request = QuotaRequest(
            operator_id=OP,
            gateway_id=GatewayId(gateway),
            incarnation=1,
            counter=self.counter,
            account_id=AccountId("P"),
            currency=EUR,
            wanted_micros=micros(amount),
        )
        answer = await self.ledger.request_quota(request, now=NOW)
        assert answer == await self.ledger.request_quota(request, now=NOW)
        assert answer.amount_micros == micros(amount)
        self.quotas[name] = answer.quota_id

    def seal(
        self,
        gateway: str,
        claims: list[tuple[str, str, int, int, str, str, list[tuple[int, str, str]]]],
        lines: list[tuple[str, str, tuple[str, int], str]],
        *,
        stopped: dict[str, str] | None = None,
        closed: tuple[str, ...] = (),
    ) -> bytes:
        """Claims as (authorization, register, from, to, net, tax, shares), lines as (account, funding, tariff, quarter)."""
        chain = self.sealed[gateway]
        batch = batch_pb2.Batch(
            operator_id=OP,
            site_id=SITES[gateway],
            gateway_id=gateway,
            incarnation=1,
            start_id=bytes(16),
            sequence=len(chain) + 1,
            previous_hash=receive(chain[-1], signature=b"", key_id=b"", currency=EUR).batch_hash
            if chain
            else bytes(32),
            first_position=1,
            last_position=1,
            merkle_root=bytes(32),
            leaf_count=len(claims),
            closed_quota_ids=[self.quotas[q] for q in closed],
            stopped=[
                batch_pb2.StoppedQuota(quota_id=self.quotas[q], still_held_micros=micros(held))
                for q, held in (stopped or {}).items()
            ],
        )
        for authorization, register, start, end, net, tax, shares in claims:
            batch.claims.append(
                batch_pb2.Claim(
                    authorization_id=authorization.encode().ljust(16),
                    device_id=register,
                    register_id="1",
                    register_from=start,
                    register_to=end,
                    net_micros=micros(net),
                    tax_micros=micros(tax),
                    shares=[
                        batch_pb2.Share(line=line, net_micros=micros(n), tax_micros=micros(v)) for line, n, v in shares
                    ],
                )
            )
        for index, (account, funding, (tariff, rate), quarter) in enumerate(lines):
            mine = [share for claim in batch.claims for share in claim.shares if share.line == index]
            line = batch_pb2.Line(
                account_id=account,
                currency=EUR,
                tariff_id=tariff,
                tariff_version=1,
                tax_rate_ppm=rate,
                evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
                quarter=int(quarter[:2]) * 4 + int(quarter[3:]) // 15,
                net_micros=sum(share.net_micros for share in mine),
                tax_micros=sum(share.tax_micros for share in mine),
            )
            if funding == "overrun":
                line.overrun = True
            elif funding == "floor":
                line.floor = True
            else:
                line.quota_id = self.quotas[funding]
            batch.lines.append(line)
        raw = batch.SerializeToString(deterministic=True)
        chain.append(raw)
        return raw

    async def push(self, raw: bytes) -> BatchOutcome:
        batch = receive(raw, signature=b"", key_id=b"", currency=EUR)
        return await self.ledger.post_batch(batch, currency=EUR, now=NOW)

    async def rows(self, start: int = 0) -> list[str]:
        """Transfers as the page writes them: kind, Dr, Cr, amount, why."""
        names = {quota_id: name for name, quota_id in self.quotas.items()}
        return [self._row(t, names) for t in (await self.store.transfers(OP))[start:]]

    @staticmethod
    def _row(t: Transfer, names: dict[str, str]) -> str:
        kind = t.kind.value + (f" {names[t.quota_id]}" if t.quota_id else "")
        short = [path.replace("clearing/", "clr/").removesuffix("/w1") for path in (t.debit, t.credit)]
        return f"{kind} | {short[0]} | {short[1]} {format_micros(t.amount_micros)} | {t.cause.value}"

    async def state(self) -> str:
        """A row of the page's table "after each batch"."""
        all_of = {path: b for path, _, b in await self.store.balances(OP, "")}

        def net(path: str) -> int:
            b = all_of.get(path)
            return 0 if b is None else b.credits_posted - b.debits_posted

        def text(amount: int) -> str:
            return format_micros(amount) if amount else "0"

        payer = all_of["payer/P"]
        held = {q.quota_id: q.held_micros for q in await self.store.quotas(OP)}
        quotas = " ".join(text(held[QuotaId(self.quotas[q])]) for q in ("q1", "q2", "q3"))
        figures = [
            text(payer.debits_posted),
            quotas,
            text(net("payer/P") - payer.debits_pending),
            text(-net("debt/P")),
            text(-net("debt/F")),
            text(-net("risk")),
            *(text(net(path)) for path in ("clearing/S1/w1", "clearing/S2/w1", "tax/20", "tax/7", "unearned/S2")),
        ]
        return "|".join(figures)


async def grants(story: Story) -> None:
    await story.open()
    await story.fund("P", "10.00", "pay-1")
    await story.fund("F", "0.80", "pay-2")
    await story.grant("q1", "G1", "4.00")
    await story.grant("q2", "G2", "3.00")
    await story.grant("q3", "G1", "2.00")


def seal_all(story: Story) -> dict[str, bytes]:
    """The page's table of batches."""
    return {
        "G1#1": story.seal(
            "G1",
            [
                ("t1", "x1", 41, 42, "1.121495", "0.078505", [(0, "1.121495", "0.078505")]),
                ("a1", "c1", 812340, 816477, "1.53425", "0.30685", [(1, "1.53425", "0.30685")]),
            ],
            [("P", "q1", TOLL, "10:00"), ("P", "q1", CHG, "10:00")],
        ),
        "G1#2": story.seal(
            "G1",
            [
                (
                    "a1",
                    "c1",
                    812340,
                    824891,
                    "3.63775",
                    "0.72755",
                    [(0, "0.799083", "0.159817"), (1, "0.242417", "0.048483"), (2, "1.062", "0.2124")],
                )
            ],
            [("P", "q1", CHG, "10:15"), ("P", "q3", CHG, "10:15"), ("P", "q3", CHG, "10:30")],
            closed=("q1",),
        ),
        "G1#3": story.seal(
            "G1",
            [("a1", "c1", 812340, 834820, "6.125", "1.225", [(0, "0.36225", "0.07245"), (1, "2.125", "0.425")])],
            [("P", "q3", CHG, "11:00"), ("P", "overrun", CHG, "11:00")],
            closed=("q3",),
        ),
        "G2#1": story.seal(
            "G2",
            [
                ("t3", "x1", 41, 42, "1.121495", "0.078505", [(0, "1.121495", "0.078505")]),
                ("t4", "x9", 7, 8, "1.121495", "0.078505", [(1, "1.121495", "0.078505")]),
                ("a3", "c2", 55000, 55880, "0.72", "0.144", [(2, "0.72", "0.144")]),
            ],
            [("P", "q2", TOLL, "10:30"), ("F", "floor", TOLL, "10:45"), ("P", "q2", CHG, "11:00")],
        ),
        "G2#2": story.seal(
            "G2",
            [("a3", "c2", 55000, 56640, "0.91", "0.182", [(0, "0.19", "0.038")])],
            [("P", "q2", CHG, "11:15")],
            stopped={"q2": "0.078"},
        ),
        "G2#3": story.seal(
            "G2",
            [("a3", "c2", 55000, 56640, "0.925", "0.185", [(0, "0.015", "0.003")])],
            [("P", "q2", CHG, "11:15")],
            closed=("q2",),
        ),
    }


ORDER = ("G1#1", "G1#2", "G1#3", "G2#1", "G2#2", "G2#3")

T4 = """
post | bank/main | payer/P 10.00 | fund
post | bank/main | payer/F 0.80 | fund
hold q1 | payer/P | quota/G1 4.00 | grant
hold q2 | payer/P | quota/G2 3.00 | grant
hold q3 | payer/P | quota/G1 2.00 | grant
post q1 | payer/P | clr/S1 1.121495 | use
post q1 | payer/P | tax/7 0.078505 | use
post q1 | payer/P | clr/S1 1.53425 | use
post q1 | payer/P | tax/20 0.30685 | use
post q1 | payer/P | clr/S1 0.799083 | use
post q1 | payer/P | tax/20 0.159817 | use
post q3 | payer/P | clr/S1 0.242417 | use
post q3 | payer/P | tax/20 0.048483 | use
post q3 | payer/P | clr/S1 1.062 | use
post q3 | payer/P | tax/20 0.2124 | use
post q3 | payer/P | clr/S1 0.36225 | use
post q3 | payer/P | tax/20 0.07245 | use
post | payer/P | clr/S1 0.833333 | overrun
post | payer/P | tax/20 0.166667 | overrun
post | debt/P | clr/S1 0.833333 | overrun
post | debt/P | tax/20 0.166667 | overrun
post | risk | clr/S1 0.458334 | overrun
post | risk | tax/20 0.091666 | overrun
post | suspense/S2 | unearned/S2 1.20 | second-claim
void q2 | payer/P | quota/G2 1.20 | second-claim
post | payer/F | clr/S2 0.747663 | floor
post | payer/F | tax/7 0.052337 | floor
post | debt/F | clr/S2 0.373832 | floor
post | debt/F | tax/7 0.026168 | floor
post q2 | payer/P | clr/S2 0.72 | use
post q2 | payer/P | tax/20 0.144 | use
post | payer/P | debt/P 1.00 | debt
post q2 | payer/P | clr/S2 0.19 | use
post q2 | payer/P | tax/20 0.038 | use
void q2 | payer/P | quota/G2 0.63 | above-held
post q2 | payer/P | clr/S2 0.015 | use
post q2 | payer/P | tax/20 0.003 | use
void q2 | payer/P | quota/G2 0.06 | closed
""".strip().splitlines()

RELEASED = """
post | unearned/S2 | suspense/S2 1.20 | reversed
post | payer/P | clr/S2 0.831775 | late
post | payer/P | tax/7 0.058225 | late
post | debt/P | clr/S2 0.28972 | late
post | debt/P | tax/7 0.02028 | late
""".strip().splitlines()

CLOSED = """
post | clr/S1 | agency/A 4.347898 | split
post | clr/S1 | agency/B 2.173948 | split
post | clr/S1 | fee/op 0.724649 | split
post | clr/S2 | clr/S2/w2 0.015 | carried
post | clr/S2 | agency/A 1.218898 | split
post | clr/S2 | agency/B 0.609448 | split
post | clr/S2 | fee/op 0.203149 | split
""".strip().splitlines()

AFTER = {
    "grants": "0|4.00 3.00 2.00|1.00|0|0|0|0|0|0|0|0",
    "G1#1": "3.0411|0.9589 3.00 2.00|1.00|0|0|0|2.655745|0|0.30685|0.078505|0",
    "G1#2": "5.5653|0 3.00 0.4347|1.00|0|0|0|4.759245|0|0.72755|0.078505|0",
    "G1#3": "7.00|0 3.00 0|0|1.00|0|0.55|7.246495|0|1.225|0.078505|0",
    "G2#1": "8.864|0 0.936 0|0.20|0|0.40|0.55|7.246495|1.841495|1.369|0.15701|1.20",
    "G2#2": "9.092|0 0.078 0|0.83|0|0.40|0.55|7.246495|2.031495|1.407|0.15701|1.20",
    "G2#3": "9.11|0 0 0|0.89|0|0.40|0.55|7.246495|2.046495|1.41|0.15701|1.20",
}


async def told() -> tuple[Story, dict[str, bytes]]:
    story = Story()
    await grants(story)
    sealed = seal_all(story)
    for name in ORDER:
        assert (await story.push(sealed[name])).step is ChainStep.NEXT
    return story, sealed


async def test_rows_1_to_38() -> None:
    story = Story()
    await grants(story)
    assert await story.state() == AFTER["grants"]
    sealed = seal_all(story)
    for name in ORDER:
        outcome = await story.push(sealed[name])
        assert outcome.step is ChainStep.NEXT
        assert await story.state() == AFTER[name], name
        assert (await story.store.verify()).fault == ""
    assert await story.rows() == T4


def test_the_rows_here_are_those_of_the_page(shared_data: Callable[[str], Path]) -> None:
    """Amount by amount, so that a change of the page is noticed here."""
    page = shared_data("example/EXAMPLE.md").read_text(encoding="utf-8")
    for row in (*T4, *RELEASED, *CLOSED):
        assert row.split(" | ")[2].split(" ")[-1] in page, row
    for after, figures in AFTER.items():
        assert f"|{after}|{figures}|" in page


async def test_a_replay_gives_the_same_receipts_and_posts_nothing() -> None:
    story = Story()
    await grants(story)
    sealed = seal_all(story)
    receipts = {}
    for name in ORDER:
        outcome = await story.push(sealed[name])
        assert outcome.receipt is not None
        receipts[name] = outcome.receipt.encode()
    for name in ORDER:
        outcome = await story.push(sealed[name])
        assert outcome.step is ChainStep.REPLAY
        assert outcome.receipt is not None
        assert outcome.receipt.encode() == receipts[name]
    assert await story.rows() == T4


@pytest.mark.parametrize("order", [ORDER, tuple(reversed(ORDER))])
async def test_the_same_claims_in_another_chain_bill_nothing(order: tuple[str, ...]) -> None:
    story, sealed = await told()
    for gateway in ("G1", "G2"):
        known = await story.store.gateway(GatewayId(gateway))
        assert known is not None
        story.store._gateways[GatewayId(gateway)] = replace(known, incarnation=2)
    heads = {"G1": (0, bytes(32)), "G2": (0, bytes(32))}
    for name in order:
        gateway = name[:2]
        again = batch_pb2.Batch.FromString(sealed[name])
        sequence, head = heads[gateway]
        again.incarnation, again.sequence, again.previous_hash = 2, sequence + 1, head
        raw = again.SerializeToString(deterministic=True)
        assert (await story.push(raw)).step is ChainStep.NEXT
        heads[gateway] = (sequence + 1, receive(raw, signature=b"", key_id=b"", currency=EUR).batch_hash)
    assert await story.rows() == T4
    assert (await story.store.verify()).fault == ""


async def test_the_second_claim_released() -> None:
    story, _ = await told()
    (case,) = await story.store.cases(OP)
    assert (case.authorization_id, case.other_authorization_id) == (b"t3".ljust(16), b"t1".ljust(16))
    assert await story.ledger.decide_case(OP, case.case_id, release=True, now=NOW)
    assert not await story.ledger.decide_case(OP, case.case_id, release=True, now=NOW)
    assert await story.rows(38) == RELEASED
    assert (await story.store.verify()).fault == ""


async def test_the_second_claim_voided_then_the_window_closed() -> None:
    story, _ = await told()
    (case,) = await story.store.cases(OP)
    assert await story.ledger.decide_case(OP, case.case_id, release=False, now=NOW)
    assert await story.rows(38) == RELEASED[:1]
    for gateway in ("G1", "G2"):
        for sequence in (1, 2, 3):
            if (gateway, sequence) != ("G2", 3):  # L12 is not proven yet
                assert await story.ledger.prove(GatewayId(gateway), 1, sequence, events=(), now=NOW)
    rules = {SiteId("S1"): SPLIT, SiteId("S2"): SPLIT}
    answer = await story.ledger.close_window(OP, EUR, "w1", rules, now=NOW)
    assert await story.ledger.close_window(OP, EUR, "w1", rules, now=NOW) == answer
    assert await story.rows(39) == CLOSED
    assert [(site.site_id, site.split_micros, site.carried_micros) for site in answer.sites] == [
        ("S1", 7_246_495, 0),
        ("S2", 2_031_495, 15_000),
    ]
    balances = {path: b.credits_posted - b.debits_posted for path, _, b in await story.store.balances(OP, "")}
    owed = {"agency/A": 5_566_796, "agency/B": 2_783_396, "fee/op": 927_798}
    assert {path: balances[path] for path in owed} == owed
    assert balances[paths.clearing("S1", "w1")] == balances[paths.clearing("S2", "w1")] == 0
    assert (await story.store.verify()).fault == ""
