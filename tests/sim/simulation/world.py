"""The world of one story: the only queue of what happens next, and everybody in it."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from farthing.clock import SECOND_US, Instant
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_cloud.ledger.core.rows import AccountStatus, Quota, QuotaStatus
from simulation import actions, audit
from simulation.cast import OP, START
from simulation.device import DeviceNode, decoded
from simulation.gateway import GatewayNode
from simulation.history import History, PromiseBroken
from simulation.ledger import LedgerNode, device_record, drive, token_record, token_ref
from simulation.lots import Lots
from simulation.network import Network
from simulation.story import Story
from simulation.watch import Watch

#: Far more than any story needs to come to rest: a simulation that is not at rest by then hangs for a reason.
MOST_STEPS = 60_000
#: As long after its end a story may take to come to rest, seconds.
MOST_REST_S = 1_800
#: The line of a history that ends its set-up.
BEGINS = "-- it begins"
#: How often the ledger looks around in the longest planned outage: more often than it must.
LOOKS_IN_AN_OUTAGE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Players:
    """Who plays which part; tests put others here that lack a protection."""

    gateway: type[GatewayNode] = GatewayNode
    ledger: type[LedgerNode] = LedgerNode
    device: type[DeviceNode] = DeviceNode


class World:
    """Everything, and the only clock that orders."""

    def __init__(self, story: Story, *, players: Players | None = None, keep_history: bool = False) -> None:
        players = players or Players()
        self.story = story
        self.lots = Lots(story.seed)
        self.now: Instant = START
        self.calm = True
        self.steps = 0
        self.history = History(keep=keep_history)
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self.accounts = {account.name: account for account in story.cast.purses}
        self.roles = {role.name: role for role in story.cast.devices}
        #: As the operator's records have them.
        self.register_epochs = {role.name: 1 for role in story.cast.devices}
        self.profiles = {role.name: role.profile for role in story.cast.devices}
        self.network = Network(self)
        self.watch = Watch(self)
        self.ledger = players.ledger(self)
        self.ledger.open_books()
        self.gateways = {name: players.gateway(self, name) for name in story.cast.gateways}
        self.devices = {role.name: players.device(self, role) for role in story.cast.devices}
        self.ledger.tell_gateways()

    # ---- time, network, history

    def note(self, what: str, *parts: Any) -> None:
        """A line of the history."""
        if self.history.keep:
            self.history.note(self.now, what, *parts)

    def after(self, seconds: float, do: Callable[..., None], *arguments: Any) -> None:
        """Let something happen later."""
        heapq.heappush(self._queue, (self.now + int(seconds * SECOND_US), next(self._order), do, arguments))

    def send(self, source: str, target: str, what: str, deliver: Callable[..., None], *arguments: Any) -> None:
        """Over the network."""
        self.network.send(source, target, what, deliver, *arguments)

    def _step(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise PromiseBroken(f"rest: it does not come to rest: {self.unrest()}")
        at, _, do, arguments = heapq.heappop(self._queue)
        self.now = Instant(max(self.now, at))
        do(*arguments)

    def _run_until(self, at: Instant) -> None:
        while self._queue and self._queue[0][0] <= at:
            self._step()
        self.now = max(self.now, at)

    def _run_while(self, why: str, waiting: Callable[[], bool]) -> None:
        until = self.now + MOST_REST_S * SECOND_US
        while waiting():
            if self.now > until:
                raise PromiseBroken(f"rest: {why}: {self.unrest()}")
            for _ in range(20):
                self._step()

    # ---- the run

    def run(self) -> None:
        """From the first directive to rest; raises ``PromiseBroken``."""
        # The gateways know everything before it begins: what they are not told in time is not what this is about.
        self._run_while(
            "a gateway has not heard all directives",
            lambda: any(not self._knows_all(gateway) for gateway in self.gateways.values()),
        )
        self.note(BEGINS)
        self.calm = False
        self.ledger.listen()
        begins, length_s = self.now, self.story.cast.minutes * 60
        for device in self.devices.values():
            self.after(self.lots.between(f"{device.name} begins", 0, 2), device.live)
        for action in self.story.actions:
            self.after(action.at_s, self._perform, action, length_s)
        self._run_until(Instant(begins + length_s * SECOND_US))
        self.rest()
        audit.check_end(self)

    def _knows_all(self, gateway: GatewayNode) -> bool:
        if gateway.state is None:
            return False
        row = drive(self.ledger.store.gateway(gateway.settings.gateway_id))
        return row is not None and gateway.state.directive_version == row.directive_version

    def rest(self) -> None:
        """Everything heals; every session ends; every quota is called back; then nothing moves any more."""
        self.note("-- everything heals")
        self.calm = True
        for gateway in self.gateways.values():
            gateway.uplink_changed()
        self._run_while(
            "the ledger is not back", lambda: not self.ledger.is_open or any(g.must_greet for g in self._living)
        )
        self.ledger.be_whole()
        # Who was suspended is so no more: it says its last word when gateways know that.
        self._run_while(
            "a gateway has not heard all directives", lambda: not all(self._knows_all(g) for g in self._living)
        )
        for device in self.devices.values():
            device.finish()
        self._run_while(
            "a device has something to say", lambda: not all(self._is_done(device) for device in self.devices.values())
        )
        self._say_everything_again()
        self._close_what_nobody_knows()
        for account in self.accounts:
            self.ledger.put_account(account, status=AccountStatus.SUSPENDED)
        self._run_while(
            "a gateway asks for money", lambda: any(g.state is None or g.state.requests for g in self._living)
        )
        self.ledger.recall()
        self._run_while("quotas or batches are open", lambda: bool(self.unrest(but_frozen=True)))
        self._wait_for_silence()
        if self.unrest():
            raise PromiseBroken(f"rest: it does not come to rest: {self.unrest()}")

    @property
    def _living(self) -> list[GatewayNode]:
        """The gateways that are not gone for good."""
        return [gateway for gateway in self.gateways.values() if not gateway.is_gone]

    def _is_done(self, device: DeviceNode) -> bool:
        """Whether nothing is left for a device to say that anybody could hear.

        What only a gateway that is gone could hear, nobody hears any more: it must be of no use that was delivered and is not claimed to
        its end.
        """
        state = device.state
        if state is None:
            return False
        asking = state.use
        # Whether there was a passage, only the gateway that was asked can say.
        if asking is not None and not (device.role.profile == "one-shot" and self.gateways[asking.gateway].is_gone):
            return False
        if self._is_parked_with_nobody_else(device):
            return False
        if device.is_done:
            # What another gateway has carried, its own still hears; one that has lost its journal hears it from the ledger.
            own = [self.gateways[each.gateway] for each in state.outgoing]
            return all(gateway.is_gone or gateway.disk_faults for gateway in own)
        if not any(gateway.is_gone for gateway in self.gateways.values()):
            return False
        # A final no is an answer: what it was to is for people, with what that was said about.
        with_people = {
            each.intent_counter
            for each in state.kept
            if each.kind == "end" and each.refused is not None and each.intent_counter is not None
        }
        said = [
            each
            for each in (*state.outgoing, *(kept for kept in state.kept if kept.refused is None))
            if (asking is None or each.intent_counter != asking.intent_counter)
            and each.intent_counter not in with_people
        ]
        if not all(self.gateways[each.gateway].is_gone for each in said):
            return False
        claims = {claim.authorization_id: claim for claim in drive(self.ledger.store.claims(OP))}
        everything = device.all_delivered()
        for each in said:
            name = device.authorization_of(decoded(each.payload))
            delivered, claim = everything.get(name), claims.get(name)
            if delivered is None or delivered.end == delivered.start or delivered.left:
                continue
            if audit.is_with_people(self, device, delivered, claim):
                continue
            if claim is None or (claim.register_to != delivered.end) or (delivered.closing and not claim.final):
                return False
        return True

    def _is_parked_with_nobody_else(self, device: DeviceNode) -> bool:
        """Whether it keeps an end that a gateway has parked and the ledger does not have yet, and there is somebody who can take it up."""
        assert device.state is not None
        return any(
            each.kind == "end"
            and each.refused in (Refusal.INTENT_ENDED, Refusal.REGISTER_EPOCH_DIFFERS)
            and (device.device_id, each.counter) in self.watch.ever_parked
            and (
                not self.gateways[each.gateway].is_gone
                or any(not self.gateways[other].is_gone for other in each.elsewhere)
            )
            for each in device.state.kept
        )

    def _say_everything_again(self) -> None:
        """P3: whatever any device ever said, twice more and in any order: nothing is billed, nothing is held.

        Not by a journal that went back and of which nobody has proven it: what it has forgotten it would decide anew.
        """
        self.note("-- everything is said again, twice")
        asked = {name: gateway for name, gateway in self.gateways.items() if not gateway.went_back_unnoticed}
        self.watch.counted["rollbacks that nobody noticed"] += len(self.gateways) - len(asked)
        # A journal that went back may bill again what the ledger has: claims see to that (``audit``).
        before = {name: gateway.figures() for name, gateway in asked.items() if not gateway.disk_faults}
        # What was parked is taken once what was the matter with it is mended: its gateway has heard of the new register since. A suspended meter's
        # reading likewise, once it is active again: no is no word on what it counts, which its next reading bills; here it reads no more.
        again = [
            (device, said)
            for device in self.devices.values()
            for said in device.said.values()
            if not self.watch.was_parked(said.statement) and not device.reads_no_more(said.statement)
        ] * 2
        self.lots.stream("again").shuffle(again)
        for device, said in again:
            if said.statement.recipient in asked:
                asked[said.statement.recipient].submit(said, device)
        self._run_while("a gateway works", lambda: not all(gateway.is_idle for gateway in self._living))
        for name, figures in before.items():
            after = asked[name].figures()
            if after != figures:
                raise PromiseBroken(f"P3: saying everything again changed {name}: {figures} to {after}")

    def _close_what_nobody_knows(self) -> None:
        """People close what a journal had open when it was put where another stood, and of which no device delivered anything: nobody ends it.

        Its device never heard the yes, and has told the other journal that it is over. It would be asked after it the next time that it
        came; here it comes no more. Nor does one whose end was receipted, and is lost with a database and a journal.
        """
        final = self._final_claims()
        forgotten = {word.authorization for word in self.ledger.lost_words() if word.final}
        delivered = {
            name
            for device in self.devices.values()
            for name, each in device.all_delivered().items()
            if each.end > each.start
        }
        for gateway in self._living:
            state = gateway.state
            if state is None:
                continue
            for name in sorted(gateway.brought_back - final - (delivered - forgotten)):
                each = state.authorizations.get(name)
                if each is not None and not each.closed and not each.standing:
                    self.note("people close {} of {} at {}", name.hex(), each.device_id, gateway.id)
                    self.watch.counted["uses that people closed"] += 1
                    self.ledger.close_use(each.device_id, name)

    def _final_claims(self) -> set[bytes]:
        """What the ledger has the end of."""
        return {claim.authorization_id for claim in drive(self.ledger.store.claims(OP)) if claim.final}

    def _wait_for_silence(self) -> None:
        """What earlier incarnations were granted and nobody closed is held until it should have been reported, then ends."""
        terms = self.story.cast.terms
        step_us = terms.outage_s * SECOND_US // LOOKS_IN_AN_OUTAGE
        for _ in range(3 * LOOKS_IN_AN_OUTAGE + terms.lifetime_s * SECOND_US // step_us):
            if all(quota.status is QuotaStatus.CLOSED for quota in drive(self.ledger.store.quotas(OP))):
                return
            self.now = Instant(self.now + step_us)
            drive(self.ledger.ledger.end_silent(now=self.now))

    def unrest(self, *, but_frozen: bool = False) -> list[str]:
        """What is not yet at rest, in words; empty when nothing moves any more."""
        found = [
            f"{device.name}: {device.state.use or [(each.kind, each.counter) for each in device.state.kept]}"
            if device.state is not None
            else f"{device.name} is down"
            for device in self.devices.values()
            if not self._is_done(device)
        ]
        found += [
            f"{quota.quota_id} of {quota.gateway_id} is {quota.status}"
            for quota in drive(self.ledger.store.quotas(OP))
            if quota.status is not QuotaStatus.CLOSED and not (but_frozen and self._is_nobodys(quota))
        ]
        # A journal that went back may have open what its device has ended: the ledger has that end.
        final = self._final_claims()
        for gateway in self._living:
            state = gateway.state
            if state is None:
                found.append(f"{gateway.id} is down")
            elif state.unsealed or state.ended or state.batches or state.to_seal_again or state.carried:
                found.append(f"{gateway.id} has {len(state.batches)} batches to report")
            elif state.parked_unsealed:
                # The device was told no, for people to look: until the ledger has it, only this journal and the device do.
                found.append(f"{gateway.id} has parked {len(state.parked_unsealed)} statements that are still to go up")
            elif any(not quota.frozen and not self.watch.ended[quota.id] for quota in state.quotas.values()):
                found.append(f"{gateway.id} has quotas {list(state.quotas)}")
            elif any(
                not each.closed and not each.standing and name not in final
                for name, each in state.authorizations.items()
            ):
                found.append(f"{gateway.id} has open authorizations")
        return found

    def _is_nobodys(self, quota: Quota) -> bool:
        """Whether only silence ends its hold: its journal is not the present one, or its gateway is gone."""
        return quota.status is QuotaStatus.FROZEN or self.gateways[quota.gateway_id].is_gone

    # ---- what happens from outside

    def is_copied(self, device_id: str) -> bool:
        """Whether its element exists twice."""
        return any(device.is_copy and device.device_id == device_id for device in self.devices.values())

    def _perform(self, action: actions.Action, length_s: int) -> None:
        self.watch.counted[action.__class__.__name__] += 1
        left_s = length_s - action.at_s
        match action:
            case actions.Arrive(device=name):
                self.note("somebody comes to {}: {}", name, action)
                self.devices[name].arrive(action)
            case actions.Draw(device=name, rate_per_hour=rate):
                self.devices[name].draw(rate)
            case actions.CrashGateway(gateway=name):
                self.gateways[name].die(action)
            case actions.CrashDevice(device=name, down_s=down_s):
                self.devices[name].crash(down_s)
            case actions.CrashLedger(down_s=down_s):
                self.ledger.crash(down_s)
            case actions.RestoreLedger(after_s=after_s, down_s=down_s, noticed=noticed):
                self.ledger.back_up()
                self.after(after_s, self.ledger.restore, down_s, noticed)
            case actions.Cut(one=one, other=other, for_s=for_s):
                self._cut(one, other, for_s)
            case actions.RestoreDisk(gateway=name, back_s=back_s, token=token, down_s=down_s):
                self.gateways[name].restore_disk(back_s, token, down_s)
            case actions.LoseDisk(gateway=name, down_s=down_s, token=token):
                self.gateways[name].lose_disk(down_s, token)
            case actions.FindDisk(gateway=name, down_s=down_s):
                self.gateways[name].find_disk(down_s)
            case actions.Gone(gateway=name):
                self.gateways[name].be_gone()
            case actions.ForceVoid(gateway=name):
                self.ledger.force_void(name)
            case actions.JumpClock(who=who, by_s=by_s):
                (self.gateways.get(who) or self.devices[who]).jump(by_s)
            case actions.Clone(device=name, gateway=gateway):
                self._clone(self.devices[name], gateway)
            case actions.Suspend(device=name, for_s=for_s):
                self._suspend(name, min(for_s, left_s))
            case actions.ReplaceRegister(device=name, value=value, told_s=told_s):
                self._replace_register(self.devices[name], value, min(told_s, left_s))
            case actions.Deny(account=account, for_s=for_s):
                self.note("the token of {} is denied for {:g} s", account, for_s)
                self.ledger.issue_everywhere(directive_pb2.TokenDenied(token_ref=token_ref(f"t-{account}")))
                self.after(min(for_s, left_s), self.ledger.issue_everywhere, token_record(account))
            case actions.Freeze(account=account, for_s=for_s):
                self.note("account {} is suspended for {:g} s", account, for_s)
                self.ledger.put_account(account, status=AccountStatus.SUSPENDED)
                self.after(min(for_s, left_s), self.ledger.put_account, account)
            case actions.Recall(gateway=gateway, account=account):
                self.note("quotas of {} at {} are recalled", account or "all", gateway or "all")
                self.ledger.recall(gateway, account)
            case actions.TopUp(account=account, amount_micros=amount):
                self.note("{} pays in {}", account, amount)
                self.ledger.top_up(account, amount)
            case _:
                raise AssertionError(f"nobody performs {action}")

    def _cut(self, one: str, other: str, for_s: float) -> None:
        self.note("{} and {} are cut off from each other for {:g} s", one, other, for_s)
        self.network.cut(one, other)
        self.after(for_s, self._mend, one, other)
        self._uplinks_changed(one, other)

    def _mend(self, one: str, other: str) -> None:
        self.network.mend(one, other)
        self.note("{} and {} can reach each other{}", one, other, " not yet" * self.network.is_cut(one, other))
        self._uplinks_changed(one, other)

    def _uplinks_changed(self, *names: str) -> None:
        if "ledger" in names:
            for name in names:
                if name in self.gateways:
                    self.gateways[name].uplink_changed()

    def _suspend(self, name: str, for_s: float) -> None:
        self.note("{} is suspended for {:g} s", name, for_s)
        self._tell_of(name, directive_pb2.DEVICE_STATUS_SUSPENDED)
        self.after(for_s, self._tell_of, name)

    def _tell_of(
        self, name: str, status: directive_pb2.DeviceStatus.ValueType = directive_pb2.DEVICE_STATUS_ACTIVE
    ) -> None:
        """The operator's record of a device, to every gateway."""
        self.ledger.issue_everywhere(device_record(self.roles[name], status, self.register_epochs[name]))

    def _replace_register(self, device: DeviceNode, value: int, told_s: float) -> None:
        if self.calm or device.was_copied:
            return
        if not device.replace_register(value):
            # Without power, or a passage waits for its answer: whoever came for it waits too.
            self.after(5, self._replace_register, device, value, told_s)
            return
        self.note("{} gets another register, which shows {}", device.name, value)
        self.watch.counted[f"registers replaced: {device.role.profile}"] += 1
        self.after(told_s, self._tell_of_register, device.name)

    def _tell_of_register(self, name: str) -> None:
        self.register_epochs[name] += 1
        self._tell_of(name)

    def _clone(self, original: DeviceNode, gateway: str) -> None:
        state = original.state
        if self.calm or original.was_copied:
            return
        if state is None or state.use is not None or state.kept:
            # A copy of an element in use would end what the original uses: people see that; here it is copied at rest.
            self.after(5, self._clone, original, gateway)
            return
        self.note("{} is copied, the copy goes to {}", original.name, gateway)
        twin = original.twin(gateway)
        self.devices[twin.name] = twin
        twin.live()
        for action in self.story.actions:
            if isinstance(action, actions.Arrive) and action.device == original.name:
                self.after(max(1.0, action.at_s + 7 - (self.now - START) / SECOND_US), twin.arrive, action)

    # ---- what it was worth

    def statistics(self) -> Counter[str]:
        """How much this story has seen: a simulation that tries nothing proves nothing."""
        found = Counter(self.watch.counted)
        found["stories"] = 1
        found["steps"] = self.steps
        found["messages lost"] = self.network.lost
        found["messages doubled"] = self.network.doubled
        found["messages late"] = self.network.late
        for gateway in self.gateways.values():
            found["gateway crashes"] += gateway.crashes
            found["batches"] += len(gateway.sealed)
            found["gateways gone"] += gateway.is_gone
            found["disk faults"] += gateway.disk_faults
        for device in self.devices.values():
            found["device crashes"] += device.crashes
            found["registers that came round"] += device.came_round and not device.is_copy
            found["copies"] += device.is_copy
            found["uses"] += device.uses
            found["passages left"] += device.left
            found["cancelled uses"] += device.cancelled
            found["refused intents"] += device.refused
            found["yeses that lapsed on their way"] += device.lapsed
            found["ends handed over"] += device.handed_over
            found["disclaimers"] += device.disclaimed
        found["stories with shares that only lost batches had"] += self.watch.missing_micros > 0
        for cause, micros in self.watch.exceeded_micros.items():
            found[f"stories with {cause}"] += micros > 0
        balances = self.ledger.balances()
        for kind in ("risk", "debt", "suspense"):
            found[f"stories with {kind}"] += any(
                balance.debits_posted > 0 for path, balance in balances.items() if path.partition("/")[0] == kind
            )
        return found


def tell(story: Story, *, players: Players | None = None, keep_history: bool = False) -> World:
    """Run a story to rest; whatever goes wrong is a ``PromiseBroken`` that carries the world in ``world``."""
    world = World(story, players=players, keep_history=keep_history)
    try:
        world.run()
    except PromiseBroken as err:
        err.world = world
        raise
    except Exception as err:
        broken = PromiseBroken(f"{err.__class__.__name__}: {err}")
        broken.world = world
        raise broken from err
    return world


def recorded(story: Story, world: World) -> Story:
    """The story as it was told: with its fates written into it."""
    return replace(story, fates=dict(world.network.fates))
