"""The ledger's process around the real operations over the store in memory, asked by message."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter, defaultdict
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from farthing.clock import SECOND_US
from farthing.device import cose
from farthing.device.messages import decode_statement
from farthing.evidence import detail
from farthing.evidence.detail import RegisterFacts
from farthing.ids import AccountId, GatewayId, SiteId
from farthing.money import format_micros
from farthing.tariff import Tariff
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_cloud.ledger.carried_ends import prove
from farthing_cloud.ledger.core import restoring
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.carried import Carried, NotProven
from farthing_cloud.ledger.core.funds import Funding, LedgerRefusal
from farthing_cloud.ledger.core.incarnations import Standing
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.quotas import GrantTerms, QuotaRequest
from farthing_cloud.ledger.core.received import ReceivedBatch, receive
from farthing_cloud.ledger.core.restoring import LedgerRestoring, Link, Proof, Shown
from farthing_cloud.ledger.core.rows import AccountStatus, Balances, DecisionKind, LedgerState
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.interface import Posted
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_edge.authorization import commands
from simulation.cast import EUR, MODULUS, OP, START, TIME_ZONE, DeviceRole, PassRole, ocpi, tariff
from simulation.history import PromiseBroken

if TYPE_CHECKING:
    from simulation.gateway import GatewayNode, Said, Sealing
    from simulation.world import World

T = TypeVar("T")

PROFILES = {
    "session": directive_pb2.DEVICE_PROFILE_SESSION,
    "one-shot": directive_pb2.DEVICE_PROFILE_ONE_SHOT,
    "standing": directive_pb2.DEVICE_PROFILE_STANDING,
}
STANDINGS = {
    Standing.AGREED: gateway_sync_pb2.HELLO_STANDING_AGREED,
    Standing.BEGIN: gateway_sync_pb2.HELLO_STANDING_BEGIN,
    Standing.WAITS: gateway_sync_pb2.HELLO_STANDING_WAITS,
}
#: Who pays for what standing meters read.
STANDING_PAYER = "rich"
#: How often the ledger looks around for who is silent, seconds.
LISTENS_EVERY_S = 5.0
#: Directives in one answer.
DIRECTIVES_AT_ONCE = 8


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run what never waits for anything outside to its end."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise RuntimeError("the ledger over memory waited for something")


def token_ref(token: str) -> bytes:
    """What the site key makes of a token."""
    return hashlib.sha256(b"ref" + token.encode()).digest()


class AnyKey:
    """A key that takes every signature: here nobody forges."""

    __slots__ = ("key_id",)

    def __init__(self, key_id: bytes) -> None:
        self.key_id = key_id

    def verify(self, *_: object) -> bool:
        """Yes."""
        return True


class Facts:
    """What verifiers know of devices and tariffs."""

    def __init__(self, roles: Mapping[str, DeviceRole]) -> None:
        self._units = {name: role.unit for name, role in roles.items()}
        self._standing = {name: role.tariff for name, role in roles.items() if role.profile == "standing"}

    def standing(self, device: str) -> frozenset[str]:
        """The one tariff of a standing meter."""
        return frozenset((self._standing[device],)) if device in self._standing else frozenset()

    def standing_account(self, device: str) -> AccountId | None:
        """As its record says."""
        return AccountId(STANDING_PAYER) if device in self._standing else None

    def device_key(self, device: str, _key_id: bytes) -> AnyKey:
        """The one key of a device."""
        return AnyKey(cose.key_id(device.encode()))

    def tariff(self, name: str, _version: int) -> Tariff:
        """Its only version."""
        return tariff(name)

    def register(self, device: str, _register: str, _epoch: int) -> RegisterFacts:
        """Of its one epoch."""
        return RegisterFacts(unit=self._units[device], modulus=MODULUS)


class Readers:
    """Reads carried ends as the ledger does, with keys that take every signature."""

    def __init__(self, ledger: LedgerNode) -> None:
        self._ledger = ledger

    async def read(self, batch: ReceivedBatch) -> tuple[Carried, ...]:
        """One for each, in order."""
        out: list[Carried] = []
        for index, end in enumerate(batch.carried):
            gateway = await self._ledger.store.gateway(end.granted_by)
            assert gateway is not None
            key = AnyKey(cose.key_id(end.granted_by.encode()))
            try:
                out.append(prove(end, gateway, self._ledger.facts, lambda *_, key=key: (key, None)))  # type: ignore[arg-type]  # as above
            except detail.EvidenceError as err:
                out.append(NotProven(index=index, reason=err.rule))
        return tuple(out)


class WatchedStore(MemoryStore):
    """Every posting is looked at as it is written."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        #: Account → what it had spent beyond all it has when the ledger opened again: a debt, and no money that came in.
        self.short_micros: Counter[str] = Counter()

    @property
    def books(self) -> dict[str, Balances]:
        """The one operator's accounts by path."""
        return self._books[OP, EUR].balances

    def post(self, posting: Posting) -> Posted:
        """Write it, then hold it against the truth."""
        posted = super().post(posting)
        self._world.watch.posted(self, posting)
        return posted


class LostWord(NamedTuple):
    """What a lost batch says of an authorization: up to which place of its register, what that cost so far, and whether that is all."""

    authorization: bytes
    register_to: int
    gross_micros: int
    final: bool


class LedgerNode:
    """The ledger, asked by message; what was committed outlives its process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_up = True
        self.facts = Facts(world.roles)
        self.store = self.make_store()
        self.ledger = self._serve()
        self.receipts: dict[tuple[str, int, int], bytes] = {}
        #: What was posted, by its receipt.
        self.batches: dict[tuple[str, int, int], bytes] = {}
        #: What was receipted, and is not there any more since the database was replaced.
        self.lost: dict[tuple[str, int, int], bytes] = {}
        self._asked: set[str] = set()
        self._decisions = 0
        self.funds_micros: defaultdict[str, int] = defaultdict(int)
        self._payments = 0
        self._issued = 0
        #: Counts up when the database was replaced: who was connected is no longer.
        self.sessions = 0
        self._backup: WatchedStore | None = None
        #: What people would put back: payments, accounts' states, directives with the numbers of their wishes.
        self._paid: list[Funding] = []
        self._statuses: dict[str, AccountStatus] = {}
        self._wishes: list[tuple[int, str, Any]] = []
        self._wished_before = 0
        #: Not while people put back what is missing: sums are of no moment.
        self.is_whole = True

    def _serve(self) -> Ledger:
        terms = self.world.story.cast.terms
        return Ledger(
            self.store,
            terms=GrantTerms(
                share_ppm=terms.share_ppm,
                smallest_micros=terms.smallest_micros,
                most_open_per_account=4,
                lifetime_us=terms.lifetime_s * SECOND_US,
                outage_us=terms.outage_s * SECOND_US,
            ),
            receipt_keys=(b"receipt-key",),
            carried_ends=Readers(self),
        )

    def make_store(self) -> WatchedStore:
        """Where everything is kept."""
        return WatchedStore(self.world)

    def crash(self, down_s: float) -> None:
        """What is asked meanwhile is not heard, what was to be answered is not said."""
        self.world.note("the ledger dies")
        self.is_up = False
        self.world.after(down_s, self._start)

    def _start(self) -> None:
        self.world.note("the ledger is back")
        self.is_up = True

    def _say(self, gateway: GatewayNode, what: str, deliver: Any, *arguments: Any) -> None:
        self.world.send("ledger", gateway.id, what, self.in_session, self.sessions, deliver, *arguments)

    def in_session(self, session: int, deliver: Any, *arguments: Any) -> None:
        """What was on its way when the database was replaced went with its connection."""
        if session == self.sessions:
            deliver(*arguments)

    # ---- its database is an older one

    def back_up(self) -> None:
        """A copy of the database, as it is now."""
        self._backup = copy.deepcopy(self.store, {id(self.world): self.world})
        self._wished_before = self._issued

    def restore(self, down_s: float, noticed: bool) -> None:
        """The database is the copy. People put back what no gateway knows; what gateways know they show."""
        world = self.world
        world.note("the ledger's database is replaced by its backup")
        world.watch.counted["ledgers restored"] += 1
        self.is_up = self.is_whole = False
        self.sessions += 1
        assert self._backup is not None
        self.store = self._backup
        self.ledger = self._serve()
        for name in list(self.batches):
            if drive(self.store.batch(GatewayId(name[0]), name[1], name[2])) is None:
                self.lost[name] = self.batches.pop(name)
                del self.receipts[name]
        world.watch.ledger_went_back(drive(self.store.claims(OP)), self.batches)
        for gateway in world.gateways.values():
            gateway.hang_up()
        world.after(down_s, self._start)
        if noticed:
            drive(self.ledger.restored.stop("a person says so", now=world.now))
        for payment in self._paid:
            drive(self.ledger.fund(payment, now=world.now))
        for account, status in self._statuses.items():
            self.put_account(account, status=status)
        for number, gateway_id, body in list(self._wishes):
            if number > self._wished_before:
                self._wish(number, gateway_id, body)

    def lost_words(self) -> list[LostWord]:
        """What batches say that were receipted, and that neither the database that was restored nor their gateway's journal has now."""
        words: list[LostWord] = []
        devices = {device.device_id: device for device in self.world.devices.values()}
        for (gateway, incarnation, sequence), raw in self.lost.items():
            sealing = self.world.gateways[gateway].sealed.get((incarnation, sequence))
            if sealing is not None and sealing.batch == raw:
                continue
            batch = batch_pb2.Batch.FromString(raw)
            words += [
                LostWord(claim.authorization_id, claim.register_to, claim.net_micros + claim.tax_micros, claim.final)
                for claim in batch.claims
            ]
            for end in batch.carried:
                last = decode_statement(cose.decode_sign1(end.statements[-1]).payload)
                name, ends = devices[last.device].authorization_of(last), last.kind != "reading"
                words.append(LostWord(name, last.register.unrolled(MODULUS), 0, ends))
        return words

    def _refused(self, gateway: GatewayNode, why: str) -> None:
        epoch = drive(self.store.epoch())
        if epoch.state is LedgerState.STOPPED and "ledger" not in self._asked:
            self._asked.add("ledger")
            wait_s = 5.0 if self.world.calm else self.world.lots.between(f"people and epoch {epoch.number}", 5, 60)
            self.world.after(wait_s, self._begin_epoch)
        self._say(gateway, f"refused | {why}", gateway.hang_up)

    def _begin_epoch(self) -> None:
        self.world.note("two persons begin the next epoch")
        self._asked.discard("ledger")
        restored, now = self.ledger.restored, self.world.now
        decision = drive(restored.propose(OP, reason="simulation", person="alice", now=now))
        drive(self.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="bob", now=now))

    def shown(self, gateway: GatewayNode, raws: list[bytes], proof: Proof) -> None:
        """A gateway hands back what it was told."""
        if not self.is_up:
            return
        links = [Link(version, hashlib.sha256(raw).digest()) for version, raw in enumerate(raws, start=1)]
        stored = drive(self.store.gateway(GatewayId(gateway.id)))
        assert stored is not None
        fork = drive(self.ledger.restored.common(stored.gateway_id, links[::-1]))
        shown = [
            Shown(directive_pb2.Directive.FromString(raw), raw, bytes(64), bytes(8)) for raw in raws[fork.version :]
        ]
        receipted = (proof.incarnation, proof.sequence)
        try:
            back = drive(self.ledger.restored.take_back(stored, fork, shown, receipted, now=self.world.now))
        except LedgerRefusal as err:
            self.world.note("{} shows too often: {}", gateway.id, err)
            return
        self.world.watch.counted["quotas held again"] += back.quotas

    # ---- the gateways' door

    def hello(self, gateway: GatewayNode, number: int, start: int, said: Said) -> None:
        """Agree on the incarnation, and on how much of the journal is known; or let the gateway wait for people."""
        if not self.is_up:
            return
        try:
            greeting = drive(
                self.ledger.hello(
                    GatewayId(gateway.id),
                    incarnation=said.incarnation,
                    start_id=said.start_id,
                    position=said.position,
                    sealed_sequence=said.sealed_sequence,
                    suspects_rollback=said.suspects_rollback,
                    directive_version=said.directive_version,
                    proof=said.proof,
                    now=self.world.now,
                )
            )
        except LedgerRestoring as err:
            self._refused(gateway, str(err))
            if self.is_restoring and not said.directive_version:
                # Its journal is empty, and it says so in every hello.
                self._ask_to_give_up(gateway.id, "has nothing to show")
            return
        if greeting.standing is Standing.REWIND:
            self._say(gateway, "show what you were told", gateway.show)
            return
        before, chain = greeting.gateway, greeting.chain
        hello = gateway_sync_pb2.HelloResponse(
            incarnation=before.incarnation,
            ledger_epoch=1,
            posted_sequence=chain.sequence,
            proven_sequence=chain.proven_sequence,
            witnessed_start_id=before.witness_start_id,
            witnessed_position=before.witness_position,
            standing=STANDINGS[greeting.standing],
            waits_because=greeting.why,
            wants_batches=greeting.earlier is not None,
            earlier=[
                gateway_sync_pb2.PostedChain(incarnation=chain.incarnation, posted_sequence=chain.sequence)
                for chain in greeting.earlier or ()
            ],
        )
        if greeting.standing is Standing.WAITS:
            self.ask_people(gateway.id, greeting.why)
        what = f"incarnation is {before.incarnation}: {greeting.standing} | {greeting.why}"
        self._say(gateway, what, gateway.greeted, number, start, commands.Connected(hello=hello))

    # ---- people

    def ask_people(self, gateway_id: str, why: str, *, is_certain: bool = False) -> None:
        """A gateway waits: two persons look at it after a while. ``is_certain``: whatever the ledger thinks of it by then."""
        if gateway_id not in self._asked:
            self._asked.add(gateway_id)
            self.world.note("people are asked about {}: {}", gateway_id, why)
            self._decisions += 1
            wait_s = 5.0 if self.world.calm else self.world.lots.between(f"people {self._decisions}", 5, 90)
            self.world.after(wait_s, self._decide_incarnation, gateway_id, is_certain)

    def _decide_incarnation(self, gateway_id: str, is_certain: bool) -> None:
        self._asked.discard(gateway_id)
        gateway = drive(self.store.gateway(GatewayId(gateway_id)))
        assert gateway is not None
        if gateway.waits_because or gateway.quarantined or is_certain:
            try:
                self._decide(DecisionKind.INCARNATION, gateway_id)
            except LedgerRestoring:
                # Its next incarnation is known when it has shown what it was told.
                self._asked.add(gateway_id)
                self.world.after(5.0, self._decide_incarnation, gateway_id, is_certain)

    def force_void(self, gateway_id: str) -> None:
        """Two persons decide that a gateway is gone; while a restored ledger refuses that, they come again."""
        try:
            self._decide(DecisionKind.FORCED_VOID, gateway_id)
        except LedgerRestoring:
            self.world.after(5.0, self.force_void, gateway_id)

    def _decide(self, kind: DecisionKind, gateway_id: str) -> None:
        self.world.note("two persons decide about {}: {}", gateway_id, kind)
        now = self.world.now
        decision = drive(self.ledger.propose(kind, GatewayId(gateway_id), reason="simulation", person="alice", now=now))
        drive(self.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="bob", now=now))

    def listen(self) -> None:
        """What the ledger does all the time: hear who is silent, and give room of floors back."""
        if self.is_up:
            drive(self.ledger.end_silent(now=self.world.now))
            drive(self.ledger.resolve_floors(now=self.world.now))
            if drive(self.ledger.restored.open_again(now=self.world.now)):
                self.world.note("every gateway has rewound: the ledger is open")
                self.be_whole()
            self._see_who_does_not_come()
        self.world.after(LISTENS_EVERY_S, self.listen)

    def _see_who_does_not_come(self) -> None:
        """A restored ledger waits for a gateway that is gone: people hear of it."""
        if drive(self.store.epoch()).state is not LedgerState.RESTORING:
            return
        for gateway in drive(self.store.rewindings()):
            if self.world.gateways[gateway.gateway_id].is_gone and not gateway.is_done:
                self._ask_to_give_up(gateway.gateway_id, "is gone")

    def _ask_to_give_up(self, gateway_id: str, why: str) -> None:
        name = f"{gateway_id} {why}"
        if name not in self._asked:
            self._asked.add(name)
            self.world.note("people are asked to give up {}: it {}", gateway_id, why)
            self._decisions += 1
            wait_s = 5.0 if self.world.calm else self.world.lots.between(f"people {self._decisions}", 5, 90)
            self.world.after(wait_s, self._give_up, gateway_id, name)

    def _give_up(self, gateway_id: str, name: str) -> None:
        """Two persons decide that a restored ledger waits for a gateway no longer."""
        self._asked.discard(name)
        if drive(self.store.epoch()).state is not LedgerState.RESTORING:
            return
        if any(g.gateway_id == gateway_id and not g.is_done for g in drive(self.store.rewindings())):
            self._decide(DecisionKind.GIVEN_UP, gateway_id)
            self.world.watch.counted["gateways given up"] += 1

    @property
    def is_open(self) -> bool:
        """Whether it runs, and money may go out."""
        return self.is_up and drive(self.store.epoch()).state is LedgerState.OPEN

    @property
    def is_restoring(self) -> bool:
        """Whether it waits for people, or for gateways to show and send again what it has lost."""
        return drive(self.store.epoch()).state is not LedgerState.OPEN

    def be_whole(self) -> None:
        """All that was said is there again: from now on its sums count."""
        self.is_whole = True
        self.world.watch.check_all_accounts(self.store)

    def follow(self, gateway: GatewayNode, after_version: int) -> None:
        """The next directives of its chain, or its dated head."""
        if not self.is_up:
            return
        stored = drive(self.store.gateway(GatewayId(gateway.id)))
        assert stored is not None
        if stored.epoch < drive(self.store.epoch()).number or after_version > stored.directive_version:
            self._refused(gateway, "its chain is not whole")
            return
        rows = drive(self.store.directives(GatewayId(gateway.id), after_version, DIRECTIVES_AT_ONCE))
        for row in rows:
            body = directive_pb2.Directive.FromString(row.body)
            arrived = commands.DirectiveArrived(body=body, raw=row.body, signature=bytes(64), key_id=bytes(8))
            what = f"directive {row.version} ({body.WhichOneof('body')})"
            self._say(gateway, what, gateway.obey, arrived)
        if not rows:
            head = commands.HeadArrived(version=after_version, at=self.world.now)
            self._say(gateway, f"head {after_version}", gateway.submit, head)

    def _is_quarantined(self, gateway_id: str) -> bool:
        gateway = drive(self.store.gateway(GatewayId(gateway_id)))
        return gateway is not None and gateway.quarantined

    def ask(self, gateway: GatewayNode, incarnation: int, request: Any) -> None:
        """A gateway wants money."""
        if not self.is_up:
            return
        wish = QuotaRequest(
            operator_id=OP,
            gateway_id=GatewayId(gateway.id),
            incarnation=incarnation,
            counter=request.counter,
            account_id=request.account_id,
            currency=EUR,
            wanted_micros=request.wanted_micros,
        )
        was_quarantined = self._is_quarantined(gateway.id)
        answered = drive(self.ledger.request_quota(wish, now=self.world.now))
        if self._is_quarantined(gateway.id) and not was_quarantined:
            why = f"quota request {incarnation}/{request.counter} tells another story"
            if not gateway.disk_faults:
                raise PromiseBroken(f"P3: {why}, and the journal of {gateway.id} never went back")
            # Two stories again, told by a counter: nothing but the case that the ledger has opened says so, the gateway's hello does not.
            self.world.watch.counted["two stories"] += 1
            self.ask_people(gateway.id, why, is_certain=True)
        answer = gateway_sync_pb2.QuotaAnswer.ValueType(answered.answer)
        what = f"{gateway_sync_pb2.QuotaAnswer.Name(answer).removeprefix('QUOTA_ANSWER_').lower()} to {request.counter}"
        command = commands.QuotaAnswered(counter=request.counter, answer=answer)
        self._say(gateway, f"{what} | {format_micros(answered.amount_micros)}", gateway.submit, command)

    def push(self, gateway: GatewayNode, incarnation: int, sequence: int, sealing: Sealing) -> None:
        """A batch comes."""
        raw = sealing.batch
        if not self.is_up:
            return
        received = receive(raw, signature=b"", key_id=b"", currency=EUR)
        stored = drive(self.store.gateway(GatewayId(gateway.id)))
        assert stored is not None
        try:
            restoring.must_know_what_it_rests_on(stored, received.directive_version)
            outcome = drive(self.ledger.post_batch(received, currency=EUR, now=self.world.now))
        except LedgerRestoring as err:
            self._refused(gateway, str(err))
            return
        name = f"batch {incarnation}/{sequence} of {gateway.id}"
        if outcome.receipt is None:
            if outcome.step is ChainStep.FORK and gateway.disk_faults and incarnation < stored.incarnation:
                self.world.watch.counted["earlier chains that forked"] += 1
                self._say(gateway, f"never {name}", gateway.refuse_earlier, incarnation)
            elif outcome.step is ChainStep.FORK and gateway.disk_faults:
                # Two stories, from a journal that went back: people decide about the next incarnation.
                self.world.watch.counted["two stories"] += 1
                self.ask_people(gateway.id, f"{name} tells another story")
            elif outcome.step is not ChainStep.GAP:
                raise PromiseBroken(f"P3: {name} is a {outcome.step}")
            return
        if outcome.receipt.parked:
            raise PromiseBroken(f"P4: {name} has parked lines: {outcome.receipt.parked}")
        receipt = outcome.receipt.encode()
        first = self.receipts.setdefault((gateway.id, incarnation, sequence), receipt)
        self.batches[gateway.id, incarnation, sequence] = raw
        if self.lost.get((gateway.id, incarnation, sequence)) == raw:
            del self.lost[gateway.id, incarnation, sequence]
        if first != receipt:
            raise PromiseBroken(f"P3: another receipt for {name}")
        if outcome.step is ChainStep.NEXT:
            wait_s = self.world.lots.between(f"prove {gateway.id} {incarnation} {sequence}", 0, 30)
            self.world.after(wait_s, self.prove, gateway, incarnation, sequence, sealing)
        arrived = commands.ReceiptArrived(receipt=batch_pb2.Receipt.FromString(receipt), raw=receipt)
        self._note_money(gateway, incarnation, sequence, raw)
        self._say(gateway, f"receipt {incarnation}/{sequence}", gateway.receipted, arrived)

    def _note_money(self, gateway: GatewayNode, incarnation: int, sequence: int, raw: bytes) -> None:
        if not self.world.history.keep:
            return
        batch = batch_pb2.Batch.FromString(raw)
        claims = [
            f"{claim.device_id} {claim.register_from}..{claim.register_to}"
            f" {format_micros(claim.net_micros + claim.tax_micros)}{' final' * claim.final}"
            for claim in batch.claims
        ]
        ends = [f"stopped {stopped.quota_id}" for stopped in batch.stopped]
        ends += [f"closed {quota_id}" for quota_id in batch.closed_quota_ids]
        what = ", ".join([*claims, *ends, *(f"carried from {end.granted_by}" for end in batch.carried)])
        self.world.note("the ledger has batch {}/{} of {}: {}", incarnation, sequence, gateway.id, what or "nothing")

    def prove(self, gateway: GatewayNode, incarnation: int, sequence: int, sealing: Sealing) -> None:
        """P6: every leaf proves itself, then the ledger hears of it."""
        if drive(self.store.batch(GatewayId(gateway.id), incarnation, sequence)) is None:
            return  # the ledger was restored: it is posted again, and then proven
        batch = batch_pb2.Batch.FromString(sealing.batch)
        try:
            detail.verify(
                batch,
                sealing.leaves,
                device_key=self.facts.device_key,  # type: ignore[arg-type]  # stands in for a VerifyingKey
                tariff=self.facts.tariff,
                register=self.facts.register,
                time_zone=TIME_ZONE,
            )
        except detail.EvidenceError as err:
            raise PromiseBroken(f"P6: batch {incarnation}/{sequence} of {gateway.id}: {err}") from err
        drive(self.ledger.prove(GatewayId(gateway.id), incarnation, sequence, events=(), now=self.world.now))

    # ---- back office

    def open_books(self) -> None:
        """Gateways and accounts as the story has them."""
        cast = self.world.story.cast
        for name in cast.gateways:
            drive(
                self.ledger.put_gateway(
                    gateway_id=GatewayId(name),
                    operator_id=OP,
                    site_id=SiteId(f"site-{name}"),
                    currency=EUR,
                    exposure_micros=cast.terms.exposure_micros,
                    batch_key=b"",
                    grant_key=b"",
                    time_zone=TIME_ZONE,
                    now=self.world.now,
                )
            )
        for account in cast.purses:
            self.put_account(account.name)
            if account.funds_micros:
                self.top_up(account.name, account.funds_micros)

    def tell_gateways(self) -> None:
        """What every gateway must know of tariffs, tokens, devices and its floor."""
        cast = self.world.story.cast
        terms = cast.terms
        floor = directive_pb2.FloorPolicy(
            currency=EUR,
            per_token_micros=terms.floor_token_micros,
            per_account_micros=terms.floor_account_micros,
            all_tokens_micros=terms.floor_total_micros,
        )
        for name in cast.gateways:
            for used in sorted({each for device in cast.devices for each in device.tariffs}):
                self.issue(
                    name, directive_pb2.TariffRecord(tariff_id=used, version=1, currency=EUR, ocpi_json=ocpi(used))
                )
            for account in cast.accounts:
                self.issue(name, token_record(account.name))
            for device in cast.devices:
                self.issue(name, device_record(device))
            for entitlement in cast.passes:
                self.issue(name, entitlement_record(entitlement))
            self.issue(name, floor)
            if terms.are_limited:
                limits = directive_pb2.UsageLimits(
                    per_authorization_micros=terms.limit_use_micros,
                    token_day_micros=terms.limit_token_day_micros,
                    token_day_count=terms.limit_token_day_count,
                    device_day_micros=terms.limit_device_day_micros,
                    device_day_count=terms.limit_device_day_count,
                    offline_micros=terms.limit_offline_micros,
                    offline_count=terms.limit_offline_count,
                )
                self.issue(name, limits)

    def issue(self, gateway_id: str, body: Any) -> None:
        """Put a directive on a gateway's chain."""
        self._issued += 1
        self._wishes.append((self._issued, gateway_id, body))
        self._wish(self._issued, gateway_id, body)

    def _wish(self, number: int, gateway_id: str, body: Any) -> None:
        drive(
            self.ledger.issue_directive(
                OP, GatewayId(gateway_id), body, idempotency_key=str(number), now=self.world.now
            )
        )

    def issue_everywhere(self, body: Any) -> None:
        """On every chain."""
        for name in self.world.story.cast.gateways:
            self.issue(name, body)

    def close_use(self, device_id: str, authorization: bytes) -> None:
        """Somebody decides that a use is over: every gateway hears it, and who has it open closes it."""
        self.issue_everywhere(
            directive_pb2.UseClosed(device_id=device_id, authorization_id=authorization, decision="simulation")
        )

    def top_up(self, account: str, amount_micros: int) -> None:
        """Money comes in; the bank says so twice."""
        self.funds_micros[account] += amount_micros
        self._payments += 1
        payment = Funding(
            operator_id=OP,
            account_id=AccountId(account),
            currency=EUR,
            amount_micros=amount_micros,
            payment_id=str(self._payments),
            source="bank/main",
        )
        self._paid.append(payment)
        for _ in range(2):
            drive(self.ledger.fund(payment, now=self.world.now))

    def put_account(self, account: str, *, status: AccountStatus = AccountStatus.ACTIVE) -> None:
        """Create it, or change its status."""
        self._statuses[account] = status
        terms = self.world.accounts[account]
        drive(
            self.ledger.put_account(
                operator_id=OP,
                account_id=AccountId(account),
                currency=EUR,
                credit_limit_micros=terms.credit_micros,
                debt_limit_micros=terms.debt_micros,
                status=status,
                preload_micros=terms.preload_micros,
                now=self.world.now,
            )
        )

    def recall(self, gateway_id: str = "", account: str = "") -> None:
        """Call quotas back; empty names stand for all."""
        drive(
            self.ledger.recall(OP, gateway_id=gateway_id, account_id=account, reason="simulation", now=self.world.now)
        )

    def balances(self, prefix: str = "") -> dict[str, Any]:
        """Ledger accounts by path."""
        return {path: balance for path, _, balance in drive(self.store.balances(OP, prefix))}


def token_record(account: str) -> directive_pb2.TokenRecord:
    """The one token of an account."""
    return directive_pb2.TokenRecord(
        token_ref=token_ref(f"t-{account}"), key_epoch=1, token_id=f"id-{account}", account_id=account
    )


def entitlement_record(role: PassRole) -> directive_pb2.EntitlementRecord:
    """An entitlement as the operator sold it."""
    return directive_pb2.EntitlementRecord(
        entitlement_id=f"{role.account}-{role.unit}",
        account_id=role.account,
        paid_by_account_id=role.paid_by.name,
        tariff_id=role.tariff,
        tariff_version=1,
        unit=role.unit,
        from_us=START + role.from_s * SECOND_US,
        until_us=START + role.until_s * SECOND_US,
        priority=role.priority,
    )


def device_record(
    role: DeviceRole,
    status: directive_pb2.DeviceStatus.ValueType = directive_pb2.DEVICE_STATUS_ACTIVE,
    register_epoch: int = 1,
) -> directive_pb2.DeviceRecord:
    """A device as the operator describes it."""
    return directive_pb2.DeviceRecord(
        device_id=role.name,
        status=status,
        device_epoch=1,
        profile=PROFILES[role.profile],
        statement_key=role.name.encode(),
        registers=[
            directive_pb2.RegisterRecord(
                register_id="r1",
                register_epoch=register_epoch,
                unit=role.unit,
                modulus=MODULUS,
                rated_per_hour=role.rated_per_hour,
            )
        ],
        tariff_id=role.tariff,
        tariff_version=1,
        report_interval_s=role.report_interval_s,
        standing_account_id=STANDING_PAYER if role.profile == "standing" else "",
        stoppable=role.stoppable,
        entitled_only=role.entitled_only,
    )
