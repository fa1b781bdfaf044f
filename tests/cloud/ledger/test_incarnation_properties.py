"""Journals are lost and found, ends are carried, gateways fall silent or are given up, in any order: P1, P3 and P5 hold after every step."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_story import EUR, OP, TERMS

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, QuotaId, SiteId
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.carried import Carried, CarriedUse, NotProven
from farthing_cloud.ledger.core.exposure import loss_of
from farthing_cloud.ledger.core.funds import Funding
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.core.quotas import QuotaRequest
from farthing_cloud.ledger.core.received import ReceivedBatch, receive
from farthing_cloud.ledger.core.rows import AccountStatus, DecisionKind, QuotaStatus, RegisterKey
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.memory import MemoryStore

GATEWAYS = ("G1", "G2")
EXPOSURE = 1_500
LIFE, OUTAGE = 100, 400
#: What a unit of use costs: net, and tax on it.
NET, TAX = 20, 4

gateway = st.sampled_from(GATEWAYS)
step = st.one_of(
    st.tuples(st.just("fund"), st.integers(1, 900)),
    st.tuples(st.just("ask"), gateway, st.integers(1, 600)),
    st.tuples(st.just("use"), gateway, st.integers(0, 3), st.integers(1, 6), st.sampled_from(["quota", "overrun"])),
    st.tuples(st.just("seal"), gateway, st.sampled_from(["", "stopped", "closed"])),
    st.tuples(st.just("push"), gateway, st.integers(0, 3)),
    st.tuples(st.just("lose"), gateway),
    st.tuples(st.just("carry"), gateway, st.integers(0, 3), st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 300)),
    st.tuples(st.just("void"), gateway),
)


@dataclass
class Session:
    """One authorization of a gateway on a register of its own: what its device has counted, and what it was told."""

    authorization_id: bytes
    register: str
    counted: int = 0
    #: What its gateway's journal has recorded of it, and sealed.
    recorded: int = 0
    sealed: int = 0
    quota_id: str = ""


@dataclass
class Edge:
    """A gateway as far as the ledger can see it; a lost journal takes what was not sealed with it."""

    name: str
    incarnation: int = 1
    batches: list[bytes] = field(default_factory=list)
    chain: list[bytes] = field(default_factory=list)
    quotas: list[str] = field(default_factory=list)
    sessions: dict[int, Session] = field(default_factory=dict)


class Reader:
    """What carried ends prove, as the test laid it down: their granted incarnation is its index."""

    def __init__(self) -> None:
        self.uses: list[Carried] = []

    async def read(self, batch: ReceivedBatch) -> tuple[Carried, ...]:
        return tuple(self.uses[end.granted_incarnation] for end in batch.carried)


@dataclass
class World:
    store: MemoryStore
    ledger: Ledger
    reader: Reader
    edges: dict[str, Edge]
    now: int = 1_000
    payments: int = 0
    counter: int = 0
    carried: list[int] = field(default_factory=list)

    def session(self, name: str, number: int) -> Session:
        edge = self.edges[name]
        known = edge.sessions.get(number)
        if known is None:
            self.counter += 1
            known = edge.sessions[number] = Session(
                authorization_id=self.counter.to_bytes(16, "big"),
                register=f"r{name}{number}",
                quota_id=edge.quotas[-1] if edge.quotas else "",
            )
        return known

    def seal(self, edge: Edge, ending: str, carried: list[int]) -> None:
        batch = batch_pb2.Batch(
            operator_id=OP,
            site_id="S-" + edge.name,
            gateway_id=edge.name,
            incarnation=edge.incarnation,
            start_id=bytes(16),
            sequence=len(edge.chain) + 1,
            previous_hash=receive(edge.chain[-1], signature=b"", key_id=b"", currency=EUR).batch_hash
            if edge.chain
            else bytes(32),
            merkle_root=bytes(32),
            leaf_count=1,
            carried=[
                batch_pb2.CarriedEnd(granted_by="G1" if edge.name == "G2" else "G2", granted_incarnation=index)
                for index in carried
            ],
        )
        for session in edge.sessions.values():
            if session.recorded <= session.sealed:
                continue
            added = session.recorded - session.sealed
            line = batch.lines.add(
                account_id="A",
                currency=EUR,
                tariff_id="t",
                tariff_version=1,
                tax_rate_ppm=200_000,
                evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
                net_micros=added * NET,
                tax_micros=added * TAX,
            )
            if session.quota_id:
                line.quota_id = session.quota_id
            else:
                line.overrun = True
            batch.claims.add(
                authorization_id=session.authorization_id,
                device_id="d",
                register_id=session.register,
                register_to=session.recorded,
                net_micros=session.recorded * NET,
                tax_micros=session.recorded * TAX,
                shares=[
                    batch_pb2.Share(line=len(batch.lines) - 1, net_micros=line.net_micros, tax_micros=line.tax_micros)
                ],
            )
            session.sealed = session.recorded
        if ending and edge.quotas:
            quota_id = edge.quotas[0] if ending == "stopped" else edge.quotas.pop(0)
            if ending == "stopped":
                batch.stopped.add(quota_id=quota_id, still_held_micros=50)
            else:
                batch.closed_quota_ids.append(quota_id)
        raw = batch.SerializeToString(deterministic=True)
        edge.chain.append(raw)
        edge.batches.append(raw)

    async def decide(self, kind: DecisionKind, name: str) -> None:
        decision = await self.ledger.propose(kind, GatewayId(name), reason="r", person="ann", now=Instant(self.now))
        await self.ledger.approve(
            decision.decision_id, content_hash=decision.content_hash, person="ben", now=Instant(self.now)
        )

    async def play(self, step: tuple[object, ...]) -> None:
        now = Instant(self.now)
        match step:
            case "fund", int(amount):
                self.payments += 1
                await self.ledger.fund(
                    Funding(
                        operator_id=OP,
                        account_id=AccountId("A"),
                        currency=EUR,
                        amount_micros=amount,
                        payment_id=f"p{self.payments}",
                        source="bank/main",
                    ),
                    now=now,
                )
            case "ask", str(name), int(amount):
                edge = self.edges[name]
                self.counter += 1
                answer = await self.ledger.request_quota(
                    QuotaRequest(
                        operator_id=OP,
                        gateway_id=GatewayId(name),
                        incarnation=edge.incarnation,
                        counter=self.counter,
                        account_id=AccountId("A"),
                        currency=EUR,
                        wanted_micros=amount,
                    ),
                    now=now,
                )
                if answer.quota_id:
                    edge.quotas.append(answer.quota_id)
            case "use", str(name), int(number), int(units), str(funding):
                session = self.session(name, number)
                if funding == "overrun":
                    session.quota_id = ""
                session.counted += units
                session.recorded = session.counted
            case "seal", str(name), str(ending):
                self.seal(self.edges[name], ending, [])
            case "push", str(name), int(index):
                await self.push(self.edges[name], index)
            case "lose", str(name):
                # The journal is gone; sealed batches may still turn up. The next one starts from what devices show: from the grant's start.
                edge = self.edges[name]
                await self.decide(DecisionKind.INCARNATION, name)
                edge.incarnation += 1
                edge.chain = []
                for session in edge.sessions.values():
                    session.recorded = session.sealed = 0
                    session.recorded = session.counted
            case "carry", str(name), int(number), bool(proven):
                granter = "G2" if name == "G1" else "G1"
                session = self.session(granter, number)
                entry: Carried = NotProven(index=0, reason="not signed")
                if proven:
                    entry = CarriedUse(
                        authorization_id=AuthorizationId(session.authorization_id),
                        granted_by=GatewayId(granter),
                        account_id=AccountId("A"),
                        register=RegisterKey(device_id="d", register_id=session.register, register_epoch=0),
                        register_from=0,
                        register_to=session.counted,
                        parts=((200_000, session.counted * NET, session.counted * TAX),),
                        held=((QuotaId(session.quota_id), session.counted * NET // 4),) if session.quota_id else (),
                        floor_micros=NET if number % 2 else 0,
                        granted_incarnation=self.edges[granter].incarnation,
                        billed_micros=session.counted * NET // 2,
                        final=True,
                        covered_micros=session.counted * NET,
                        statements=(b"intent", b"end"),
                    )
                self.reader.uses.append(entry)
                self.seal(self.edges[name], "", [len(self.reader.uses) - 1])
            case "wait", int(time):
                self.now += time
                await self.ledger.end_silent(now=Instant(self.now))
            case "void", str(name):
                await self.decide(DecisionKind.FORCED_VOID, name)
            case _:
                raise AssertionError(step)

    async def push(self, edge: Edge, index: int) -> None:
        """Any batch, of any incarnation, again or not."""
        if edge.batches:
            batch = receive(edge.batches[index % len(edge.batches)], signature=b"", key_id=b"", currency=EUR)
            outcome = await self.ledger.post_batch(batch, currency=EUR, now=Instant(self.now))
            assert outcome.step in (ChainStep.NEXT, ChainStep.REPLAY, ChainStep.GAP)

    async def check(self) -> None:
        assert (await self.store.verify()).fault == ""
        balances = {path: b for path, _, b in await self.store.balances(OP, "")}
        payer = balances["payer/A"]
        # P1: nothing we decide overspends; what exceeds funds is debt and risk.
        assert payer.debits_posted + payer.debits_pending <= payer.credits_posted
        for known, held in await self.store.exposures(OP):
            quotas = [q for q in await self.store.quotas(OP) if q.gateway_id == known.gateway_id]
            assert held == sum(q.held_micros for q in quotas)
            assert all(
                (q.status in (QuotaStatus.FROZEN, QuotaStatus.CLOSED)) or q.incarnation == known.incarnation
                for q in quotas
            )
            assert loss_of(known, open_micros=held, silent_us=0, now=Instant(self.now)).open_micros == held
        # P3: of no session more is billed or set aside than its device has counted.
        counted = {s.authorization_id: s.counted for edge in self.edges.values() for s in edge.sessions.values()}
        for claim in await self.store.claims(OP):
            units = counted[claim.authorization_id]
            assert (claim.net_micros, claim.tax_micros) <= (units * NET, units * TAX)
        billed = sum(
            t.amount_micros
            for t in await self.store.transfers(OP)
            if t.kind == "post"
            and t.cause in (Cause.USE, Cause.FLOOR, Cause.LATE, Cause.OVERRUN, Cause.EXPOSURE, Cause.SECOND_CLAIM)
        )
        assert billed == sum(c.net_micros + c.tax_micros for c in await self.store.claims(OP))


@settings(max_examples=120, deadline=None)
@given(steps=st.lists(step, min_size=5, max_size=30))
async def test_nothing_is_overspent_lost_or_counted_twice(steps: list[tuple[object, ...]]) -> None:
    store, reader = MemoryStore(), Reader()
    terms = TERMS.__class__(
        share_ppm=1_000_000, smallest_micros=1, most_open_per_account=9, lifetime_us=LIFE, outage_us=OUTAGE
    )
    ledger = Ledger(store, terms=terms, receipt_keys=(), carried_ends=reader)
    world = World(store, ledger, reader, {name: Edge(name) for name in GATEWAYS})
    for name in GATEWAYS:
        await ledger.put_gateway(
            gateway_id=GatewayId(name),
            operator_id=OP,
            site_id=SiteId("S-" + name),
            currency=EUR,
            exposure_micros=EXPOSURE,
            batch_key=b"",
            grant_key=b"",
            time_zone="UTC",
            now=Instant(world.now),
        )
    await ledger.put_account(
        operator_id=OP,
        account_id=AccountId("A"),
        currency=EUR,
        credit_limit_micros=0,
        debt_limit_micros=200,
        status=AccountStatus.ACTIVE,
        preload_micros=0,
        now=Instant(world.now),
    )
    for played in steps:
        await world.play(played)
        await world.check()
    # Everything turns up in the end: every chain whole, everything sealed, and each use is billed once, by whoever.
    for edge in world.edges.values():
        for session in edge.sessions.values():
            session.recorded = session.counted
        world.seal(edge, "", [])
    for edge in world.edges.values():
        for _ in range(2):
            for index in range(len(edge.batches)):
                await world.push(edge, index)
    await world.check()
    claims = {c.authorization_id: c.net_micros for c in await store.claims(OP)}
    for edge in world.edges.values():
        for session in edge.sessions.values():
            assert claims.get(AuthorizationId(session.authorization_id), 0) == session.counted * NET
