"""A gateway's process around the real core: what arrives is decided in groups, written, then answered.

The shell here does what ``farthing_edge.engine`` and ``farthing_edge.uplink`` do, without threads, sockets and signatures.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from farthing.clock import SECOND_US, Instant
from farthing.device import cose
from farthing.device.messages import Answer, Grant, Witness, encode
from farthing.evidence.batches import batch_hash
from farthing.ids import GatewayId, StartId
from farthing.money import format_micros
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.core.restoring import Proof
from farthing_edge.authorization import commands
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.commands import Command, DeviceStatement
from farthing_edge.authorization.deciding import decide
from farthing_edge.authorization.decision import Decision
from farthing_edge.authorization.events import (
    KIND_OF,
    Adopted,
    DirectiveApplied,
    Disclaimed,
    Granted,
    Lapsed,
    Metered,
    Sealed,
    Settled,
)
from farthing_edge.authorization.state import CoreSettings, GatewayState
from farthing_edge.authorization.witnesses import vouches
from farthing_edge.metering.sealing import facts_of_record, leaves_of, sheet_of
from simulation.actions import CrashGateway
from simulation.cast import START
from simulation.clocks import Clock
from simulation.disks import Disk, TokenMemory

if TYPE_CHECKING:
    from simulation.device import DeviceNode
    from simulation.world import World

#: How many commands a gateway takes into one commit, and how long after the first.
GROUP = 8
GATHERING_S = 0.01
#: The engine's own wait for a quota.
QUOTA_WAIT_US = SECOND_US * 3 // 2
LATER_MS = 500


@dataclass(frozen=True, slots=True)
class Sealing:
    """A batch and its leaves, as the journal could show them again."""

    batch: bytes
    leaves: list[bytes]
    #: It says again what an older chain left without a receipt.
    is_again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A hello."""

    incarnation: int
    start_id: bytes
    position: int
    sealed_sequence: int
    suspects_rollback: bool
    directive_version: int
    #: The last directive and the last receipt, as the cloud signed them.
    proof: Proof


@dataclass(slots=True)
class Waiting:
    """A statement that waits for a quota."""

    command: DeviceStatement
    device: DeviceNode
    account: str
    until_us: int


def _spoken(answer: Answer, grant: Grant | None) -> str:
    """An answer as histories show it: its name, then positions and money."""
    refusal = "" if answer.refusal is None else f" {answer.refusal.name}"
    parts = [f"position {answer.witness.incarnation}/{answer.witness.position}"]
    if grant is not None:
        held = sum(part.amount_micros for part in grant.held)
        billed = grant.net_micros + grant.tax_micros
        parts.append(f"limit {grant.limit}, billed {format_micros(billed)}, held {format_micros(held)}")
    if answer.closed:
        parts.append("closed")
    if answer.asks:
        parts.append(f"asks after {len(answer.asks)}")
    parts.append(f"receipted {answer.receipted_counter}")
    to = "a tick" if answer.answers is None else str(answer.answers[1])
    to += "" if answer.ticked is None else f"/{answer.ticked}"
    return f"{answer.status.name.lower()}{refusal} to {to} | {', '.join(parts)}"


class GatewayNode:
    """A gateway's process: its disk outlives it, the rest does not."""

    def __init__(self, world: World, gateway_id: str) -> None:
        self.world = world
        self.id = gateway_id
        self.kid = cose.key_id(gateway_id.encode())
        self.clock = Clock(world)
        self.settings = CoreSettings(
            gateway_id=GatewayId(gateway_id),
            grant_lapse_us=world.story.cast.terms.lapse_s * SECOND_US,
            clock_epoch_us=START,
            clock_real_epoch_us=0,
            clock_rate=1,
        )
        self.disk = Disk()
        self.state: GatewayState | None = None
        self.starts = self.crashes = 0
        #: The date of the newest head that this process has heard, and the world's time then.
        self.surely_at = self._heard_at = Instant(0)
        #: The wall clock less monotonic time, as last read.
        self._offset_us = 0
        self.dying: CrashGateway | None = None
        self._inbox: list[tuple[Command, DeviceNode | None]] = []
        self._waiting: list[Waiting] = []
        self._working = False
        #: The hellos said so far: an answer to any but the last comes too late.
        self._hellos = 0
        #: The connection broke: nothing is said before the next hello is answered.
        self.must_greet = False
        #: What the ledger said to the last hello that it has posted.
        self._posted = 0
        #: Incarnation → what it has posted of it; None while it does not want batches of earlier ones again.
        self._earlier: dict[int, int] | None = None
        #: Chains of earlier incarnations that it has refused for good in this session.
        self._refused_earlier: set[int] = set()
        #: (incarnation, sequence) → what the journal has of it, kept decoded.
        self.sealed: dict[tuple[int, int], Sealing] = {}
        #: Merkle root → leaves, of every batch that any journal here has sealed.
        self._leaves_of: dict[bytes, list[bytes]] = {}
        # A tally of the journal, by funding: what was spent, and what each authorization holds.
        self.spent: defaultdict[str, int] = defaultdict(int)
        self.holds: dict[bytes, dict[str, int]] = {}
        #: Authorization → what its state held right after it lapsed.
        self.held_when_lapsed: dict[bytes, dict[str, int]] = {}
        #: Journals that were here before: at each fault of the disk one more.
        self.lost_disks: list[Disk] = []
        self.disk_faults = 0
        #: The incarnation of the journal that stands where another stood; None until it is read.
        self._incarnation_of_fault: int | None = None
        #: Authorizations that the journal had when it was put here: what has become of them meanwhile, it was not told.
        self.brought_back: set[bytes] = set()
        self.is_gone = False
        self.token: TokenMemory | None = None
        #: Some have a token that counts: it remembers the highest sealed batch.
        self._has_token_memory = world.lots.draw(f"{gateway_id} token") < 0.5
        self.start()
        self._poll(0)
        self._keep_house(0)

    # ---- life

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self.state is not None

    def start(self) -> None:
        """Become what the disk says, then say that a new start has begun."""
        if self.state is not None or self.is_gone:
            return
        state = GatewayState(self.settings)
        for event in self.disk.events():
            apply(state, event)
        self.state = state
        if self._incarnation_of_fault is None:
            self._incarnation_of_fault = state.incarnation
        self._inbox, self._waiting, self._working = [], [], False
        self.starts += 1
        self.submit(
            commands.Started(
                start_id=self.world.lots.raw(f"{self.id} start {self.starts}", 16),
                boot_id=self._boot_id,
                clock_epoch_us=START,
                clock_real_epoch_us=0,
                clock_rate=1,
                real_us=self.clock.now(),
                monotonic_us=self.world.now,
                journal_at=self.disk.last_at,
            )
        )
        self._offset_us = self.clock.offset_us
        self.surely_at = self._heard_at = Instant(0)
        if self.token is not None:
            self.submit(
                commands.TokenWitnessed(
                    incarnation=self.token.incarnation,
                    sequence=self.token.sequence,
                    batch_hash=self.token.batch_hash,
                )
            )
        self.uplink_changed()

    def be_gone(self) -> None:
        """It never comes back."""
        self.crash("for good", 0)
        self.is_gone = True

    # ---- its disk

    def restore_disk(self, back_s: float, token: str, down_s: float) -> None:
        """The disk is an older copy of itself."""
        self.crash(f"for its disk of {back_s:g} s ago (token {token})", down_s)
        before = Instant(self.world.now - int(back_s * SECOND_US))
        self.put_disk(self.disk.as_of(before))
        if token == "restored":
            self.token = self._last_sealed()

    def lose_disk(self, down_s: float, token: str = "kept") -> None:
        """The disk is gone, and an empty one there."""
        self.crash(f"and its disk is lost (token {token})", down_s)
        self.put_disk(Disk())
        if token == "restored":
            self.token = None

    def find_disk(self, down_s: float) -> None:
        """The disk that was lost is back, instead of the one that began since."""
        if not self.lost_disks:
            return
        self.crash("for the disk that was lost and is found", down_s)
        self.put_disk(self.lost_disks[0])

    @property
    def went_back_unnoticed(self) -> bool:
        """Whether another journal stands where one stood, and nobody has proven it yet: until then it may say what it said before."""
        state = self.state
        return self.disk_faults > 0 and state is not None and state.incarnation == self._incarnation_of_fault

    def put_disk(self, disk: Disk) -> None:
        """Another journal from now on."""
        self.lost_disks.append(self.disk)
        self.disk = Disk(list(disk.entries))
        self.disk_faults += 1
        self._incarnation_of_fault = None
        self.sealed = {}
        self.spent.clear()
        self.holds = {}
        for _, event in self.disk.entries:
            self._tally(event, set())
        self.brought_back = set(self.holds)
        self.world.watch.counted["disks that went wrong beside a restored ledger"] += self.world.ledger.is_restoring
        self.world.watch.journal_replaced(self)

    def _last_sealed(self) -> TokenMemory | None:
        if not self.sealed:
            return None
        incarnation, sequence = max(self.sealed)
        return TokenMemory(
            incarnation=incarnation,
            sequence=sequence,
            batch_hash=batch_hash(self.sealed[incarnation, sequence].batch),
        )

    # ---- dying

    def crash(self, when: str, down_s: float) -> None:
        """The process is gone, with everything in its memory."""
        self.world.note("{} dies {}", self.id, when)
        self.dying = None
        self._inbox, self._waiting = [], []
        if self.state is not None:
            self.crashes += 1
            self.state = None
            self.world.after(down_s, self.start)

    def die(self, crash: CrashGateway) -> None:
        """Die now, or at the named moment of the next work."""
        if self.state is None:
            return
        if crash.moment == "at once":
            self.crash(crash.moment, crash.down_s)
        else:
            self.dying = crash

    # ---- one writer

    def submit(self, command: Command, device: DeviceNode | None = None) -> None:
        """What arrives while the process is down is lost."""
        if self.state is None:
            return
        self._inbox.append((command, device))
        self._work_soon()

    def _work_soon(self) -> None:
        if not self._working:
            self._working = True
            self.world.after(GATHERING_S, self._work, self.starts)

    def _work(self, start: int) -> None:
        """One group: decide, apply, write, then speak."""
        state = self.state
        if state is None or start != self.starts:
            return
        self._working = False
        if not self._inbox:
            return
        group, self._inbox = self._inbox[:GROUP], self._inbox[GROUP:]
        now = self.clock.now()
        written: list[tuple[Any, list[bytes]]] = []
        said: list[tuple[DeviceNode, Answer, Grant | None]] = []
        stepped_us = self.clock.offset_us - self._offset_us
        if stepped_us:
            # As the engine does: before anything is decided by the clock as it is now.
            self._offset_us = self.clock.offset_us
            group = [(self._clock_read(stepped_us), None), *group]
        for command, device in group:
            if isinstance(command, commands.HeadArrived):
                self.surely_at, self._heard_at = command.at, self.world.now
            leaves = self._leaves(state) if command.__class__ is commands.SealDue else []
            decision = decide(state, command, now=now)
            for event in decision.events:
                apply(state, event)
                if isinstance(event, Lapsed):
                    # As it is now: what the rest of the group moves, it moves after.
                    self.held_when_lapsed[event.authorization] = dict(state.authorizations[event.authorization].holds)
                if event.__class__ in KIND_OF:
                    written.append((event, leaves))
            if decision.wait is not None:
                assert isinstance(command, DeviceStatement)
                assert device is not None
                self._wait(command, device, decision.wait.account)
            if decision.reply is not None:
                assert device is not None
                said.append((device, *self._answer(state, decision)))
        self._write_then_speak(written, said)
        if self.state is not None and self._inbox:
            self._work_soon()

    @property
    def proven_at(self) -> Instant:
        """What has passed by the cloud's word in this start, and by the time since."""
        return Instant(self.surely_at + self.world.now - self._heard_at) if self.surely_at else Instant(0)

    @property
    def _boot_id(self) -> str:
        """Every other death is the machine's, not the process's."""
        return f"boot {self.starts // 2}"

    def _clock_read(self, stepped_us: int) -> commands.ClockRead:
        return commands.ClockRead(
            boot_id=self._boot_id,
            real_us=self.clock.now(),
            monotonic_us=self.world.now,
            stepped_us=stepped_us,
            synchronised=False,
        )

    def _write_then_speak(
        self, written: list[tuple[Any, list[bytes]]], said: list[tuple[DeviceNode, Answer, Grant | None]]
    ) -> None:
        dying = self.dying if written else None
        if dying is not None and dying.moment == "before its commit":
            self.crash(dying.moment, dying.down_s)
            return
        self._write(written)
        if dying is not None:
            self.crash(dying.moment, dying.down_s)
            return
        self._speak(said)

    def _write(self, written: list[tuple[Any, list[bytes]]]) -> None:
        touched: set[str] = set()
        for event, leaves in written:
            self.disk.append(self.world.now, event, self.clock.now())
            if isinstance(event, Sealed) and not event.again:
                self._leaves_of[batch_pb2.Batch.FromString(event.batch).merkle_root] = leaves
            self._tally(event, touched)
            self.world.watch.journaled(self, event)
        if touched:
            self.world.watch.spent(self, touched)
        if self._has_token_memory:
            self.token = self._last_sealed()

    def _tally(self, event: Any, touched: set[str]) -> None:
        """Keep count of what is journaled: ``touched`` gains the fundings that it names."""
        if isinstance(event, Sealed):
            root = batch_pb2.Batch.FromString(event.batch).merkle_root
            self.sealed[event.incarnation, event.sequence] = Sealing(
                event.batch, self._leaves_of[root], bool(event.again)
            )
        elif isinstance(event, Granted | Metered | Settled):
            for charge in event.charges:
                self.spent[charge.funding] += charge.net_micros + charge.tax_micros
                touched.add(charge.funding)
            self.holds[event.authorization] = dict(event.holds)
            touched.update(name for name, _ in event.holds)
        elif isinstance(event, Adopted):
            self.holds[event.authorization] = dict(event.holds)
            touched.update(name for name, _ in event.holds)
        elif isinstance(event, Disclaimed):
            self.holds[event.authorization] = {}

    def _speak(self, said: list[tuple[DeviceNode, Answer, Grant | None]]) -> None:
        for device, answer, grant in said:
            self.world.send(self.id, device.name, _spoken(answer, grant), device.hear, answer, grant)

    def _answer(self, state: GatewayState, decision: Decision) -> tuple[Answer, Grant | None]:
        reply = decision.reply
        assert reply is not None
        grant = None
        if reply.grant_of is not None:
            grant = state.authorizations[reply.grant_of].grant(state.gateway_id)
        device = state.devices.get(reply.device)
        return (
            Answer(
                gateway=state.gateway_id,
                witness=Witness(
                    incarnation=state.incarnation,
                    start_id=StartId(state.start_id or bytes(16)),
                    position=state.vouched_position(state.position) if vouches(state, reply) else 0,
                ),
                answers=reply.answers,
                status=reply.status,
                receipted_counter=0 if device is None else state.receipted_counter(device),
                refusal=reply.refusal,
                grant=None if grant is None else cose.encode_sign1(self.kid, encode(grant), bytes(64)),
                retry_after_ms=LATER_MS if reply.status.name == "LATER" else None,
                closed=reply.closed,
                asks=reply.asks,
                ticked=reply.ticked,
            ),
            grant,
        )

    @staticmethod
    def _leaves(state: GatewayState) -> list[bytes]:
        facts = [facts_of_record(state, record) for record in state.unsealed]
        return leaves_of(facts, sheet_of((f.account, f.currency, f.tariff, f.charges, f.at) for f in facts))

    # ---- waiting for a quota

    def _wait(self, command: DeviceStatement, device: DeviceNode, account: str) -> None:
        self._waiting.append(Waiting(command, device, account, self.world.now + QUOTA_WAIT_US))
        self.world.after(QUOTA_WAIT_US / SECOND_US, self.wake_waiting)

    def wake_waiting(self, account: str | None = None) -> None:
        """Decide again what waited for ``account``, or too long."""
        still: list[Waiting] = []
        for waiting in self._waiting:
            if waiting.account == account:
                self.submit(waiting.command, waiting.device)
            elif waiting.until_us <= self.world.now:
                self.submit(replace(waiting.command, may_wait=False), waiting.device)
            else:
                still.append(waiting)
        self._waiting = still

    def figures(self) -> tuple[dict[str, int], dict[bytes, dict[str, int]]]:
        """What its journal has spent, and what is held."""
        return dict(self.spent), {name: parts for name, parts in self.holds.items() if parts}

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits inside."""
        return self.state is not None and not self._inbox and not self._waiting

    # ---- uplink

    @property
    def is_online(self) -> bool:
        """Whether the ledger can be asked."""
        return not self.world.network.is_cut(self.id, "ledger")

    def uplink_changed(self) -> None:
        """Somebody noticed that the uplink went or came."""
        self.submit(commands.UplinkChanged(online=self.is_online))

    def _poll(self, times: int) -> None:
        """What the uplink does in a while: say hello, follow directives, push batches, ask for quotas."""
        world, state = self.world, self.state
        wait_s = 2.0 if world.calm else world.lots.between(f"{self.id} poll {times}", 2, 20)
        world.after(wait_s, self._poll, times + 1)
        if state is None or not self.is_online:
            return
        ledger = world.ledger
        if times % 8 == 0 or not self._agrees or self.must_greet:
            self._hellos += 1
            said = Said(
                incarnation=state.incarnation,
                start_id=state.start_id,
                position=state.position,
                sealed_sequence=state.sequence,
                suspects_rollback=bool(state.rollback_suspected),
                directive_version=state.directive_version,
                proof=self._proof(state),
            )
            self._ask("hello", ledger.hello, self._hellos, self.starts, said)
        if state.expected_incarnation is None or self.must_greet:
            return  # a session begins with the answer to its hello
        self._ask(f"directives after {state.directive_version}?", ledger.follow, state.directive_version)
        if state.to_seal_again and state.may_seal:
            old = state.to_seal_again[0]
            self.submit(commands.SealAgain(raw=self.sealed[old.incarnation, old.sequence].batch))
        if not self._agrees:
            return
        if self._earlier is not None:
            older = self._not_posted_of_earlier(state.incarnation)
            for name in older[:3]:
                self._ask(f"batch {name[0]}/{name[1]}", ledger.push, *name, self.sealed[name])
            if older:
                return  # as the uplink does it: the present chain rests on what the earlier ones claim, and follows them
        waiting = sorted(
            sequence
            for incarnation, sequence in self.sealed
            if incarnation == state.incarnation
            and min(self._posted, state.receipted_sequence) < sequence <= state.sequence
        )
        for sequence in waiting[:3]:
            sealing = self.sealed[state.incarnation, sequence]
            self._ask(f"batch {state.incarnation}/{sequence}", ledger.push, state.incarnation, sequence, sealing)
        for request in list(state.requests.values()):
            wish = f"quota {state.incarnation}/{request.counter}? | {format_micros(request.wanted_micros)} for {request.account_id}"
            self._ask(wish, ledger.ask, state.incarnation, request)

    def _not_posted_of_earlier(self, incarnation: int) -> list[tuple[int, int]]:
        """What a restored ledger has yet to post of the chains before ``incarnation``, each as far as this journal has it without a gap."""
        assert self._earlier is not None
        found: list[tuple[int, int]] = []
        for chain, sequence in sorted(self.sealed):
            if chain < incarnation and chain not in self._refused_earlier and sequence > self._earlier.get(chain, 0):
                before = found[-1] if found and found[-1][0] == chain else (chain, self._earlier.get(chain, 0))
                if sequence == before[1] + 1:
                    found.append((chain, sequence))
        return found

    @property
    def _agrees(self) -> bool:
        """Whether the ledger has said that this journal's incarnation is the present one: only then is its chain pushed."""
        state = self.state
        return (
            state is not None
            and state.incarnation > 0
            and state.expected_incarnation == state.incarnation
            and not state.waits
        )

    def greeted(self, number: int, start: int, command: commands.Connected) -> None:
        """The answer to a hello; a session has one, so an answer to an earlier one is nobody's."""
        if (number, start) == (self._hellos, self.starts):
            self.must_greet = False
            hello = command.hello
            self._posted = hello.posted_sequence
            posted = {chain.incarnation: chain.posted_sequence for chain in hello.earlier}
            self._earlier = posted if hello.wants_batches else None
            self._refused_earlier.clear()
            self.submit(command)

    def refuse_earlier(self, incarnation: int) -> None:
        """Another journal has spoken in that incarnation: what this one has of it stays here, and holds nothing else up."""
        self._refused_earlier.add(incarnation)

    def hang_up(self) -> None:
        """The ledger refused a call: the session is over, and the next begins with a hello."""
        self.must_greet = True

    def show(self) -> None:
        """The ledger was restored: hand back all that it said."""
        state = self.state
        if state is not None:
            raws = [event.raw for _, event in self.disk.entries if isinstance(event, DirectiveApplied)]
            self._ask(f"shows {len(raws)} directives", self.world.ledger.shown, raws, self._proof(state))

    def receipted(self, arrived: commands.ReceiptArrived) -> None:
        """A receipt came."""
        if self.state is not None and arrived.receipt.incarnation == self.state.incarnation:
            self._posted = max(self._posted, arrived.receipt.sequence)
        elif self._earlier is not None:
            self._earlier[arrived.receipt.incarnation] = arrived.receipt.sequence
        self.submit(arrived)

    @staticmethod
    def _proof(state: GatewayState) -> Proof:
        receipt = batch_pb2.Receipt.FromString(state.last_receipt[0])
        return Proof(
            version=state.directive_version,
            directive_hash=state.directive_hash,
            directive_epoch=state.ledger_epoch,
            incarnation=receipt.incarnation,
            sequence=receipt.sequence,
            batch_hash=receipt.batch_hash,
            receipt_epoch=max(1, receipt.ledger_epoch),
        )

    def _ask(self, what: str, deliver: Any, *arguments: Any) -> None:
        ledger = self.world.ledger
        self.world.send(self.id, "ledger", what, ledger.in_session, ledger.sessions, deliver, self, *arguments)

    def _keep_house(self, times: int) -> None:
        world = self.world
        wait_s = 2.0 if world.calm else world.lots.between(f"{self.id} house {times}", 2, 20)
        world.after(wait_s, self._keep_house, times + 1)
        self.submit(commands.Tick())
        if world.calm or world.lots.draw(f"{self.id} seal {times}") < 0.7:
            self.submit(commands.SealDue())

    def obey(self, arrived: commands.DirectiveArrived) -> None:
        """A directive came. A new incarnation begins a new session, as the uplink's does: its hello shows what this journal has receipts for."""
        self.submit(arrived)
        if self.state is not None and arrived.body.welcome.incarnation > self.state.incarnation > 0:
            self.hang_up()
        if arrived.body.WhichOneof("body") == "quota_granted":
            self.wake_waiting(arrived.body.quota_granted.account_id)

    def jump(self, by_s: float) -> None:
        """Its clock jumps."""
        self.world.note("the clock of {} jumps by {:g} s", self.id, by_s)
        self.clock.jump(by_s)
