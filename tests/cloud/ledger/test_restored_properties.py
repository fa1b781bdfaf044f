"""Wherever a day is cut by a backup, and however much of it the restored ledger has lost: the day ends as if nothing had happened."""

import copy
import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_story import EUR, NOW, OP, TERMS

from farthing.ids import AccountId, AuthorizationId, GatewayId, SiteId
from farthing.v1 import batch_pb2, directive_pb2
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import Funding
from farthing_cloud.ledger.core.incarnations import Standing
from farthing_cloud.ledger.core.quotas import QuotaRequest
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.restoring import LedgerRestoring, Link, Proof, Shown
from farthing_cloud.ledger.core.rows import AccountStatus, Balances, DecisionKind, LedgerState, QuotaStatus
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.memory import MemoryStore

GATEWAYS = ("G1", "G2")
ACCOUNTS = ("A", "B")

step = st.one_of(
    st.tuples(st.just("fund"), st.sampled_from(ACCOUNTS), st.integers(1, 1500)),
    st.tuples(st.just("ask"), st.sampled_from(GATEWAYS), st.sampled_from(ACCOUNTS), st.integers(1, 900)),
    # Of the quota of that number: so much, and whether it is closed with it.
    st.tuples(
        st.just("use"),
        st.sampled_from(GATEWAYS),
        st.integers(0, 5),
        st.integers(1, 500),
        st.integers(0, 90),
        st.booleans(),
    ),
    st.tuples(st.just("overrun"), st.sampled_from(GATEWAYS), st.sampled_from(ACCOUNTS), st.integers(1, 300)),
    st.tuples(st.just("prove"), st.sampled_from(GATEWAYS)),
    st.tuples(st.just("recall"), st.sampled_from(GATEWAYS)),
    st.tuples(st.just("wish"), st.sampled_from(GATEWAYS)),
)


class Day:
    """Two gateways and a ledger. The gateways keep what they say and what they hear, whatever becomes of the ledger."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.ledger = Ledger(self.store, terms=TERMS, receipt_keys=())
        self.payments: list[Funding] = []
        self.batches: dict[str, list[bytes]] = {name: [] for name in GATEWAYS}
        self.proven: dict[str, int] = dict.fromkeys(GATEWAYS, 0)
        self.directives: dict[str, list[bytes]] = {name: [] for name in GATEWAYS}
        #: (quota, account, left) of each gateway.
        self.quotas: dict[str, list[list[object]]] = {name: [] for name in GATEWAYS}
        self.counter = 0
        self.overran = False

    async def open(self) -> None:
        for name in GATEWAYS:
            await self.ledger.put_gateway(
                gateway_id=GatewayId(name),
                operator_id=OP,
                site_id=SiteId(name),
                currency=EUR,
                exposure_micros=2_500,
                batch_key=b"",
                grant_key=b"",
                time_zone="UTC",
                now=NOW,
            )
        for name in ACCOUNTS:
            await self.ledger.put_account(
                operator_id=OP,
                account_id=AccountId(name),
                currency=EUR,
                credit_limit_micros=0,
                debt_limit_micros=100,
                status=AccountStatus.ACTIVE,
                preload_micros=0,
                now=NOW,
            )

    async def act(self, action: tuple[object, ...]) -> None:
        self.counter += 1
        match action:
            case ("fund", str(account), int(amount)):
                funding = Funding(
                    operator_id=OP,
                    account_id=AccountId(account),
                    currency=EUR,
                    amount_micros=amount,
                    payment_id=str(self.counter),
                    source="bank/main",
                )
                self.payments.append(funding)
                await self.ledger.fund(funding, now=NOW)
            case ("ask", str(name), str(account), int(amount)):
                answer = await self.ledger.request_quota(self.wish(name, account, amount), now=NOW)
                if answer.quota_id:
                    self.quotas[name].append([answer.quota_id, account, answer.amount_micros])
            case ("use", str(name), int(which), int(net), int(tax), bool(close)):
                mine = self.quotas[name]
                if not mine:
                    return
                quota = mine[which % len(mine)]
                quota_id, account, left = str(quota[0]), str(quota[1]), quota[2]
                assert isinstance(left, int)
                net = min(net, left)
                tax = min(tax, left - net)
                quota[2] = left - net - tax
                if close:
                    mine.remove(quota)
                line = batch_pb2.Line(account_id=account, quota_id=quota_id)
                await self.seal(name, line, net, tax, closed=[quota_id] if close else [])
            case ("overrun", str(name), str(account), int(net)):
                self.overran = True
                await self.seal(name, batch_pb2.Line(account_id=account, overrun=True), net, 0, closed=[])
            case ("prove", str(name)):
                if self.proven[name] < len(self.batches[name]):
                    self.proven[name] += 1
                    await self.ledger.prove(GatewayId(name), 1, self.proven[name], events=(), now=NOW)
            case ("recall", str(name)):
                await self.ledger.recall(OP, gateway_id=name, account_id="", reason="test", now=NOW)
            case ("wish", str(name)):
                seal = directive_pb2.SealPolicy(records=self.counter)
                key = str(self.counter)
                await self.ledger.issue_directive(OP, GatewayId(name), seal, idempotency_key=key, now=NOW)

    async def hear(self) -> None:
        """Gateways follow their chains."""
        for name in GATEWAYS:
            rows = await self.store.directives(GatewayId(name), len(self.directives[name]), 10)
            self.directives[name] += [row.body for row in rows]

    def wish(self, name: str, account: str, amount: int) -> QuotaRequest:
        return QuotaRequest(
            operator_id=OP,
            gateway_id=GatewayId(name),
            incarnation=1,
            counter=self.counter,
            account_id=AccountId(account),
            currency=EUR,
            wanted_micros=amount,
        )

    async def seal(self, name: str, line: batch_pb2.Line, net: int, tax: int, *, closed: list[str]) -> None:
        chain = self.batches[name]
        line.MergeFrom(
            batch_pb2.Line(
                currency=EUR,
                tariff_id="t",
                tariff_version=1,
                tax_rate_ppm=200_000,
                evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
                net_micros=net,
                tax_micros=tax,
            )
        )
        share = batch_pb2.Share(line=0, net_micros=net, tax_micros=tax)
        claim = batch_pb2.Claim(
            authorization_id=AuthorizationId(f"{name} {len(chain)}".encode().ljust(16)),
            device_id=name,
            register_id="r",
            register_from=len(chain),
            register_to=len(chain) + 1,
            net_micros=net,
            tax_micros=tax,
            shares=[share] if net + tax else [],
        )
        batch = batch_pb2.Batch(
            operator_id=OP,
            site_id=name,
            gateway_id=name,
            incarnation=1,
            start_id=bytes(16),
            sequence=len(chain) + 1,
            previous_hash=hashlib.sha256(chain[-1]).digest() if chain else bytes(32),
            first_position=1,
            last_position=1,
            merkle_root=bytes(32),
            leaf_count=1,
            lines=[line],
            claims=[claim],
            closed_quota_ids=closed,
        )
        chain.append(batch.SerializeToString(deterministic=True))
        await self.push(name, len(chain))

    async def push(self, name: str, sequence: int) -> ChainStep:
        batch = receive(self.batches[name][sequence - 1], signature=b"", key_id=b"", currency=EUR)
        outcome = await self.ledger.post_batch(batch, currency=EUR, now=NOW)
        assert outcome.receipt is not None
        assert outcome.receipt.parked == ()
        return outcome.step

    async def balances(self) -> dict[str, Balances]:
        return {path: balance for path, _, balance in await self.store.balances(OP, "") if balance != Balances()}

    async def overspent(self) -> list[str]:
        """Accounts that hold and have posted more than they have (P1)."""
        rows = {path: balance for path, _, balance in await self.store.balances(OP, "payer/")}
        return [path for path, b in rows.items() if b.debits_posted + b.debits_pending > b.credits_posted]

    # ---- the restore

    def proof(self, name: str) -> Proof:
        last, chain = self.directives[name][-1], self.batches[name]
        digest = hashlib.sha256(chain[-1]).digest() if chain else b""
        return Proof(
            len(self.directives[name]), hashlib.sha256(last).digest(), 1, min(1, len(chain)), len(chain), digest, 1
        )

    async def say_hello(self, name: str) -> Standing:
        greeting = await self.ledger.hello(
            GatewayId(name),
            incarnation=1,
            start_id=bytes(16),
            position=10_000,
            now=NOW,
            directive_version=len(self.directives[name]),
            proof=self.proof(name),
        )
        return greeting.standing

    async def rewind(self, name: str) -> None:
        """What a gateway does when it is asked to."""
        assert await self.say_hello(name) is Standing.REWIND
        rows = [(place + 1, body) for place, body in enumerate(self.directives[name])]
        links = [Link(version, hashlib.sha256(body).digest()) for version, body in reversed(rows)]
        fork = await self.ledger.restored.common(GatewayId(name), links)
        shown = [
            Shown(directive_pb2.Directive.FromString(body), body, b"s", b"k") for version, body in rows[fork.version :]
        ]
        gateway = await self.store.gateway(GatewayId(name))
        assert gateway is not None
        receipted = (min(1, len(self.batches[name])), len(self.batches[name]))
        await self.ledger.restored.take_back(gateway, fork, shown, receipted, now=NOW)

    async def send_again(self, name: str) -> None:
        chain = await self.store.chain(GatewayId(name), 1)
        for sequence in range(chain.sequence + 1, len(self.batches[name]) + 1):
            assert await self.push(name, sequence) is ChainStep.NEXT
        for sequence in range(1, self.proven[name] + 1):
            await self.ledger.prove(GatewayId(name), 1, sequence, events=(), now=NOW)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(step, min_size=1, max_size=14),
    cut=st.integers(0, 14),
    unnoticed=st.booleans(),
    first=st.sampled_from(GATEWAYS),
)
async def test_any_cut_ends_like_a_day_without_one(
    steps: list[tuple[object, ...]], cut: int, unnoticed: bool, first: str
) -> None:
    day = Day()
    await day.open()
    await day.hear()
    backup = copy.deepcopy(day.store)
    for number, action in enumerate(steps):
        if number == cut:
            backup = copy.deepcopy(day.store)
        await day.act(action)
        await day.hear()
    expected = await day.balances()
    claimed = {(c.key, c.net_micros + c.tax_micros) for c in await day.store.claims(OP)}

    day.store = backup
    day.ledger = Ledger(backup, terms=TERMS, receipt_keys=())
    if unnoticed:
        # Something is written before anybody knows.
        seal = directive_pb2.SealPolicy(records=77)
        await day.ledger.issue_directive(OP, GatewayId(first), seal, idempotency_key="late", now=NOW)
    try:
        assert await day.say_hello(first) is Standing.AGREED
    except LedgerRestoring:
        assert (await backup.epoch()).state is LedgerState.STOPPED
    for payment in day.payments:
        await day.ledger.fund(payment, now=NOW)
    decision = await day.ledger.restored.propose(OP, reason="disk", person="anna", now=NOW)
    assert decision.kind is DecisionKind.RESTORED
    await day.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)
    second = next(name for name in GATEWAYS if name != first)
    await day.rewind(first)
    await day.send_again(first)
    done = await day.ledger.restored.open_again(now=NOW)
    assert not done
    await day.rewind(second)
    await day.send_again(second)
    assert await day.ledger.restored.open_again(now=NOW)
    assert await day.overspent() == []

    assert (await backup.verify()).fault == ""
    assert {(c.key, c.net_micros + c.tax_micros) for c in await backup.claims(OP)} == claimed
    sums = await day.balances()
    assert sum(b.debits_posted for b in sums.values()) == sum(b.credits_posted for b in sums.values())
    if not day.overran:
        # To the micro. (What overran its quota goes down the waterfall by what is there when it comes: that may be more by now.)
        assert sums == expected
    # Each grant that is not over is known, and held as far as it is not spent.
    known = {quota.quota_id: quota for quota in await backup.quotas(OP)}
    for name in GATEWAYS:
        for quota_id, _, left in day.quotas[name]:
            quota = known[quota_id]  # type: ignore[index]  # what ``act`` puts there first
            assert quota.status is not QuotaStatus.CLOSED
            assert day.overran or quota.held_micros == left
