"""The worked example's ledger half: who funds, grants and sends which batch; over any store."""

from typing import Any

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, SiteId
from farthing.money import Currency, format_micros
from farthing.v1 import batch_pb2, events_pb2
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.corrections import Order
from farthing_cloud.ledger.core.funds import Funding
from farthing_cloud.ledger.core.posting import Cause, Posting, Transfer
from farthing_cloud.ledger.core.quotas import GrantTerms, QuotaRequest
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import AccountStatus, Correction, CorrectionKind, Touch
from farthing_cloud.ledger.core.windows import SplitRule
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import Cursor, LedgerStore, Transaction
from farthing_cloud.ledger.together import BatchOutcome

OP, EUR = OperatorId("op"), Currency("EUR")
SITES = {"G1": "S1", "G2": "S2"}
CHG, TOLL = ("chg-3", 200_000), ("toll-1", 70_000)
NOW = Instant(0)
TERMS = GrantTerms(share_ppm=1_000_000, smallest_micros=1, most_open_per_account=3, lifetime_us=1, outage_us=1)
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

    def __init__(self, store: LedgerStore) -> None:
        self.store = store
        self.ledger = Ledger(self.store, terms=TERMS, receipt_keys=())
        self.sealed: dict[str, list[bytes]] = {"G1": [], "G2": []}
        #: The incarnation each gateway seals in.
        self.incarnations = {"G1": 1, "G2": 1}
        self.quotas: dict[str, str] = {}
        self.counter = 0

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

    def begins(self, gateway: str) -> None:
        """Seal in the next incarnation from here on."""
        self.incarnations[gateway] += 1
        self.sealed[gateway] = []

    async def grant(self, name: str, gateway: str, amount: str, now: Instant = NOW) -> None:
        self.counter += 1
        request = QuotaRequest(
            operator_id=OP,
            gateway_id=GatewayId(gateway),
            incarnation=self.incarnations[gateway],
            counter=self.counter,
            account_id=AccountId("P"),
            currency=EUR,
            wanted_micros=micros(amount),
        )
        answer = await self.ledger.request_quota(request, now=now)
        assert answer == await self.ledger.request_quota(request, now=now)
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
        carried: tuple[batch_pb2.CarriedEnd, ...] = (),
        parked: tuple[batch_pb2.ParkedStatement, ...] = (),
    ) -> bytes:
        """Claims as (authorization, register, from, to, net, tax, shares), lines as (account, funding, tariff, quarter)."""
        chain = self.sealed[gateway]
        batch = batch_pb2.Batch(
            operator_id=OP,
            site_id=SITES[gateway],
            gateway_id=gateway,
            incarnation=self.incarnations[gateway],
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
            carried=carried,
            parked=parked,
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

    async def push_at(self, raw: bytes, at_us: int) -> BatchOutcome:
        """Push a batch that arrives later."""
        batch = receive(raw, signature=b"", key_id=b"", currency=EUR)
        return await self.ledger.post_batch(batch, currency=EUR, now=Instant(at_us))

    async def rows(self, start: int = 0) -> list[str]:
        """Transfers as the page writes them: kind, Dr, Cr, amount, why."""
        names = {quota_id: name for name, quota_id in self.quotas.items()}
        return [self._row(t, names) for t in (await self.store.transfers(OP))[start:]]

    @staticmethod
    def _row(t: Transfer, names: dict[str, str]) -> str:
        kind = t.kind.value + (f" {names[t.quota_id]}" if t.quota_id else "")
        short = [path.replace("clearing/", "clr/").removesuffix("/w1") for path in (t.debit, t.credit)]
        return f"{kind} | {short[0]} | {short[1]} {format_micros(t.amount_micros)} | {t.cause.value}"


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


async def close_and_pay(story: Story) -> None:
    """The page's steps "voided", "close w1" and the payout, rows 39 to 49."""
    (event,) = await story.store.events(Cursor(), 10, ("case.opened",))
    case_id = events_pb2.CaseOpened.FromString(event.value).case_id
    assert await story.ledger.decide_case(case_id, release=False, now=NOW)
    for gateway in ("G1", "G2"):
        for sequence in (1, 2, 3):
            if (gateway, sequence) != ("G2", 3):  # L12 is not proven yet
                assert await story.ledger.prove(GatewayId(gateway), 1, sequence, events=(), now=NOW)
    rules = {SiteId("S1"): SPLIT, SiteId("S2"): SPLIT}
    await story.ledger.close_window(OP, EUR, "w1", rules, now=NOW)

    async def pay(tx: Transaction) -> None:
        view = await tx.load(Touch(operator_id=OP, currency=EUR))
        book = Book(view)
        for path, amount in (("agency/A", "5.56"), ("agency/B", "2.78"), ("fee/op", "0.92")):
            book.post(path, "bank/main", micros(amount), Cause.SPLIT)
        await tx.post(
            Posting(
                kind="payout",
                operator_id=OP,
                currency=EUR,
                posted_at=NOW,
                business_at=NOW,
                transfers=book.transfers(),
                changes=book.changes(),
            )
        )

    await story.store.run(pay)


def order(kind: str, correction_id: str, **names: Any) -> Order:
    """An order of a correction; an authorization as the page names it, an amount as it writes it."""
    if "use" in names:
        names["authorization_id"] = AuthorizationId(names.pop("use").encode().ljust(16))
    return Order(
        operator_id=OP,
        correction_id=correction_id,
        kind=CorrectionKind(kind),
        reason="as the page tells",
        amount_micros=micros(names.pop("amount", "0")),
        **names,
    )


async def afterwards(story: Story) -> list[tuple[bool, Currency, Correction]]:
    """The page's step 9, rows 50 to 64: each correction twice."""
    await story.fund("F", "5.00", "pay-3")
    said: list[tuple[bool, Currency, Correction]] = []
    refund = order("refund", "refund-t4", use="t4", gateway_id="G2")
    said += [await story.ledger.correct(refund, person="alice", now=NOW) for _ in range(2)]
    # So much later that what the account spent that day is no reason to give it more.
    await story.grant("q4", "G1", "0.50", Instant(10**14))
    chargeback = order("chargeback", "back-1", account_id="P", payment_id="pay-1")
    said += [await story.ledger.correct(chargeback, person="alice", now=NOW) for _ in range(2)]
    assert (await story.push(story.seal("G1", [], [], closed=("q4",)))).step is ChainStep.NEXT
    assert await story.ledger.prove(GatewayId("G2"), 1, 3, events=(), now=NOW)
    await story.ledger.close_window(OP, EUR, "w2", {SiteId("S2"): SPLIT}, now=NOW)
    return said
