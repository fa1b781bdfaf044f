"""Two gateways, a ledger, devices and everything that can go wrong between them, from one seed.

The gateways are the real cores (``farthing_edge.authorization``, ``farthing_edge.metering``) around a journal that is a list; the ledger is
the real one over its in-memory store. Time, network and crashes are simulated; promises are checked after every step.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sim_devices import Device, Heard, OneShotDevice, Said, SessionDevice, StandingDevice

from farthing.clock import SECOND_US, Instant
from farthing.device import cose
from farthing.evidence import detail
from farthing.evidence.detail import RegisterFacts
from farthing.ids import AccountId, GatewayId, OperatorId, SiteId
from farthing.money import Currency
from farthing.tariff import parse as parse_tariff
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import Funding
from farthing_cloud.ledger.core.quotas import GrantTerms, QuotaRequest
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import AccountStatus, QuotaStatus, Touch, View
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_edge.authorization import commands
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.commands import Command, DeviceStatement
from farthing_edge.authorization.deciding import decide
from farthing_edge.authorization.decision import Decision
from farthing_edge.authorization.events import KIND_OF, Granted, Metered, Sealed
from farthing_edge.authorization.events import decode as decode_event
from farthing_edge.authorization.events import encode as encode_event
from farthing_edge.authorization.state import FLOOR_FUNDING, OVERRUN_FUNDING, CoreSettings, GatewayState
from farthing_edge.metering.sealing import facts_of_record, leaves_of, sheet_of

T = TypeVar("T")

OP, EUR = OperatorId("op"), Currency("EUR")
M = 1_000_000
START = Instant(1_790_000_000 // 86_400 * 86_400 * SECOND_US + 9 * 3600 * SECOND_US)
GATEWAYS = ("gw-1", "gw-2")
#: How many real commands a gateway takes into one commit.
GROUP = 8
#: Far more than any seed needs to come to rest: a simulation that is not at rest by then hangs for a reason.
MOST_STEPS = 40_000


def component(kind: str, price: float, vat: float, step: int) -> dict[str, object]:
    return {"type": kind, "price": price, "vat": vat, "step_size": step}


TARIFFS: dict[str, dict[str, object]] = {
    "chg-3": {"elements": [{"price_components": [component("FLAT", 0.5, 20, 1), component("ENERGY", 0.25, 20, 100)]}]},
    # Two tax rates and the time that passes.
    "chg-time": {
        "elements": [{"price_components": [component("ENERGY", 0.333333, 20, 1), component("TIME", 1.2, 7, 60)]}]
    },
    "chg-max": {
        "elements": [{"price_components": [component("FLAT", 0.5, 20, 1), component("ENERGY", 0.4, 10, 1)]}],
        "max_price": {"excl_vat": 1.5, "incl_vat": 1.7},
    },
    "park": {
        "elements": [{"price_components": [component("TIME", 3.6, 0, 60)]}],
        "min_price": {"incl_vat": 0.3},
    },
    "toll-1": {"tax_included": True, "elements": [{"price_components": [component("UNIT", 1.2, 7, 1)]}]},
    "kwh": {"elements": [{"price_components": [component("ENERGY", 0.3, 19, 1)]}]},
}
PROFILES = {
    "session": directive_pb2.DEVICE_PROFILE_SESSION,
    "one-shot": directive_pb2.DEVICE_PROFILE_ONE_SHOT,
    "standing": directive_pb2.DEVICE_PROFILE_STANDING,
}


class PromiseBroken(AssertionError):
    """A promise of the design does not hold; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protections:
    """What the harness may turn off, to show that the checks see it."""

    durable_before_spoken: bool = True
    cumulative_claims: bool = True
    crash_forgets_only_the_unwritten: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """How bad the world is."""

    loss: float = 0.12
    doubling: float = 0.15
    crash: float = 0.012
    cuts: int = 3


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run what never waits for anything outside to its end."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise RuntimeError("the ledger over memory waited for something")


def token_ref(token: str) -> bytes:
    return hashlib.sha256(b"ref" + token.encode()).digest()


@dataclass(frozen=True, slots=True)
class AnyKey:
    """A key that takes every signature: here nobody forges."""

    key_id: bytes

    def verify(self, *_: object) -> bool:
        return True


class ForgetfulStore(MemoryStore):
    """A ledger that does not know what was claimed before: for the self-test only."""

    def load(self, touch: Touch) -> View:
        return replace(super().load(touch), claimed={})


# A gateway ------------------------------------------------------------------------------------------------------------


@dataclass
class Parked:
    """A statement that waits for a quota."""

    command: DeviceStatement
    device: Device
    account: str
    until: Instant


class GatewayNode:
    """A gateway's process: its journal outlives it, the rest does not."""

    def __init__(self, world: World, gateway_id: str) -> None:
        self.world = world
        self.id = gateway_id
        self.settings = CoreSettings(
            gateway_id=GatewayId(gateway_id), clock_epoch_us=START, clock_real_epoch_us=0, clock_rate=1
        )
        self.journal: list[tuple[int, bytes]] = []
        self.state: GatewayState | None = None
        self.inbox: list[tuple[Command, Device | None]] = []
        self.parked: list[Parked] = []
        self.working = False
        self.cut = False
        self.crashes = 0
        #: Sequence → (batch, leaves): what is in the journal, kept decoded.
        self.sealed: dict[int, tuple[bytes, list[bytes]]] = {}
        # An independent tally of the journal, by funding.
        self.spent: defaultdict[str, int] = defaultdict(int)
        self.holds: dict[bytes, dict[str, int]] = {}
        self.start()

    def start(self) -> None:
        """Replay the journal, then say that a new start has begun."""
        state = GatewayState(self.settings)
        for kind, body in self.journal:
            apply(state, decode_event(kind, body))
        if state.position != len(self.journal):
            raise PromiseBroken(f"P2: {self.id} replayed {state.position} of {len(self.journal)} entries")
        self.state = state
        self.inbox = []
        self.parked = []
        self.working = False
        rng = self.world.rng
        self.submit(
            commands.Started(
                start_id=rng.randbytes(16),
                boot_id=str(self.crashes),
                clock_epoch_us=START,
                clock_real_epoch_us=0,
                clock_rate=1,
            )
        )
        self.submit(commands.UplinkChanged(online=not self.cut))

    def crash(self, when: str) -> None:
        self.world.note(f"{self.id} dies {when}")
        self.crashes += 1
        self.state = None
        self.inbox = []
        self.parked = []
        if not self.world.protections.crash_forgets_only_the_unwritten and self.journal:
            # The disk lied: the last entries are gone although they were said to be written.
            del self.journal[-min(3, len(self.journal)) :]
        self.world.after(self.world.rng.uniform(1, 60), self.start)

    def submit(self, command: Command, device: Device | None = None) -> None:
        """What arrives while the process is down is lost."""
        if self.state is None:
            return
        self.inbox.append((command, device))
        if not self.working:
            self.working = True
            self.world.after(self.world.rng.uniform(0.001, 0.05), self._work)

    def _work(self) -> None:
        """One group: decide, apply, commit, then speak."""
        state, world = self.state, self.world
        self.working = False
        if state is None or not self.inbox:
            return
        group, self.inbox = self.inbox[:GROUP], self.inbox[GROUP:]
        written: list[tuple[Any, list[bytes]]] = []
        said: list[tuple[Device, Heard]] = []
        for command, device in group:
            leaves = self._leaves(state) if isinstance(command, commands.SealDue) else []
            decision = decide(state, command, now=world.now)
            for event in decision.events:
                apply(state, event)
                if event.__class__ in KIND_OF:
                    written.append((event, leaves))
            self._note_waiting(command, device, decision)
            if decision.reply is not None:
                assert device is not None
                said.append((device, self._heard(state, decision)))
        dies = world.dies()
        if not world.protections.durable_before_spoken:
            self._speak(said)
            said = []
        if dies == "before its commit":
            self.crash(dies)
            return
        for event, leaves in written:
            self._commit(event, leaves)
        if dies:
            self.crash(dies)
            return
        self._speak(said)
        if written:
            self._check_money()
        if self.inbox:
            self.working = True
            world.after(world.rng.uniform(0.001, 0.02), self._work)

    @staticmethod
    def _leaves(state: GatewayState) -> list[bytes]:
        facts = [facts_of_record(state, record) for record in state.unsealed]
        return leaves_of(facts, sheet_of((f.account, f.currency, f.tariff, f.charges, f.at) for f in facts))

    def _note_waiting(self, command: Command, device: Device | None, decision: Decision) -> None:
        world = self.world
        if decision.wait is not None:
            assert isinstance(command, DeviceStatement)
            assert device is not None
            until = Instant(world.now + SECOND_US * 3 // 2)
            self.parked.append(Parked(command, device, decision.wait.account, until))
            world.after(1.5, self.wake_parked)

    def wake_parked(self, account: str | None = None) -> None:
        """Decide again what waited for ``account``, or too long."""
        still = []
        for parked in self.parked:
            if parked.account == account:
                self.submit(parked.command, parked.device)
            elif parked.until <= self.world.now:
                self.submit(replace(parked.command, may_wait=False), parked.device)
            else:
                still.append(parked)
        self.parked = still

    def _heard(self, state: GatewayState, decision: Decision) -> Heard:
        reply = decision.reply
        assert reply is not None
        grant = None
        if reply.grant_of is not None:
            grant = state.authorizations[reply.grant_of].grant(state.gateway_id)
        device = state.devices.get(reply.device)
        return Heard(
            gateway_id=self.id,
            incarnation=state.incarnation,
            answers=reply.answers,
            status=reply.status,
            refusal=reply.refusal,
            grant=grant,
            receipted_counter=0 if device is None else device.receipted_counter(state.receipted_position),
            closed=reply.closed,
        )

    def _speak(self, said: list[tuple[Device, Heard]]) -> None:
        for device, heard in said:
            self.world.send(f"{self.id} to {device.name}: {heard.status.name} {heard.answers}", device.hear, heard)

    def _commit(self, event: Any, leaves: list[bytes]) -> None:
        self.journal.append(encode_event(event))
        if isinstance(event, Sealed):
            self.sealed[event.sequence] = (event.batch, leaves)
        if isinstance(event, Granted | Metered):
            for charge in event.charges:
                self.spent[charge.funding] += charge.net_micros + charge.tax_micros
            self.holds[event.authorization] = dict(event.holds)

    def _check_money(self) -> None:
        """P1 at the gateway, from the journal alone: spent and held of a quota never exceed what was granted."""
        state = self.state
        assert state is not None
        held: defaultdict[str, int] = defaultdict(int)
        for parts in self.holds.values():
            for funding, amount in parts.items():
                held[funding] += amount
        for funding in {*self.spent, *held}:
            if funding == OVERRUN_FUNDING:
                continue
            # Room of the floor returns by directive: what was spent there may be spent again.
            allowed = (
                state.floor_policy.all_tokens_micros + self.world.resolved_micros(self.id)
                if funding == FLOOR_FUNDING
                else self.world.granted_micros(self.id, funding)
            )
            if self.spent[funding] + held[funding] > allowed:
                raise PromiseBroken(
                    f"P1: {self.id} has spent {self.spent[funding]} and holds {held[funding]} of {funding}, {allowed}"
                )

    # ---- uplink

    def poll(self) -> None:
        """What the uplink does in a while: say hello, follow directives, push batches, ask for quotas."""
        world, state = self.world, self.state
        world.after(world.rng.uniform(4, 40) if not world.calm else 1, self.poll)
        if state is None or self.cut:
            return
        if world.rng.random() < 0.1:
            world.send(
                f"{self.id} says hello", world.cloud.hello, self, state.incarnation, state.start_id, state.position
            )
        world.send(
            f"{self.id} follows from {state.directive_version}", world.cloud.follow, self, state.directive_version
        )
        waiting = [n for n in sorted(self.sealed) if n > state.receipted_sequence]
        for sequence in waiting[:3]:
            world.send(f"{self.id} pushes {sequence}", world.cloud.push, self, sequence, self.sealed[sequence][0])
        for request in list(state.requests.values()):
            world.send(f"{self.id} asks {request.counter}", world.cloud.ask, self, state.incarnation, request)

    def housekeep(self) -> None:
        world = self.world
        world.after(world.rng.uniform(4, 40) if not world.calm else 2, self.housekeep)
        self.submit(commands.Tick())
        if world.calm or world.rng.random() < 0.7:
            self.submit(commands.SealDue())

    def set_cut(self, cut: bool) -> None:
        self.cut = cut
        self.world.note(f"{self.id} {'loses' if cut else 'finds'} its uplink")
        self.submit(commands.UplinkChanged(online=not cut))


# The cloud ------------------------------------------------------------------------------------------------------------


class CloudNode:
    """The ledger, asked by message."""

    def __init__(self, world: World, protections: Protections, terms: GrantTerms) -> None:
        self.world = world
        self.store = MemoryStore() if protections.cumulative_claims else ForgetfulStore()
        self.ledger = Ledger(self.store, terms=terms, receipt_keys=(b"receipt-key",))
        self.receipts: dict[tuple[str, int], bytes] = {}
        self.funds_micros: defaultdict[str, int] = defaultdict(int)

    def hello(self, gateway: GatewayNode, incarnation: int, start_id: bytes, position: int) -> None:
        before, chain = drive(
            self.ledger.hello(GatewayId(gateway.id), incarnation=incarnation, start_id=start_id, position=position)
        )
        hello = gateway_sync_pb2.HelloResponse(
            incarnation=before.incarnation,
            ledger_epoch=1,
            posted_sequence=chain.sequence,
            proven_sequence=chain.proven_sequence,
            witnessed_start_id=before.witness_start_id,
            witnessed_position=before.witness_position,
        )
        # An answer to an older hello may say less than the gateway knows by now, never more.
        self.world.send(f"hello to {gateway.id}", gateway.submit, commands.Connected(hello=hello))

    def follow(self, gateway: GatewayNode, after_version: int) -> None:
        rows = drive(self.store.directives(GatewayId(gateway.id), after_version, 8))
        for row in rows:
            body = directive_pb2.Directive.FromString(row.body)
            arrived = commands.DirectiveArrived(body=body, raw=row.body, signature=bytes(64), key_id=bytes(8))
            self.world.send(f"directive {row.version} to {gateway.id}", self._obey, gateway, arrived)
        if not rows:
            head = commands.HeadArrived(version=after_version, at=self.world.now)
            self.world.send(f"head to {gateway.id}", gateway.submit, head)

    @staticmethod
    def _obey(gateway: GatewayNode, arrived: commands.DirectiveArrived) -> None:
        gateway.submit(arrived)
        if arrived.body.WhichOneof("body") == "quota_granted":
            gateway.wake_parked(arrived.body.quota_granted.account_id)

    def ask(self, gateway: GatewayNode, incarnation: int, request: Any) -> None:
        answered = drive(
            self.ledger.request_quota(
                QuotaRequest(
                    operator_id=OP,
                    gateway_id=GatewayId(gateway.id),
                    incarnation=incarnation,
                    counter=request.counter,
                    account_id=request.account_id,
                    currency=EUR,
                    wanted_micros=request.wanted_micros,
                ),
                now=self.world.now,
            )
        )
        self.check_accounts()
        answer = gateway_sync_pb2.QuotaAnswer.ValueType(answered.answer)
        command = commands.QuotaAnswered(counter=request.counter, answer=answer)
        self.world.send(
            f"{gateway_sync_pb2.QuotaAnswer.Name(answer)} to {gateway.id} {request.counter}", gateway.submit, command
        )

    def push(self, gateway: GatewayNode, sequence: int, raw: bytes) -> None:
        outcome = drive(
            self.ledger.post_batch(
                receive(raw, signature=b"", key_id=b"", currency=EUR), currency=EUR, now=self.world.now
            )
        )
        self.check_accounts()
        if outcome.receipt is None:
            if outcome.step is not ChainStep.GAP:
                raise PromiseBroken(f"P3: batch {sequence} of {gateway.id} is a {outcome.step}")
            return
        if outcome.receipt.parked:
            raise PromiseBroken(f"P4: batch {sequence} of {gateway.id} has parked lines: {outcome.receipt.parked}")
        receipt = outcome.receipt.encode()
        first = self.receipts.setdefault((gateway.id, sequence), receipt)
        if first != receipt:
            raise PromiseBroken(f"P3: another receipt for batch {sequence} of {gateway.id}")
        if outcome.step is ChainStep.NEXT:
            self.world.after(self.world.rng.uniform(0, 30), self.prove, gateway, sequence, raw)
        message = batch_pb2.Receipt.FromString(receipt)
        arrived = commands.ReceiptArrived(receipt=message, raw=receipt)
        self.world.send(f"receipt {sequence} to {gateway.id}", gateway.submit, arrived)

    def prove(self, gateway: GatewayNode, sequence: int, raw: bytes) -> None:
        """P6: every leaf proves itself, then the ledger hears of it."""
        batch, world = batch_pb2.Batch.FromString(raw), self.world
        try:
            detail.verify(
                batch,
                gateway.sealed[sequence][1],
                device_key=lambda device, _kid: AnyKey(cose.key_id(device.encode())),  # type: ignore[return-value,arg-type]  # stands in for a VerifyingKey
                tariff=lambda name, _version: world.tariffs[name],
                register=lambda device, _register, _epoch: RegisterFacts(unit=world.units[device], modulus=10**9),
            )
        except detail.EvidenceError as err:
            raise PromiseBroken(f"P6: batch {sequence} of {gateway.id}: {err}") from err
        drive(self.ledger.prove(GatewayId(gateway.id), batch.incarnation, sequence, events=(), now=world.now))

    # ---- back office

    def top_up(self, account: str, amount_micros: int) -> None:
        self.funds_micros[account] += amount_micros
        payment = Funding(
            operator_id=OP,
            account_id=AccountId(account),
            currency=EUR,
            amount_micros=amount_micros,
            payment_id=f"{account}-{self.funds_micros[account]}",
            source="bank/main",
        )
        for _ in range(2):
            drive(self.ledger.fund(payment, now=self.world.now))
        self.check_accounts()

    def put_account(self, account: str, *, status: AccountStatus = AccountStatus.ACTIVE) -> None:
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
        drive(
            self.ledger.recall(OP, gateway_id=gateway_id, account_id=account, reason="simulation", now=self.world.now)
        )
        self.check_accounts()

    def issue(self, gateway_id: str, key: str, body: Any) -> None:
        drive(self.ledger.issue_directive(OP, GatewayId(gateway_id), body, idempotency_key=key, now=self.world.now))

    # ---- what must always hold

    def balances(self, prefix: str = "") -> dict[str, Any]:
        return {path: balance for path, _, balance in drive(self.store.balances(OP, prefix))}

    def check_accounts(self) -> None:
        """P1 at the ledger: what is posted and held of an account never exceeds its funds and credit limit."""
        for path, balance in self.balances("payer/").items():
            account = path.partition("/")[2]
            most = balance.credits_posted + self.world.accounts[account].credit_micros
            if balance.debits_posted + balance.debits_pending > most:
                raise PromiseBroken(f"P1: {path} has {balance}, more than {most}")
            if balance.credits_posted != self.funds_micros[account]:
                raise PromiseBroken(f"P5: {path} was funded {self.funds_micros[account]}, has {balance}")


# The world ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    credit_micros: int = 0
    debt_micros: int = 0
    preload_micros: int = 0
    funds_micros: int = 0


@dataclass
class World:
    """Everything, and the only clock."""

    seed: int
    minutes: int = 25
    trouble: Trouble = field(default_factory=Trouble)
    protections: Protections = field(default_factory=Protections)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.now = START
        self.calm = True
        self.steps = 0
        self.history: list[str] = []
        self.said: dict[bytes, tuple[Device, Said]] = {}
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self.tariffs = {name: parse_tariff(self.ocpi(name)) for name in TARIFFS}
        self.units: dict[str, str] = {}
        self._granted: dict[tuple[str, str], int] = {}
        self._resolved: dict[str, tuple[int, int]] = {}
        rng = self.rng
        self.accounts = {
            "rich": Terms(funds_micros=200 * M, debt_micros=M, preload_micros=rng.choice((0, 5 * M))),
            "poor": Terms(funds_micros=rng.randint(0, 6) * M, debt_micros=rng.choice((0, M))),
            "credit": Terms(credit_micros=rng.choice((2, 8)) * M, debt_micros=M // 2, preload_micros=2 * M),
        }
        terms = GrantTerms(
            share_ppm=rng.choice((250_000, 500_000, 1_000_000)),
            smallest_micros=rng.choice((1, M // 2)),
            most_open_per_account=4,
            lifetime_us=rng.choice((600, 1_800, 7_200)) * SECOND_US,
            outage_us=6 * 3600 * SECOND_US,
        )
        self.cloud = CloudNode(self, self.protections, terms)
        self._open_books()
        self.gateways = {name: GatewayNode(self, name) for name in GATEWAYS}
        self.devices = self._make_devices()
        self._tell_gateways()

    @staticmethod
    def ocpi(name: str) -> bytes:
        return json.dumps({"id": name, "currency": "EUR"} | TARIFFS[name]).encode()

    # ---- set-up

    def _open_books(self) -> None:
        for name in GATEWAYS:
            drive(
                self.cloud.ledger.put_gateway(
                    gateway_id=GatewayId(name),
                    operator_id=OP,
                    site_id=SiteId(f"site-{name}"),
                    currency=EUR,
                    exposure_micros=self.rng.choice((12, 40)) * M,
                    batch_key=b"",
                    grant_key=b"",
                    time_zone="Europe/Berlin",
                    now=self.now,
                )
            )
        for account, terms in self.accounts.items():
            self.cloud.put_account(account)
            if terms.funds_micros:
                self.cloud.top_up(account, terms.funds_micros)

    def _make_devices(self) -> list[Device]:
        rng, both = self.rng, GATEWAYS

        def home() -> tuple[str, ...]:
            return (rng.choice(GATEWAYS),)

        tokens = ("t-rich", "t-poor", "t-credit")
        devices: list[Device] = [
            SessionDevice(
                world=self,
                device_id=f"charger-{number}",
                profile="session",
                unit="Wh",
                tariff_id=rng.choice(("chg-3", "chg-time", "chg-max")),
                gateways=rng.choice((home(), both)),
                tokens=tokens,
                rated_per_hour=22_000,
                stoppable=number == 0,
                value=rng.randrange(10**6),
                patience=rng.choice((1, 4)),
            )
            for number in range(2)
        ]
        devices.append(
            SessionDevice(
                world=self,
                device_id="bay-0",
                profile="session",
                unit="s",
                tariff_id="park",
                gateways=home(),
                tokens=tokens,
                rated_per_hour=3_600,
                report_interval_s=300,
            )
        )
        devices.append(
            OneShotDevice(
                world=self,
                device_id="toll-0",
                profile="one-shot",
                unit="passage",
                tariff_id="toll-1",
                gateways=both,
                tokens=tokens,
                rated_per_hour=600,
                value=rng.randrange(100),
            )
        )
        devices.append(
            StandingDevice(
                world=self,
                device_id="meter-0",
                profile="standing",
                unit="Wh",
                tariff_id="kwh",
                gateways=home(),
                rated_per_hour=9_000,
                report_interval_s=900,
                value=rng.randrange(10**6),
            )
        )
        for device in devices:
            self.units[device.device_id] = device.unit
        return devices

    def _tell_gateways(self) -> None:
        cloud = self.cloud
        for name in GATEWAYS:
            for tariff in TARIFFS:
                record = directive_pb2.TariffRecord(
                    tariff_id=tariff, version=1, currency=EUR, ocpi_json=self.ocpi(tariff)
                )
                cloud.issue(name, f"tariff {tariff}", record)
            for account in self.accounts:
                token = directive_pb2.TokenRecord(
                    token_ref=token_ref(f"t-{account}"), key_epoch=1, token_id=f"id-{account}", account_id=account
                )
                cloud.issue(name, f"token {account}", token)
            for device in self.devices:
                cloud.issue(name, f"device {device.device_id}", self._device_record(device))
            floor = directive_pb2.FloorPolicy(
                currency=EUR,
                per_token_micros=self.rng.choice((0, 2 * M)),
                per_account_micros=3 * M,
                all_tokens_micros=4 * M,
            )
            cloud.issue(name, "floor", floor)

    @staticmethod
    def _device_record(device: Device) -> directive_pb2.DeviceRecord:
        return directive_pb2.DeviceRecord(
            device_id=device.device_id,
            status=directive_pb2.DEVICE_STATUS_ACTIVE,
            device_epoch=1,
            profile=PROFILES[device.profile],
            statement_key=device.device_id.encode(),
            registers=[
                directive_pb2.RegisterRecord(
                    register_id="r1",
                    register_epoch=1,
                    unit=device.unit,
                    modulus=10**9,
                    rated_per_hour=device.rated_per_hour,
                )
            ],
            tariff_id=device.tariff_id,
            tariff_version=1,
            report_interval_s=device.report_interval_s,
            standing_account_id="rich" if device.profile == "standing" else "",
            stoppable=device.stoppable,
        )

    # ---- time and network

    def note(self, what: str) -> None:
        self.history.append(f"{(self.now - START) / SECOND_US:10.3f} {what}")

    def after(self, seconds: float, do: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._queue, (self.now + int(seconds * SECOND_US), next(self._order), do, arguments))

    def send(self, what: str, deliver: Callable[..., None], *arguments: Any) -> None:
        """Lose it, double it, delay it, and so reorder it."""
        rng = self.rng
        if self.calm:
            self.after(0.01, deliver, *arguments)
            return
        if rng.random() < self.trouble.loss:
            self.note(f"lost: {what}")
            return
        copies = 1 + (rng.random() < self.trouble.doubling)
        for _ in range(copies):
            # Mostly quick, sometimes late enough to arrive after what was said much later.
            delay = rng.uniform(0.01, 0.5) if rng.random() < 0.85 else rng.uniform(1, 240)
            self.after(delay, deliver, *arguments)
        self.note(what if copies == 1 else f"twice: {what}")

    @staticmethod
    def _command(said: Said) -> DeviceStatement:
        token = None if said.token is None else token_ref(said.token)
        return DeviceStatement(
            statement=said.statement,
            cose=said.cose,
            payload=said.payload,
            token_ref=token,
            key_epoch=None if token is None else 1,
        )

    def device_says(self, device: Device, said: Said) -> None:
        gateway = self.gateways[said.statement.recipient]
        self.said[said.payload] = (device, said)
        command = self._command(said)
        what = f"{device.name} to {gateway.id}: {said.statement.kind} {said.statement.counter}"
        self.send(f"{what} at {said.statement.register.value}", gateway.submit, command, device)

    def dies(self) -> str:
        """Whether a gateway dies now, and at which moment of its work."""
        if self.calm or self.rng.random() >= self.trouble.crash:
            return ""
        return self.rng.choice(("before its commit", "after its commit, before it speaks"))

    def granted_micros(self, gateway_id: str, quota_id: str) -> int:
        """What the ledger says it gave, not what the gateway believes."""
        if (gateway_id, quota_id) not in self._granted:
            for quota in drive(self.cloud.store.quotas(OP)):
                self._granted[quota.gateway_id, quota.quota_id] = quota.amount_micros
        return self._granted.get((gateway_id, quota_id), 0)

    def resolved_micros(self, gateway_id: str) -> int:
        """What the ledger gave back of a gateway's floor so far."""
        version, resolved = self._resolved.get(gateway_id, (0, 0))
        for row in drive(self.cloud.store.directives(GatewayId(gateway_id), version, 1_000)):
            version = row.version
            resolved += directive_pb2.Directive.FromString(row.body).floor_resolved.amount_micros
        self._resolved[gateway_id] = version, resolved
        return resolved

    # ---- the run

    def run_until(self, at: Instant) -> None:
        while self._queue and self._queue[0][0] <= at:
            self._step()
        self.now = max(self.now, at)

    def _step(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise PromiseBroken(f"did not come to rest: {self.unrest()}")
        at, _, do, arguments = heapq.heappop(self._queue)
        self.now = Instant(max(self.now, at))
        do(*arguments)

    def _wake(self, device: Device) -> None:
        device.wake()
        self.after(self.rng.uniform(15, 180) if not self.calm else 3, self._wake, device)

    def live(self) -> None:
        """An ordinary bad hour."""
        rng, minutes = self.rng, self.minutes
        for gateway in self.gateways.values():
            gateway.poll()
            gateway.housekeep()
        self.run_until(Instant(self.now + 30 * SECOND_US))
        self.calm = False
        begins = self.now
        for device in self.devices:
            self.after(rng.uniform(0, 30), self._wake, device)
        for _ in range(self.trouble.cuts):
            gateway = self.gateways[rng.choice(GATEWAYS)]
            from_s = rng.uniform(0, minutes * 60)
            self.after(from_s, gateway.set_cut, True)
            self.after(from_s + rng.uniform(30, minutes * 20), gateway.set_cut, False)
        for _ in range(3):
            account = rng.choice(sorted(self.accounts))
            self.after(rng.uniform(0, minutes * 60), self.cloud.top_up, account, rng.randint(1, 3 * M))
            self.after(rng.uniform(0, minutes * 60), self._recall_some)
        self.after(rng.uniform(60, minutes * 40), self._clone)
        self.run_until(Instant(begins + minutes * 60 * SECOND_US))

    def _recall_some(self) -> None:
        self.note("some quotas are recalled")
        self.cloud.recall(self.rng.choice(GATEWAYS), self.rng.choice(sorted(self.accounts)))

    def _clone(self) -> None:
        """Copy a device's element: it goes on at the other gateway, from the same counter and the same register."""
        can = [
            d for d in self.devices if isinstance(d, OneShotDevice) or (d.profile == "session" and len(d.gateways) == 1)
        ]
        original = self.rng.choice(can)
        if original.session is not None or original.kept:
            self.after(5, self._clone)
            return
        where = (self.rng.choice(GATEWAYS),)
        if not isinstance(original, OneShotDevice):
            # At one gateway the two would fight over counters, and the original's ends be refused: people decide then.
            where = tuple(name for name in GATEWAYS if name not in original.gateways)
        self.note(f"{original.name} is copied, the copy goes to {where}")
        twin = original.twin("clone", where)
        self.devices.append(twin)
        self.after(1, self._wake, twin)

    def rest(self) -> None:
        """Everything heals; every session ends; every quota is called back; then nothing moves any more."""
        self.note("calm")
        self.calm = True
        for gateway in self.gateways.values():
            gateway.set_cut(False)
        for device in self.devices:
            device.finishing = True
        self._run_while(lambda: not all(device.is_done() for device in self.devices))
        self._say_everything_again()
        for account in self.accounts:
            self.cloud.put_account(account, status=AccountStatus.SUSPENDED)
        self._run_while(self._requests_open)
        self.cloud.recall()
        self._run_while(lambda: bool(self.unrest()))

    def _say_everything_again(self) -> None:
        """P3: whatever any device ever said, twice more and in any order: nothing is billed, nothing is held."""
        before = {g.id: (dict(g.spent), {k: v for k, v in g.holds.items() if v}) for g in self.gateways.values()}
        again = list(self.said.values()) * 2
        self.rng.shuffle(again)
        for device, said in again:
            self.gateways[said.statement.recipient].submit(self._command(said), device)
        self._run_while(lambda: any(gateway.inbox for gateway in self.gateways.values()))
        self._run_while(lambda: any(gateway.parked for gateway in self.gateways.values()))
        for gateway in self.gateways.values():
            after = (dict(gateway.spent), {k: v for k, v in gateway.holds.items() if v})
            if after != before[gateway.id]:
                raise PromiseBroken(
                    f"P3: saying everything again changed {gateway.id}: {before[gateway.id]} to {after}"
                )

    def _requests_open(self) -> bool:
        return any(gateway.state is None or gateway.state.requests for gateway in self.gateways.values())

    def _run_while(self, waiting: Callable[[], bool]) -> None:
        while waiting():
            for _ in range(20):
                self._step()

    def unrest(self) -> list[str]:
        """What is not yet at rest, in words; empty when nothing moves any more."""
        found = [f"{d.name}: {d.session or d.kept}" for d in self.devices if not d.is_done()]
        found += [
            f"{quota.quota_id} of {quota.gateway_id} is {quota.status}"
            for quota in drive(self.cloud.store.quotas(OP))
            if quota.status is not QuotaStatus.CLOSED
        ]
        for gateway in self.gateways.values():
            state = gateway.state
            if state is None:
                found.append(f"{gateway.id} is down")
            elif state.unsealed or state.ended or state.batches or state.quotas:
                found.append(f"{gateway.id} has {len(state.batches)} batches, {list(state.quotas)} to report")
            elif state.open_authorizations - sum(a.standing for a in state.authorizations.values()):
                found.append(f"{gateway.id} has open authorizations")
        return found

    # ---- the end

    def check_end(self) -> None:
        """P3, P4, P5 once everything is at rest."""
        self._check_conservation()
        self._replay_everything()
        self._check_conservation()

    def _claims(self) -> dict[bytes, Any]:
        return {claim.authorization_id: claim for claim in drive(self.cloud.store.claims(OP))}

    def _check_conservation(self) -> None:
        claims = self._claims()
        delivered_micros = 0
        for device in self.devices:
            for authorization, delivered in device.delivered.items():
                due = device.price_of(delivered)
                delivered_micros += sum(due)
                claim = claims.pop(authorization, None)
                claimed = (0, 0) if claim is None else (claim.net_micros, claim.tax_micros)
                if claimed != due:
                    raise PromiseBroken(f"P4: {device.name} delivered {delivered} for {due}, claimed is {claim}")
                if claim is not None and delivered.end > delivered.start and claim.register_to != delivered.end:
                    raise PromiseBroken(f"P4: {device.name} delivered {delivered}, claimed is {claim}")
                if claim is not None and delivered.closing and not claim.final:
                    raise PromiseBroken(f"P4: {device.name} ended {delivered}, the claim is not final: {claim}")
        for claim in claims.values():
            if claim.net_micros or claim.tax_micros:
                raise PromiseBroken(f"P4: nobody delivered {claim}")
        self._check_books(delivered_micros)

    def _check_books(self, delivered_micros: int) -> None:
        verdict = drive(self.cloud.store.verify())
        if verdict.fault:
            raise PromiseBroken(f"P5: {verdict.fault}")
        balances = self.cloud.balances()

        def total(kind: str, of: Callable[[Any], int]) -> int:
            return sum(of(balance) for path, balance in balances.items() if path.partition("/")[0] == kind)

        paid = total("payer", lambda b: b.debits_posted)
        debt = total("debt", lambda b: b.debits_posted - b.credits_posted)
        risk = total("risk", lambda b: b.debits_posted - b.credits_posted)
        suspense = total("suspense", lambda b: b.debits_posted - b.credits_posted)
        if delivered_micros != paid + debt + risk + suspense:
            raise PromiseBroken(
                f"P5: delivered {delivered_micros}, payers {paid} + debt {debt} + risk {risk} + suspense {suspense}"
            )
        held = total("payer", lambda b: b.debits_pending)
        if held:
            raise PromiseBroken(f"P5: {held} still held after every quota was closed")
        for gateway in self.gateways.values():
            total_spent = sum(gateway.spent.values())
            sealed = sum(
                total.net_micros + total.tax_micros
                for raw, _ in gateway.sealed.values()
                for total in batch_pb2.Batch.FromString(raw).totals
            )
            if total_spent != sealed:
                raise PromiseBroken(f"P4: the journal of {gateway.id} bills {total_spent}, its batches {sealed}")

    def _replay_everything(self) -> None:
        """P3: the whole backlog again, twice, forwards and backwards: the same ledger, the same receipts."""
        transfers = len(drive(self.cloud.store.transfers(OP)))
        before = self.cloud.balances()
        backlog = [(gateway, n) for gateway in self.gateways.values() for n in sorted(gateway.sealed)]
        for gateway, sequence in [*backlog, *reversed(backlog)]:
            raw = gateway.sealed[sequence][0]
            outcome = drive(
                self.cloud.ledger.post_batch(
                    receive(raw, signature=b"", key_id=b"", currency=EUR), currency=EUR, now=self.now
                )
            )
            if outcome.step is not ChainStep.REPLAY or outcome.receipt is None:
                raise PromiseBroken(f"P3: batch {sequence} of {gateway.id} again is a {outcome.step}")
            if outcome.receipt.encode() != self.cloud.receipts[gateway.id, sequence]:
                raise PromiseBroken(f"P3: batch {sequence} of {gateway.id} again has another receipt")
        if len(drive(self.cloud.store.transfers(OP))) != transfers or self.cloud.balances() != before:
            raise PromiseBroken("P3: a replay moved money")
        self._reseal_everything()

    def _reseal_everything(self) -> None:
        """The same claims in one more chain (a journal adopted elsewhere): nothing is due."""
        transfers = len(drive(self.cloud.store.transfers(OP)))
        for gateway in self.gateways.values():
            previous = bytes(32)
            for sequence in sorted(gateway.sealed):
                batch = batch_pb2.Batch.FromString(gateway.sealed[sequence][0])
                batch.previous_hash = previous
                batch.start_id = bytes(16)
                del batch.stopped[:], batch.closed_quota_ids[:]
                raw = batch.SerializeToString(deterministic=True)
                previous = hashlib.sha256(raw).digest()
                received = replace(receive(raw, signature=b"", key_id=b"", currency=EUR), incarnation=0)
                outcome = drive(self.cloud.ledger.post_batch(received, currency=EUR, now=self.now))
                if outcome.step is not ChainStep.NEXT:
                    raise PromiseBroken(f"P3: a re-sealed batch is a {outcome.step}")
        if len(drive(self.cloud.store.transfers(OP))) != transfers:
            raise PromiseBroken("P3: claims in another chain moved money")

    def statistics(self) -> dict[str, int]:
        """How much this seed has seen: a simulation that tries nothing proves nothing."""
        balances = self.cloud.balances()
        claims = drive(self.cloud.store.claims(OP))
        return {
            "histories": 1,
            "steps": self.steps,
            "crashes": sum(gateway.crashes for gateway in self.gateways.values()),
            "batches": sum(len(gateway.sealed) for gateway in self.gateways.values()),
            "claims": len(claims),
            "asides": sum(claim.aside for claim in claims),
            "overrun": sum(gateway.spent[OVERRUN_FUNDING] > 0 for gateway in self.gateways.values()),
            "floor": sum(gateway.spent[FLOOR_FUNDING] > 0 for gateway in self.gateways.values()),
            "risk": sum(b.debits_posted > 0 for path, b in balances.items() if path == "risk"),
            "debt": sum(b.debits_posted > 0 for path, b in balances.items() if path.startswith("debt/")),
            "suspense": sum(b.debits_posted > 0 for path, b in balances.items() if path.startswith("suspense/")),
            "refusals": sum(sum(device.refusals.values()) for device in self.devices),
            "without width": sum(
                d.end == d.start for device in self.devices for d in device.delivered.values() if d.closing
            ),
        }


def simulate(seed: int, **options: Any) -> World:
    """One seed from birth to rest; raises ``PromiseBroken`` with the end of its history."""
    world = World(seed, **options)
    try:
        world.live()
        world.rest()
        world.check_end()
    except Exception as err:
        tail = "\n".join(world.history[-60:])
        raise PromiseBroken(f"seed {seed}, step {world.steps}: {err}\n{tail}") from err
    return world
