"""What people and two gateways may do to a ledger, in any order, and what holds whatever they did (P1, P3, P5).

Over any store: what the rules ask of it beyond its interface are :class:`Rows`.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypothesis import strategies as st
from ledger_story import EUR, NOW, OP, SITES, SPLIT, TERMS

from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.v1 import batch_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.corrections import Order
from farthing_cloud.ledger.core.funds import Funding, LedgerRefusal
from farthing_cloud.ledger.core.quotas import QuotaRequest
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import (
    AccountStatus,
    Aside,
    Case,
    CaseKind,
    CaseStatus,
    Claimed,
    CorrectionKind,
    Payment,
    Quota,
    QuotaStatus,
    Touch,
)
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import LedgerStore
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.reading import aside_of, claimed_of, quota_of

EXPOSURE = 1_200
DEBT_LIMIT = 200
CREDIT = {"A": 0, "B": 300}
#: Paybacks are whole cents: one of more than one cent wants two persons.
PAYBACK_ALONE = 10_000

use = st.tuples(
    st.sampled_from(["A", "B", ""]),  # account
    st.sampled_from(["quota", "floor", "overrun"]),
    st.integers(0, 3),  # register
    st.integers(0, 5),  # authorization of that register at that gateway
    st.integers(1, 4),  # width
    st.integers(0, 700),  # net
    st.integers(0, 150),  # tax
)
step = st.one_of(
    # Now and then enough that a bank can pay it back.
    st.tuples(st.just("fund"), st.sampled_from(["A", "B"]), st.integers(1, 1500) | st.sampled_from([20_000, 50_000])),
    st.tuples(st.just("ask"), st.sampled_from(["G1", "G2"]), st.sampled_from(["A", "B"]), st.integers(1, 1500)),
    st.tuples(st.just("seal"), st.sampled_from(["G1", "G2"]), st.lists(use, max_size=5), st.sampled_from([0, 1, 2])),
    st.tuples(st.just("again"), st.sampled_from(["G1", "G2"])),
    st.tuples(st.just("decide"), st.booleans()),
    st.tuples(st.just("recall"), st.sampled_from(["A", "B"])),
    st.tuples(st.just("prove"), st.sampled_from(["G1", "G2"])),
    st.tuples(st.just("close")),
    # Which use, of those there are; how much of it, 0 for all that is left.
    st.tuples(st.sampled_from(["refund", "dispute"]), st.integers(0, 20), st.integers(0, 300)),
    st.tuples(st.just("end"), st.booleans()),
    st.tuples(st.just("chargeback"), st.integers(0, 20), st.integers(0, 900)),
    st.tuples(st.just("goodwill"), st.sampled_from(["A", "B"]), st.integers(1, 300)),
    st.tuples(st.sampled_from(["payback", "write-off"]), st.sampled_from(["A", "B"]), st.integers(0, 3)),
    # What is said of which payback, under which reference of the bank.
    st.tuples(
        st.sampled_from(["payback-approved", "payback-handed", "payback-sent", "payback-failed", "payback-returned"]),
        st.integers(0, 5),
        st.integers(0, 3),
    ),
)
#: A balance, ordered back, and what the bank makes of it.
about_paybacks = st.tuples(
    st.tuples(st.just("goodwill"), st.just("A"), st.just(20_000)),
    st.tuples(st.just("payback"), st.just("A"), st.integers(0, 2)),
    st.tuples(st.sampled_from(["payback-approved", "payback-handed"]), st.integers(0, 2), st.integers(0, 1)),
    st.tuples(
        st.sampled_from(["payback-handed", "payback-sent", "payback-failed"]), st.integers(0, 2), st.integers(0, 3)
    ),
    st.tuples(st.sampled_from(["payback-returned", "payback-sent"]), st.integers(0, 2), st.integers(0, 3)),
).map(list)
#: A use, and what is done about it: steps that come together more often than by chance.
about_uses = st.tuples(
    st.tuples(st.just("seal"), st.sampled_from(["G1", "G2"]), st.lists(use, min_size=1, max_size=5), st.just(0)),
    st.sampled_from([("prove", "G1"), ("prove", "G2"), ("decide", True)]),
    st.sampled_from([("close",), ("again", "G1")]),
    st.tuples(st.sampled_from(["refund", "refund", "dispute"]), st.integers(0, 20), st.sampled_from([0, 1, 99])),
).map(list)
steps_of = st.lists(step.map(lambda one: [one]) | about_uses | about_paybacks, min_size=4, max_size=20).map(
    lambda groups: [one for group in groups for one in group]
)


@dataclass
class Edge:
    """What a gateway says: its chain, and what each of its authorizations has billed so far."""

    name: str
    sent: list[bytes] = field(default_factory=list)
    head: bytes = bytes(32)
    so_far: dict[tuple[int, int], tuple[int, int, int, int]] = field(default_factory=dict)
    quotas: list[tuple[str, str]] = field(default_factory=list)


class Rows(Protocol):
    """What the rules ask of a ledger's rows beyond the store's interface."""

    async def quotas(self, operator_id: OperatorId) -> Sequence[Quota]:
        """Every quota."""

    async def claims(self, operator_id: OperatorId) -> Sequence[Claimed]:
        """The highest claim of every authorization."""

    async def cases(self, operator_id: OperatorId) -> Sequence[Case]:
        """Every case, with what was set aside for it."""

    async def payments(self, operator_id: OperatorId) -> Sequence[Payment]:
        """Every payment, in the order of posting."""


class MemoryRows:
    """Of a ledger in memory."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.quotas, self.claims, self.cases = store.quotas, store.claims, store.cases

    async def payments(self, operator_id: OperatorId) -> Sequence[Payment]:
        books = [book for (operator, _), book in self._store._books.items() if operator == operator_id]
        return [payment for book in books for payment in book.payments.values()]


class PostgresRows:
    """Of a ledger in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def _rows(self, query: str, operator_id: OperatorId) -> list[Any]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(query, (operator_id,))).fetchall()

    async def quotas(self, operator_id: OperatorId) -> Sequence[Quota]:
        columns = """quota_id, gateway_id, incarnation, account_id, amount_micros, posted_micros, voided_micros, status,
            spend_until_us, report_until_us, request_counter, in_use_at_us"""
        rows = await self._rows(f"SELECT {columns} FROM quotas WHERE operator_id = %s ORDER BY id", operator_id)
        return [quota_of(row) for row in rows]

    async def claims(self, operator_id: OperatorId) -> Sequence[Claimed]:
        query = """SELECT c.authorization_id, r.device_id, r.register_id, r.register_epoch, c.register_from, c.register_to,
            c.net_micros, c.tax_micros, c.final, c.aside, c.gateway_id, c.incarnation, c.sequence, c.raised_by
            FROM claims c JOIN registers r ON r.id = c.register WHERE c.operator_id = %s"""
        return [claimed_of(row) for row in await self._rows(query, operator_id)]

    async def cases(self, operator_id: OperatorId) -> Sequence[Case]:
        query = """SELECT s.case_id, s.gateway_id, s.incarnation, s.sequence, s.line, s.account_id, s.site_id, s.rate_ppm,
            s.net_micros, s.tax_micros FROM asides s JOIN cases c ON c.id = s.case_id WHERE c.operator_id = %s ORDER BY s.id"""
        asides: dict[int, list[Aside]] = {}
        for row in await self._rows(query, operator_id):
            asides.setdefault(row[0], []).append(aside_of(row[1:]))
        query = """SELECT id, kind, status, device_id, authorization_id, other_authorization_id FROM cases
            WHERE operator_id = %s ORDER BY id"""
        return [
            Case(
                case_id=row[0],
                kind=CaseKind(row[1]),
                status=CaseStatus(row[2]),
                device_id=row[3],
                authorization_id=row[4],
                other_authorization_id=row[5],
                asides=tuple(asides.get(row[0], ())),
            )
            for row in await self._rows(query, operator_id)
        ]

    async def payments(self, operator_id: OperatorId) -> Sequence[Payment]:
        query = """SELECT payment_id, account_id, amount_micros, source FROM payments WHERE operator_id = %s
            ORDER BY posting_id"""
        return [
            Payment(payment_id=row[0], account_id=AccountId(row[1]), amount_micros=row[2], source=row[3])
            for row in await self._rows(query, operator_id)
        ]


@dataclass
class Model:
    """A ledger, and the gateways that bill to it."""

    store: LedgerStore
    rows: Rows
    ledger: Ledger
    edges: dict[str, Edge]

    @classmethod
    async def open(cls, store: LedgerStore, rows: Rows) -> "Model":
        """Two gateways and two accounts, and nothing moved yet."""
        ledger = Ledger(store, terms=TERMS, receipt_keys=(), payback_alone_micros=PAYBACK_ALONE)
        for name, site in SITES.items():
            await ledger.put_gateway(
                gateway_id=GatewayId(name),
                operator_id=OP,
                site_id=SiteId(site),
                currency=EUR,
                exposure_micros=EXPOSURE,
                batch_key=b"",
                grant_key=b"",
                time_zone="UTC",
                now=NOW,
            )
        for account, credit in CREDIT.items():
            await ledger.put_account(
                operator_id=OP,
                account_id=AccountId(account),
                currency=EUR,
                credit_limit_micros=credit,
                debt_limit_micros=DEBT_LIMIT,
                status=AccountStatus.ACTIVE,
                preload_micros=0,
                now=NOW,
            )
        return cls(store, rows, ledger, {name: Edge(name) for name in SITES})


async def act(model: Model, number: int, action: tuple[object, ...]) -> None:
    """Do one thing, and see that it does not count twice."""
    ledger, store, edges = model.ledger, model.store, model.edges
    match action:
        case ("fund", str(account), int(amount)):
            funding = Funding(
                operator_id=OP,
                account_id=AccountId(account),
                currency=EUR,
                amount_micros=amount,
                payment_id=f"p{number}",
                source="bank/main",
            )
            await ledger.fund(funding, now=NOW)
        case ("ask", str(gateway), str(account), int(wanted)):
            request = QuotaRequest(
                operator_id=OP,
                gateway_id=GatewayId(gateway),
                incarnation=1,
                counter=number + 1,
                account_id=AccountId(account),
                currency=EUR,
                wanted_micros=wanted,
            )
            answer = await ledger.request_quota(request, now=NOW)
            if answer.quota_id:
                edges[gateway].quotas.append((account, answer.quota_id))
        case ("seal", str(gateway), list(uses), int(ending)):
            batch = receive(seal(edges[gateway], uses, ending), signature=b"", key_id=b"", currency=EUR)
            assert (await ledger.post_batch(batch, currency=EUR, now=NOW)).step is ChainStep.NEXT
        case ("again", str(gateway)):
            before = await store.transfers(OP)
            for raw in edges[gateway].sent:
                batch = receive(raw, signature=b"", key_id=b"", currency=EUR)
                assert (await ledger.post_batch(batch, currency=EUR, now=NOW)).step is ChainStep.REPLAY
            assert await store.transfers(OP) == before
        case ("decide", bool(release)):
            waiting = [case for case in await model.rows.cases(OP) if case.asides and case.status == "open"]
            if waiting:
                await ledger.decide_case(waiting[0].case_id, release=release, now=NOW)
        case ("recall", str(account)):
            await ledger.recall(OP, gateway_id="", account_id=account, reason="asked", now=NOW)
        case ("prove", str(gateway)):
            proven = (await store.chain(GatewayId(gateway), 1)).proven_sequence
            if proven < len(edges[gateway].sent):
                await ledger.prove(GatewayId(gateway), 1, proven + 1, events=(), now=NOW)
        case ("close",):
            await close(model, await open_window(model))
        case _:
            await correct(model, number, action)


async def open_window(model: Model) -> str:
    """The window that postings go to now."""
    return (await model.store.run(lambda tx: tx.load(Touch(operator_id=OP, currency=EUR)))).window


async def close(model: Model, window: str) -> None:
    """Close a window, or hear once more how it was closed."""
    await model.ledger.close_window(OP, EUR, window, {SiteId(site): SPLIT for site in SITES.values()}, now=NOW)


async def correct(model: Model, number: int, action: tuple[object, ...]) -> None:
    """A correction, twice: a refusal changes nothing, and neither does the second time."""
    ledger, store = model.ledger, model.store
    before = await store.transfers(OP)
    try:
        order = await order_of(model, number, action)
        if order is None:
            return
        changed, _, first = await ledger.correct(order, person=person_of(action), now=NOW)
    except LedgerRefusal:
        assert await store.transfers(OP) == before
        return
    after = await store.transfers(OP)
    assert changed
    assert await ledger.correct(order, person="bob", now=NOW) == (False, EUR, first)
    assert await store.transfers(OP) == after


def person_of(action: tuple[object, ...]) -> str:
    """Who asks for it: alice orders everything; approvals are hers or bob's."""
    return "bob" if action[0] == "payback-approved" and action[-1] != 0 else "alice"


async def order_of(model: Model, number: int, action: tuple[object, ...]) -> Order | None:
    """What is asked for; None where there is nothing yet that it could be about. Raises ``LedgerRefusal``."""
    names: dict[str, Any] = {}
    kind = str(action[0])
    match action:
        case ("refund" | "dispute", int(which), int(amount)):
            uses = sorted(claim.key for claim in await model.rows.claims(OP))
            if not uses:
                return None
            authorization_id, gateway_id = uses[which % len(uses)]
            names = {"authorization_id": authorization_id, "gateway_id": gateway_id, "amount_micros": amount}
        case ("end", bool(won)):
            posted = [correction for _, correction in await model.store.corrections(OP, "", 1_000)]
            ended = {correction.dispute_id for correction in posted}
            open_ones = [c for c in posted if c.kind == "dispute" and c.correction_id not in ended]
            if not open_ones:
                return None
            kind = "dispute-won" if won else "dispute-lost"
            names = {"dispute_id": open_ones[0].correction_id}
        case ("chargeback", int(which), int(amount)):
            payments = await model.rows.payments(OP)
            if not payments:
                return None
            payment = payments[which % len(payments)]
            names = {"account_id": AccountId(payment.account_id), "payment_id": payment.payment_id}
            names["amount_micros"] = amount
        case (str(kind), int(which), int(reference)) if kind.startswith("payback-"):
            ordered = [each for _, each in await model.store.corrections(OP, "", 1_000) if each.kind == "payback"]
            if not ordered:
                return None
            names = {"payback_id": ordered[which % len(ordered)].correction_id}
            if kind in ("payback-sent", "payback-returned"):
                names["payment_id"] = f"camt-{reference}"
            if kind == "payback-approved":
                names["approved_hash"] = hashlib.sha256(ordered[which % len(ordered)].content).digest()
        case ("payback", str(account), int(amount)):
            # Whole cents, as a bank pays them: 0 is all that is left.
            names = {"account_id": AccountId(account), "path": "bank/main", "amount_micros": amount * 10_000}
        case (_, str(account), int(amount)):
            names = {"account_id": AccountId(account), "amount_micros": amount}
    return Order(operator_id=OP, correction_id=f"c{number}", kind=CorrectionKind(kind), reason="asked", **names)


def seal(edge: Edge, uses: list[tuple[str, str, int, int, int, int, int]], ending: int) -> bytes:
    """The next batch of a gateway's chain, of these uses; ``ending`` stops (1) or closes (2) its first quota."""
    batch = batch_pb2.Batch(
        operator_id=OP,
        site_id=SITES[edge.name],
        gateway_id=edge.name,
        incarnation=1,
        start_id=bytes(16),
        sequence=len(edge.sent) + 1,
        previous_hash=edge.head,
        merkle_root=bytes(32),
    )
    seen = set()
    for account, funding, register, which, width, net, tax in uses:
        if (register, which) in seen:
            continue
        seen.add((register, which))
        start = which * 3
        end, billed_net, billed_tax, begin = edge.so_far.get((register, which), (start, 0, 0, start))
        end, billed_net, billed_tax = end + width, billed_net + net, billed_tax + tax
        edge.so_far[register, which] = end, billed_net, billed_tax, begin
        line = batch.lines.add(
            account_id=account,
            currency=EUR,
            tax_rate_ppm=200_000,
            evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
            net_micros=net,
            tax_micros=tax,
        )
        mine = [quota for who, quota in edge.quotas if who == account]
        if funding == "quota" and mine:
            line.quota_id = mine[-1]
        elif funding == "floor":
            line.floor = True
        else:
            line.overrun = True
        claim = batch.claims.add(
            authorization_id=f"{edge.name}/{register}/{which}".encode().ljust(16),
            device_id=f"d{register}",
            register_id="1",
            register_from=begin,
            register_to=end,
            net_micros=billed_net,
            tax_micros=billed_tax,
        )
        claim.shares.add(line=len(batch.lines) - 1, net_micros=net, tax_micros=tax)
    batch.leaf_count = len(batch.lines)
    if ending == 1:
        batch.stopped.extend(batch_pb2.StoppedQuota(quota_id=q, still_held_micros=100) for _, q in edge.quotas[:1])
    if ending == 2:
        batch.closed_quota_ids.extend(q for _, q in edge.quotas[:1])
    raw = batch.SerializeToString(deterministic=True)
    edge.sent.append(raw)
    edge.head = receive(raw, signature=b"", key_id=b"", currency=EUR).batch_hash
    return raw


async def check(model: Model) -> None:
    """What holds whenever every batch that was sealed has been posted, and nobody is at work."""
    store, rows, edges = model.store, model.rows, model.edges
    assert (await store.verify()).fault == ""
    balances = {path: b for path, _, b in await store.balances(OP, "")}
    moved: Counter[str] = Counter()
    of_use: Counter[tuple[bytes, str]] = Counter()
    corrections = [correction for _, correction in await store.corrections(OP, "", 1_000)]
    disputes = {correction.correction_id: correction for correction in corrections if correction.kind == "dispute"}
    for correction in corrections:
        moved[correction.kind] += correction.amount_micros
        if correction.kind == "refund":
            of_use[correction.authorization_id, correction.gateway_id] += correction.amount_micros
        if correction.kind == "dispute-lost":
            lost = disputes[correction.dispute_id]
            of_use[lost.authorization_id, lost.gateway_id] += correction.amount_micros
    # A payback is under way until it left or failed, once; what left is what the bank said, each reference of it once.
    ended = {each.payback_id: each for each in corrections if each.kind in ("payback-sent", "payback-failed")}
    back = {each.payback_id for each in corrections if each.kind == "payback-returned"}
    for correction in corrections:
        if correction.kind == "payback":
            transit = balances[f"transit/{correction.correction_id}"]
            under_way = 0 if correction.correction_id in ended else correction.amount_micros
            assert transit.credits_posted - transit.debits_posted == under_way
    assert all(ended[payback_id].kind == "payback-sent" for payback_id in back)
    # A large one leaves when two persons want it.
    ordered = {each.correction_id: each for each in corrections if each.kind == "payback"}
    approved = {each.payback_id: each.person for each in corrections if each.kind == "payback-approved"}
    for correction in corrections:
        if correction.kind in ("payback-handed", "payback-sent"):
            asked = ordered[correction.payback_id]
            assert asked.amount_micros <= PAYBACK_ALONE or approved[asked.correction_id] != asked.person
    said = [(each.kind, each.payment_id) for each in corrections if each.payback_id and each.payment_id]
    assert len(said) == len(set(said))
    if "bank/main" in balances:
        assert balances["bank/main"].credits_posted == moved["payback-sent"] + moved["chargeback"]
    # No use gives more back than it billed.
    billed = {claim.key: claim.net_micros + claim.tax_micros for claim in await rows.claims(OP)}
    assert all(micros <= billed[AuthorizationId(a), GatewayId(g)] for (a, g), micros in of_use.items())
    for account, credit in CREDIT.items():
        payer, debt = balances[f"payer/{account}"], balances[f"debt/{account}"]
        assert payer.debits_posted + payer.debits_pending <= payer.credits_posted + credit  # P1
        assert 0 <= debt.debits_posted - debt.credits_posted <= DEBT_LIMIT + moved["chargeback"]
    for name in edges:
        gateway = await store.gateway(GatewayId(name))
        assert gateway is not None
        # Exposure: what is open, and what was billed beyond holds.
        assert balances[f"quota/{name}"].credits_pending + gateway.beyond_micros <= EXPOSURE
    quotas = {quota.quota_id: quota for quota in await rows.quotas(OP)}
    for edge in edges.values():
        for _, quota_id in edge.quotas:
            quota = quotas[QuotaId(quota_id)]
            assert (quota.status is QuotaStatus.CLOSED) <= (quota.held_micros == 0)
    # P3, P5: what was claimed is paid, owed, borne or set aside; once.
    claimed = sum(net + tax for edge in edges.values() for _, net, tax, _ in edge.so_far.values())
    voided = sum(
        aside.gross_micros for case in await model.rows.cases(OP) if case.status == "voided" for aside in case.asides
    )
    paid = sum(b.debits_posted for path, b in balances.items() if path.startswith("payer/"))
    owed = sum(b.debits_posted - b.credits_posted for path, b in balances.items() if path.startswith("debt/"))
    risk = sum(b.debits_posted for path, b in balances.items() if path == "risk")
    aside = sum(b.debits_posted - b.credits_posted for path, b in balances.items() if path.startswith("suspense/"))
    assert claimed == paid + owed + risk + aside + voided - moved["chargeback"] - moved["payback"]
    # And what was billed and not given back stands with those who earned it, in clearing, in dispute, or is tax.
    earned = sum(
        b.credits_posted - b.debits_posted
        for path, b in balances.items()
        if path.partition("/")[0] in ("clearing", "agency", "fee", "dispute", "tax")
    )
    assert earned == claimed - aside - voided - sum(of_use.values())
