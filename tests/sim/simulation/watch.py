"""What must hold after every step, held against what devices signed and count.

Rule 1: each check looks only at what a step touched; whole checks come now and then and at the end (``audit``).
Rule 2: nothing here asks a core what it believes: journals are summed, postings are read, prices are computed from the contract.
Rule 3: what P1 lets exceed an account's funds is counted by its cause; any other is a broken promise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from farthing.clock import SECOND_US, Instant
from farthing.device import cose
from farthing.device import messages as m
from farthing.device.messages import Statement, decode_statement
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, directive_pb2
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.posting import CaseAdded, Cause, Posting, Transfer, TransferKind
from farthing_cloud.ledger.core.rows import CaseKind, Claimed, Quota, RegisterKey
from farthing_edge.authorization.events import KIND_OF, Disclaimed, EndCarried, Granted, Lapsed, StatementParked
from farthing_edge.authorization.state import FLOOR_FUNDING, OVERRUN_FUNDING
from simulation.cast import MODULUS, prices_time
from simulation.history import PromiseBroken
from simulation.ledger import token_ref
from simulation.limits import Limits
from simulation.prices import Point, Prices, point_of

if TYPE_CHECKING:
    from simulation.device import DeviceNode
    from simulation.gateway import GatewayNode
    from simulation.ledger import WatchedStore
    from simulation.world import World

#: Money that P1 lets exceed an account's funds, by the cause that its posting names.
EXCEPTIONS = (Cause.FLOOR, Cause.OVERRUN, Cause.LATE)
#: Why a gateway parks what is said of a register that is not there any more.
_OF_A_REPLACED_REGISTER = (Refusal.INTENT_ENDED, Refusal.REGISTER_EPOCH_DIFFERS)
#: Words and decisions of one group have no order by time: a moment more than a group gathers.
_GROUP_TAKES_US = SECOND_US // 10
#: A passage that a rolled-back journal gave unheard, and the next incarnation once more.
ONE_SHOT_TWICE = "one-shot uses given twice over a lost journal, and set aside"
#: Gateway, incarnation and sequence.
BatchName: TypeAlias = tuple[str, int, int]


@dataclass(slots=True)
class Spoken:
    """What a device has signed of one authorization, by its counter; a tick by its chain's and its own."""

    device: DeviceNode
    start: int
    points: dict[int | tuple[int, int], Point] = field(default_factory=dict)

    def has(self, value: int) -> bool:
        """Whether it signed this value."""
        return any(point.value == value for point in self.points.values())


class Watch:
    """Sees everything; raises ``PromiseBroken``."""

    def __init__(self, world: World) -> None:
        self.world = world
        #: Authorization → what was signed of it; more than one where a copied element signs under the counters of the first.
        self.spoken: defaultdict[bytes, list[Spoken]] = defaultdict(list)
        self._recipients: dict[bytes, str] = {}
        self.prices = Prices({role.name: role.unit for role in world.story.cast.devices})
        self.granted: dict[str, Quota] = {}
        #: Room of a gateway's floor that the ledger gave back so far, micros.
        self.resolved: defaultdict[str, int] = defaultdict(int)
        #: Register → authorization → what it was billed of it, without what was set aside.
        self.intervals: defaultdict[RegisterKey, dict[bytes, tuple[int, int]]] = defaultdict(dict)
        #: Authorization → (net, tax) claimed so far.
        self.claimed: dict[bytes, tuple[int, int]] = {}
        #: Quota → what silence or people ended of its hold, and what was billed to it beyond its hold.
        self.ended: Counter[str] = Counter()
        #: Account → what silence or people ended of its quotas' holds, or was billed to it beyond holds while gateways had yet to show a
        #: restored ledger theirs; and no restored ledger has taken back from its holds since, micros.
        self.freed: Counter[str] = Counter()
        #: Quota → batch → so much: a restored ledger posts a batch once more.
        self.late: defaultdict[str, Counter[BatchName]] = defaultdict(Counter)
        #: Quota → authorization → what carried ends took of its hold, billed or set aside, of whatever quotas their gateway had held them on.
        self.carried: defaultdict[str, Counter[bytes]] = defaultdict(Counter)
        #: What cases say is missing since a ledger was restored, micros.
        self.missing_micros = 0
        #: Gateway → what its carried ends cost beyond what their grants spoke of; and before them, where its own claims had not come as far.
        self.not_covered: Counter[str] = Counter()
        self.not_reported: Counter[str] = Counter()
        #: (gateway, authorization) → what its carried end cost by the newest grant, and in the end, as far as that grant held it; and what that
        #: gateway's own last word says that it cost.
        self.carried_costs: dict[tuple[str, bytes], tuple[int, int]] = {}
        self.own_costs: dict[tuple[str, bytes], int] = {}
        #: Gateway → carrier's batch and cause → what its carried ends billed beyond holds: a restored ledger posts a batch once more.
        self.carried_beyond: defaultdict[str, Counter[tuple[BatchName, Cause]]] = defaultdict(Counter)
        #: Authorizations set aside because a rolled-back journal had given the same passage before.
        self.given_twice: defaultdict[str, set[bytes]] = defaultdict(set)
        #: Authorizations of which two elements have told, each of another place of its register.
        self.told_by_two: set[bytes] = set()
        #: (device, register epoch, value) of what gateways parked because its register was replaced, as the ledger has it.
        self.parked: set[tuple[str, int, int]] = set()
        #: (device, counter) of what a gateway has parked.
        self.ever_parked: set[tuple[str, int]] = set()
        #: Authorizations that their devices have said are not theirs: whatever journal gave them, they end without width.
        self.disclaimed: set[bytes] = set()
        self.counted: Counter[str] = Counter()
        self.exceeded_micros: Counter[str] = Counter()
        self.passes = {each.paid_by.name: each for each in world.story.cast.passes}
        #: Account of an entitlement → authorization → units that are claimed of it; and what was billed beyond its holds.
        self.counted_units: defaultdict[str, Counter[bytes]] = defaultdict(Counter)
        self.beyond_units_micros: Counter[str] = Counter()
        tokens = {token_ref(f"t-{name}"): name for name in world.accounts}
        self.limits = Limits(world.story.cast.terms, tokens, self.counted)

    # ---- devices

    def signed(self, device: DeviceNode, statement: Statement) -> None:
        """A device sends a statement, for the first time or again."""
        authorization = device.authorization_of(statement)
        point = point_of(statement)
        spoken = next((each for each in self.spoken[authorization] if each.device is device), None)
        if spoken is None:
            spoken = Spoken(device, statement.register.unrolled(MODULUS))
            self.spoken[authorization].append(spoken)
            self._recipients[authorization] = statement.recipient
        spoken.points.setdefault(statement.counter, point)

    def began(self, device: DeviceNode, intent_counter: int) -> None:
        """A use begins: not under a yes that has lapsed, by the clock that dated its intent."""
        lapse_s = self.world.story.cast.terms.lapse_s
        if not lapse_s or device.role.profile != "session":
            return
        self.counted["uses begun under a yes that lapses"] += 1
        asked_at = device.said[intent_counter].statement.at
        if device.clock.now() >= asked_at + lapse_s * SECOND_US:
            raise PromiseBroken(
                f"lapse: {device.name} begins at {device.clock.now()} what it asked for at {asked_at}, {lapse_s} s before at the most"
            )

    def ticked(self, device: DeviceNode, authorization: bytes, chain: Statement, index: int, value: int) -> None:
        """A device shows a tick of a chain that it has signed: one unit more, and no time of its own."""
        self.counted["ticks"] += 1
        spoken = next(each for each in self.spoken[authorization] if each.device is device)
        spoken.points.setdefault((chain.counter, index), Point(value, Instant(chain.at), False))

    def recipient_of(self, authorization: bytes) -> str:
        """The gateway that was asked for it."""
        return self._recipients[authorization]

    def counter_used_twice(self, device: DeviceNode, counter: int) -> None:
        """A device signed two things under one counter."""
        raise PromiseBroken(f"P3: {device.name} used counter {counter} for two statements")

    # ---- gateways

    def journaled(self, gateway: GatewayNode, event: Any) -> None:
        """A gateway wrote an entry."""
        self.counted[f"{event.__class__.__name__} journaled"] += 1
        assert event.__class__ in KIND_OF
        if isinstance(event, EndCarried):
            self.counted[f"carried: {self.world.profiles[event.device]}"] += 1
        if isinstance(event, StatementParked):
            self.ever_parked.add((event.device, event.counter))
        if isinstance(event, Disclaimed):
            self.disclaimed.add(event.authorization)
        if isinstance(event, Lapsed):
            self._stays_held(gateway, event)
        self.prices.heard(gateway.id, event)
        self.limits.journaled(gateway.id, event, lost=gateway.disk_faults)
        if isinstance(event, Granted):
            self._not_after_its_deadline(gateway, event)

    def _stays_held(self, gateway: GatewayNode, event: Lapsed) -> None:
        """What has lapsed is held as it was: its device may have begun, and not been heard."""
        held = gateway.held_when_lapsed.pop(event.authorization)
        if held != gateway.holds[event.authorization]:
            raise PromiseBroken(
                f"lapse: {gateway.id} holds {held} for what has lapsed, {gateway.holds[event.authorization]} before"
            )

    def _not_after_its_deadline(self, gateway: GatewayNode, event: Granted) -> None:
        """A new use takes nothing of a quota whose deadline the cloud had said to have passed, whatever the gateway's clock shows.

        Quotas of an earlier incarnation pay what was given on them then, when its device shows it: that use is not new.
        """
        assert gateway.state is not None
        for funding in {name for name, _ in event.holds} | {charge.funding for charge in event.charges}:
            quota = self.granted.get(funding)
            if quota is None or quota.incarnation != gateway.state.incarnation:
                continue
            if quota.spend_until <= gateway.proven_at - _GROUP_TAKES_US:
                raise PromiseBroken(
                    f"P1: {gateway.id} begins a use on {funding} at {gateway.proven_at} by the cloud's word, to be spent until {quota.spend_until}"
                )

    def was_parked(self, statement: Statement) -> bool:
        """Whether a gateway has ever parked it."""
        return (statement.device, statement.counter) in self.ever_parked

    def journal_replaced(self, gateway: GatewayNode) -> None:
        """Another journal stands where one stood: it has heard what it says, and no more."""
        self.prices.forget(gateway.id)
        for _, event in gateway.disk.entries:
            self.prices.heard(gateway.id, event)
        self.limits.replaced(gateway.id, (event for _, event in gateway.disk.entries))

    def spent(self, gateway: GatewayNode, touched: set[str]) -> None:
        """P1 at the gateway, from its journal alone: spent and held of a quota never exceed what the ledger granted."""
        state = gateway.state
        assert state is not None
        for funding in touched:
            if funding == OVERRUN_FUNDING:
                continue
            held = sum(parts.get(funding, 0) for parts in gateway.holds.values())
            if funding == FLOOR_FUNDING:
                # Room of the floor returns by directive: what was spent there may be spent again.
                allowed = self.world.story.cast.terms.floor_total_micros + self.resolved[gateway.id]
            else:
                quota = self.granted.get(funding)
                allowed = quota.amount_micros if quota is not None and quota.gateway_id == gateway.id else 0
            if gateway.spent[funding] + held > allowed:
                raise PromiseBroken(
                    f"P1: {gateway.id} has spent {gateway.spent[funding]} and holds {held} of {funding}, {allowed}"
                )

    # ---- the ledger

    def posted(self, store: WatchedStore, posting: Posting) -> None:
        """The ledger wrote a posting."""
        self.counted[f"{posting.kind} posted"] += 1
        for quota in posting.quotas_granted:
            self.granted[quota.quota_id] = quota
        for row in posting.directives:
            if row.signature:
                continue  # handed back to a restored ledger: it was counted when it was written
            body = directive_pb2.Directive.FromString(row.body)
            self.resolved[row.gateway_id] += body.floor_resolved.amount_micros
        self._check_causes(store, posting)
        self._check_accounts(store, posting)
        self._check_quotas(posting)
        self._check_exposure(store, posting)
        self._beyond_units(posting)
        for claim in posting.claims:
            self._check_claim(claim)

    def _check_accounts(self, store: WatchedStore, posting: Posting) -> None:
        """P1 at the ledger: what is posted and held of an account never exceeds its funds and credit limit."""
        if self.world.ledger.is_whole:
            self._check_paths(store, posting.changes)

    def check_all_accounts(self, store: WatchedStore) -> None:
        """P1, P5: a ledger that was restored opens; nobody holds or has spent more than is there, and everybody has what was paid in."""
        self._check_paths(store, store.books)

    def _check_paths(self, store: WatchedStore, touched: Iterable[str]) -> None:
        books = store.books
        for path in touched:
            kind, _, account = path.partition("/")
            if kind != "payer":
                continue
            balance = books[path]
            most = balance.credits_posted + self.world.accounts[account].credit_micros
            if balance.debits_posted + balance.debits_pending > most:
                raise PromiseBroken(f"P1: {path} has {balance}, more than {most}")
            funded, lent = self.world.ledger.funds_micros[account], store.short_micros[account]
            if balance.credits_posted != funded + lent:
                raise PromiseBroken(f"P5: {path} was funded {funded}, owes {lent} since a restore, has {balance}")

    def _check_quotas(self, posting: Posting) -> None:
        for after in posting.quotas:
            amount = self.granted[after.quota_id].amount_micros
            if after.posted_micros + after.voided_micros > amount:
                raise PromiseBroken(f"P1: of quota {after.quota_id}, {amount}, more is posted and voided: {after}")

    def _check_exposure(self, store: WatchedStore, posting: Posting) -> None:
        """P1: a decision to grant leaves open quotas, the floor and what is billed beyond holds within the gateway's exposure."""
        if posting.kind == "shown":
            return  # what was granted once, beside holds whose ends are yet to be posted again
        after = {gateway.gateway_id: gateway for gateway in posting.gateways}
        for quota in posting.quotas_granted:
            gateway = after[quota.gateway_id]
            balance = store.books[paths.quota(quota.gateway_id)]
            held = balance.credits_pending + balance.debits_pending
            if held + gateway.floor_micros + gateway.beyond_micros > self.world.story.cast.terms.exposure_micros:
                raise PromiseBroken(
                    f"P1: {quota.gateway_id} holds {held}, has a floor of {gateway.floor_micros} and billed"
                    f" {gateway.beyond_micros} beyond: more than its exposure"
                )

    def _check_causes(self, store: WatchedStore, posting: Posting) -> None:
        late: list[Transfer] = []
        for transfer in posting.transfers:
            if transfer.cause in EXCEPTIONS:
                self.exceeded_micros[transfer.cause] += transfer.amount_micros
                kind, _, account = transfer.debit.partition("/")
                if kind == "payer" and not self.world.ledger.is_whole:
                    # Nobody has shown yet that it is held: it is had, as far as anybody knows (DESIGN 5.7), and missing to whoever shows it (ADR 22).
                    self.freed[account] += transfer.amount_micros
                if transfer.line is None:
                    self.carried_end_beyond(posting, transfer)
                elif transfer.cause is Cause.LATE:
                    late.append(transfer)
            elif transfer.cause is Cause.SHORT and transfer.kind is TransferKind.POST:
                store.short_micros[transfer.credit.removeprefix("payer/")] += transfer.amount_micros
                self.counted["debts of accounts that a restored ledger found short"] += 1
            elif transfer.cause in (Cause.SILENCE, Cause.FORCED) and transfer.quota_id is not None:
                self.counted[f"holds ended by {transfer.cause}"] += 1
                self.ended[transfer.quota_id] += transfer.amount_micros
                self.freed[self.granted[transfer.quota_id].account_id] += transfer.amount_micros
            elif transfer.cause is Cause.SHORT and transfer.quota_id is not None:
                # A restored ledger has forgotten that it ended a hold, whose money another gateway has by now, or another has billed beyond its own
                # holds what this one had yet to show (ADR 22): so much, and no more.
                account = self.granted[transfer.quota_id].account_id
                taken = min(transfer.amount_micros, self.freed[account])
                self.counted[f"holds ended by {transfer.cause}"] += 1
                self.freed[account] -= taken
                self.ended[transfer.quota_id] += taken
            elif transfer.cause is Cause.USE and transfer.line is None and transfer.quota_id is not None:
                assert transfer.authorization_id is not None
                self.carried[transfer.quota_id][transfer.authorization_id] += transfer.amount_micros
                claim = next(each for each in posting.claims if each.authorization_id == transfer.authorization_id)
                if self.world.profiles[claim.register.device_id] == "standing":
                    # Nothing is held for it between readings: what its gateway has not read, nobody set aside.
                    self.not_covered[claim.gateway_id] += transfer.amount_micros
            elif (
                transfer.cause is Cause.SECOND_CLAIM
                and transfer.kind is TransferKind.VOID
                and transfer.line is None
                and transfer.quota_id is not None
            ):
                # What is set aside its gateway has spent like any other, and no grant of a passage says on which of its quotas.
                self.carried[transfer.quota_id][b""] += transfer.amount_micros
        if posting.batch is not None:
            self._carried_beyond_grants(posting)
            self._parked(posting.batch.batch)
        if late:
            self._late(posting, late)
        for case in posting.cases:
            self.counted[f"{case.kind} case"] += 1
            if case.kind is CaseKind.REGISTER_DIFFERS and self._is_of_two_elements(case):
                self.told_by_two.add(case.authorization_id)
                continue
            if case.kind is CaseKind.SHARES_MISSING and self._was_billed_by_a_lost_batch(case):
                self.missing_micros += case.missing_micros
                continue
            if case.kind in (CaseKind.WENT_DOWN, CaseKind.REGISTER_DIFFERS, CaseKind.SHARES_MISSING, CaseKind.CARRIED):
                raise PromiseBroken(f"P3: an honest gateway's claim is a {case.kind} case: {case}")

    def _parked(self, batch: bytes) -> None:
        """What a batch says that its gateway could not take: from here on the ledger has it."""
        for each in batch_pb2.Batch.FromString(batch).parked:
            self.counted["parked statements that the ledger has"] += 1
            if each.refusal in _OF_A_REPLACED_REGISTER:
                statement = decode_statement(cose.decode_sign1(each.statement).payload)
                register = statement.register
                self.parked.add((statement.device, register.register_epoch, register.unrolled(MODULUS)))

    def _was_billed_by_a_lost_batch(self, case: CaseAdded) -> bool:
        """Whether a new journal goes on from a claim that its welcome named, and what had billed so far is neither in the restored ledger nor in a
        journal: nobody else knows of which quota that was, so it is people's."""
        words = self.world.ledger.lost_words()
        billed = max((word.gross_micros for word in words if word.authorization == case.authorization_id), default=0)
        return case.missing_micros <= billed

    def _is_of_two_elements(self, case: CaseAdded) -> bool:
        """Whether two elements with one key have begun a use under one counter, the second with a journal that has lost the first: that proves the copy."""
        gateway = self.world.gateways[self.recipient_of(case.authorization_id)]
        starts = {each.start for each in self.spoken[case.authorization_id]}
        return self.world.is_copied(case.device_id) and gateway.disk_faults > 0 and len(starts) > 1

    def _late(self, posting: Posting, late: list[Transfer]) -> None:
        """A quota pays more than the ledger holds for it: only after a forced void, or by a journal that was rolled back.

        Bounded: what was ended by force, and once more the quota for each time that its gateway's disk went wrong. That a carried end came first
        makes nobody late, but for what the grant never covered, what its gateway bills less than it once it lets the hold go, and what was billed
        before it and not reported: no grant says on which of the quotas, or on the floor, that was, and where it was ended of one of them it comes
        from another. So it is with a carried passage that is set aside, as a copied element had passed there before: as much of its gateway's holds
        is voided (DESIGN 5.8), and only that gateway knows which of its quotas it had spent. What one has too little for the lines that name it,
        another has left.
        """
        batch = posting.batch
        assert batch is not None
        lines = batch_pb2.Batch.FromString(batch.batch).lines
        name = (batch.gateway_id, batch.incarnation, batch.sequence)
        for billed in self.late.values():
            billed.pop(name, None)
        for transfer in late:
            assert transfer.line is not None
            quota_id = lines[transfer.line].quota_id
            quota = self.granted[quota_id]
            self.late[quota_id][name] += transfer.amount_micros
            faults = self.world.gateways[quota.gateway_id].disk_faults
            most = self.ended[quota_id] + faults * quota.amount_micros
            elsewhere = (
                self._ended_beside(quota)
                + self._above_its_own(quota)
                + self.not_covered[quota.gateway_id]
                + self.not_reported[quota.gateway_id]
            )
            most += min(self.carried[quota_id].total(), elsewhere)
            if self.late[quota_id].total() > most:
                raise PromiseBroken(
                    f"P1: {batch.gateway_id} bills {self.late[quota_id].total()} beyond the hold of {quota_id}, allowed is {most}"
                )

    def carried_end_beyond(self, posting: Posting, transfer: Transfer) -> None:
        """What a carried end bills beyond holds, each cause within its own bound.

        Floor: as much as its gateway may give away, once more for each journal that began anew. Overrun: only of what cannot be stopped, as time.
        Late: what silence or people ended of its gateway's quotas, and once more those quotas for each fault of its disk.
        """
        claim = next(each for each in posting.claims if each.authorization_id == transfer.authorization_id)
        gateway = self.world.gateways[claim.gateway_id]
        self.counted[f"carried ends beyond their holds: {transfer.cause}"] += 1
        if transfer.cause is Cause.OVERRUN:
            device = next(each for each in self.world.devices.values() if each.device_id == claim.register.device_id)
            # Who stops counting has not stopped the clock; and nobody stops a standing meter: no gateway had read so far.
            standing = device.role.profile == "standing"
            by = self.prices.tariffs.get(claim.authorization_id, device.role.tariff)
            if device.role.stoppable and not prices_time(by) and not standing:
                raise PromiseBroken(f"P1: {device.name} can be stopped, and used more than it was granted: {transfer}")
            return
        floor = self._floor_of(gateway.id)
        mine = [quota for quota in self.granted.values() if quota.gateway_id == gateway.id]
        ended = sum(self.ended[quota.quota_id] + gateway.disk_faults * quota.amount_micros for quota in mine)
        assert posting.batch is not None
        name = (posting.batch.gateway_id, posting.batch.incarnation, posting.batch.sequence)
        self.carried_beyond[gateway.id][name, transfer.cause] += transfer.amount_micros
        billed: Counter[Cause] = Counter()
        for (_, cause), micros in self.carried_beyond[gateway.id].items():
            billed[cause] += micros
        # A grant names what is held, not what was: on which of both the part before it was, only its gateway knows.
        if billed[Cause.FLOOR] > floor or billed.total() > floor + ended:
            raise PromiseBroken(
                f"P1: carried ends of {gateway.id} bill {dict(billed)}, its floor is {floor}, of its quotas was ended {ended}"
            )

    def _floor_of(self, gateway_id: str) -> int:
        """What a gateway may ever have given away on its floor: once more for each journal that began anew, and what was given back."""
        journals = 1 + self.world.gateways[gateway_id].disk_faults
        return journals * self.world.story.cast.terms.floor_total_micros + self.resolved[gateway_id]

    def _carried_beyond_grants(self, posting: Posting) -> None:
        """What carried ends cost beyond all that their grants spoke of (nobody held it, and a quota that is held pays it first), or before them;
        and what their own gateways say that they cost."""
        assert posting.batch is not None
        batch = batch_pb2.Batch.FromString(posting.batch.batch)
        for own in batch.claims:
            if own.final:
                self.own_costs[batch.gateway_id, own.authorization_id] = own.net_micros + own.tax_micros
        for end in batch.carried:
            if not end.grant:
                continue  # a standing authorization's: counted by what it took
            grant = m.decode_grant(cose.decode_sign1(end.grant).payload)
            billed = grant.net_micros + grant.tax_micros
            covered = billed + sum(part.amount_micros for part in grant.held)
            before = sum(self.claimed.get(grant.authorization, (0, 0)))
            for claim in posting.claims:
                if claim.authorization_id == grant.authorization:
                    cost = claim.net_micros + claim.tax_micros
                    self.not_covered[grant.gateway] += max(0, cost - covered)
                    self.not_reported[grant.gateway] += max(0, min(cost, billed) - before)
                    self.carried_costs[grant.gateway, grant.authorization] = billed, min(cost, covered)

    def _above_its_own(self, quota: Quota) -> int:
        """What carried ends took of the hold of ``quota`` beyond what their gateway has billed in the end, micros.

        It heard of readings that the device had no more, by which time or place make the use cheaper (ADR 8), or closed it by a decision, of which
        nobody had told the ledger (ADR 11). What it held for the rest it has let go, and spent on others. Before its last word, it holds it.
        """
        above = 0
        for authorization, taken in self.carried[quota.quota_id].items():
            name = quota.gateway_id, authorization
            if name in self.carried_costs and name in self.own_costs:
                billed, cost = self.carried_costs[name]
                above += min(taken, max(0, cost - max(billed, self.own_costs[name])))
        return above

    def _ended_beside(self, quota: Quota) -> int:
        """What was ended by force of the other quotas that a hold beside one on ``quota`` could stand on, micros."""
        return sum(
            micros
            for quota_id, micros in self.ended.items()
            if quota_id != quota.quota_id
            and (self.granted[quota_id].gateway_id, self.granted[quota_id].account_id)
            == (quota.gateway_id, quota.account_id)
        )

    def _was_given_twice(self, claim: Claimed) -> bool:
        """Whether a passage was given by a journal that went back, its yes never heard, and asked for and given once more.

        It is billed once: the second is set aside, and people decide. A device asks for one passage at a time, so there is at most one for
        each time that the gateway's disk went wrong.
        """
        device_id, gateway = claim.register.device_id, self.world.gateways[claim.gateway_id]
        if self.world.profiles[device_id] != "one-shot":
            return False
        others = {
            other
            for other, (start, end) in self.intervals[claim.register].items()
            if other != claim.authorization_id and start < claim.register_to and claim.register_from < end
        }
        twice = self.given_twice[device_id]
        if claim.authorization_id not in twice:
            heard = self.world.devices[device_id].all_delivered().keys() & {claim.authorization_id, *others}
            # Asked again of the same gateway, or of another: one of them has a journal that went back.
            asked = {gateway.id, *map(self.recipient_of, others)}
            if not others or len(heard) > 1 or not any(self.world.gateways[each].disk_faults for each in asked):
                return False
            twice.add(claim.authorization_id)
            self.counted[ONE_SHOT_TWICE] += 1
        return len(twice) <= sum(each.disk_faults for each in self.world.gateways.values())

    def _was_parked(self, claim: Claimed) -> bool:
        """Whether what the device said of the use is parked, its register replaced, where the ledger has it; or still with its device, to be said again."""
        of = (claim.register.device_id, claim.register.register_epoch)
        kept = self.world.devices[claim.register.device_id].kept_values()
        return any((device, epoch) == of and value > claim.register_to for device, epoch, value in self.parked | kept)

    def _came_after_its_end_by_people(self, claim: Claimed) -> bool:
        """Whether another gateway has carried the end of a use that a new register epoch, a decision, had closed: it waits for people."""
        device = self.world.devices[claim.register.device_id]
        return (
            claim.raised_by is not None
            and claim.final
            and claim.register.register_epoch < device.nameplate.register_epoch
        )

    def _was_lost(self, authorization: bytes) -> bool:
        """Whether the journal that gave it is another one by now, or gone."""
        gateway = self.world.gateways[self.recipient_of(authorization)]
        return gateway.disk_faults > 0 or gateway.is_gone

    def _check_limit(self, claim: Claimed) -> None:
        """The operator's limit of one authorization binds whatever can be stopped; time goes on, and a standing one is none of it."""
        most = self.world.story.cast.terms.limit_use_micros
        role = self.world.roles[claim.register.device_id]
        by = self.prices.tariffs.get(claim.authorization_id, role.tariff)
        if not most or not role.stoppable or role.profile == "standing" or prices_time(by):
            return
        self.counted["claims under a limit"] += 1
        if claim.net_micros + claim.tax_micros > most:
            raise PromiseBroken(f"limit: one use may cost {most}, claimed is {claim}")

    def _check_units(self, claim: Claimed) -> None:
        """P1 in units: devices have counted no more on an entitlement than was bought, but for what P1 lets exceed its account's funds."""
        payer = self.prices.payers.get(claim.authorization_id, "")
        entitlement = self.passes.get(payer)
        if entitlement is None:
            return
        self.counted[f"claims on an entitlement: {entitlement.unit}"] += 1
        units = claim.register_to - claim.register_from
        if claim.net_micros + claim.tax_micros != units * entitlement.unit_micros:
            raise PromiseBroken(f"P4: {payer} pays {entitlement.unit_micros} a unit: {claim}")
        counted = self.counted_units[payer]
        counted[claim.authorization_id] = 0 if claim.aside else units
        bought = self.world.ledger.funds_micros[payer] // entitlement.unit_micros
        # What is billed beyond holds may be part of a unit: the rest of it was still held.
        beyond = -(-self.beyond_units_micros[payer] // entitlement.unit_micros)
        if sum(counted.values()) > bought + beyond:
            raise PromiseBroken(
                f"P1: of {payer} were bought {bought} units, {beyond} went beyond its holds, counted are {dict(counted)}"
            )

    def _beyond_units(self, posting: Posting) -> None:
        """What a posting bills beyond the holds of entitlements, which nobody lends."""
        if not self.passes:
            return
        lines = () if posting.batch is None else batch_pb2.Batch.FromString(posting.batch.batch).lines
        for transfer in posting.transfers:
            if transfer.cause not in (*EXCEPTIONS, Cause.EXPOSURE):
                continue
            if transfer.line is not None and transfer.line >= 0:
                payer = lines[transfer.line].account_id
            else:
                payer = self.prices.payers.get(transfer.authorization_id or b"", "")
            if payer in self.passes:
                if transfer.cause is Cause.FLOOR:
                    raise PromiseBroken(f"P1: nobody lends a pass, and {payer} stands on the floor: {transfer}")
                self.beyond_units_micros[payer] += transfer.amount_micros
                self.counted[f"beyond an entitlement's holds: {transfer.cause}"] += 1

    def ledger_went_back(self, claims: Iterable[Claimed], batches: Container[BatchName]) -> None:
        """The ledger's database is an older one, of ``claims`` and ``batches``: what it has billed is what it had billed then. What came after comes once more, in any order."""
        for billed in self.carried_beyond.values():
            for name, cause in list(billed):
                if name not in batches:
                    del billed[name, cause]
        self.intervals.clear()
        for claim in claims:
            if not claim.aside and claim.register_from != claim.register_to:
                self.intervals[claim.register][claim.authorization_id] = claim.register_from, claim.register_to

    def _check_claim(self, claim: Claimed) -> None:
        """P3, P4: billed is what a device signed under this authorization, priced by the contract; and no use twice."""
        all_spoken = [each for each in self.spoken[claim.authorization_id] if each.start == claim.register_from]
        if not all_spoken:
            raise PromiseBroken(f"P4: no device has said what is claimed: {claim}")
        claimed = (claim.net_micros, claim.tax_micros)
        if claimed != (0, 0) or claim.final:
            due = self.prices.due(claim.authorization_id, claim.register_to, closing=claim.final)
            standing = self.world.profiles[claim.register.device_id] == "standing"
            if standing and self._came_after_its_end_by_people(claim):
                # A meter's word that another gateway carries ends nothing, whatever people have closed: it is priced as a reading.
                due = due | self.prices.due(claim.authorization_id, claim.register_to, closing=False)
            signed = any(each.has(claim.register_to) for each in all_spoken)
            before = self.claimed.get(claim.authorization_id)
            # What was claimed by readings that a lost journal has taken with it is never reduced.
            stays = claimed == before and any(net < claimed[0] or tax < claimed[1] for net, tax in due)
            # A carried end is priced by fewer readings than its gateway heard: of both the higher net and the higher tax stand (ADR 8).
            # So is one that was adopted, by a journal that has not heard what the lost one had.
            # Both can be: a journal that adopts a use beside a gateway that carries its end adds nothing where its rates do not allow it.
            lost = self._was_lost(claim.authorization_id)
            kept = stays and lost
            if claim.authorization_id in self.prices.carried or (not stays and lost):
                ever = self.prices.ever_due(claim.authorization_id)
                stays = claimed[0] in {net for net, _ in ever} and claimed[1] in {tax for _, tax in ever}
                stays = kept or (stays and any(net <= claimed[0] and tax <= claimed[1] for net, tax in due))
            elif not lost:
                stays = False
            # People's decision (a new register epoch) ends a use where the present journal has proven it: what a lost one had claimed beyond that stays.
            if claimed == before and lost:
                stays = stays or (claim.final and not due)
            # Nothing was proven to the journal that is back; what another one, lost since, had parked the ledger has, or its device still keeps.
            if claimed == (0, 0) and claim.register_to == claim.register_from and lost:
                stays = stays or self._was_parked(claim) or claim.authorization_id in self.disclaimed
            # Its end was receipted, and is lost with the database and the journal that had it: an older journal asks for it, hears that the device
            # knows nothing of it any more, and ends the use as far as it had proven it.
            if claim.final and lost and claim.authorization_id in self.disclaimed:
                told = any(
                    word.final
                    for word in self.world.ledger.lost_words()
                    if word.authorization == claim.authorization_id
                )
                read = self.prices.due(claim.authorization_id, claim.register_to, closing=False)
                stays = stays or (told and claimed in read)
            if not signed or not (claimed in due or stays):
                points = [each.points for each in all_spoken]
                raise PromiseBroken(
                    f"P4: {claim.register.device_id} signed {points}, worth {sorted(due)}: claimed is {claim}"
                )
        self.claimed[claim.authorization_id] = claimed
        self._check_limit(claim)
        self._check_units(claim)
        device_id = claim.register.device_id
        if claim.aside:
            self.counted["set aside"] += 1
            if self._came_after_its_end_by_people(claim):
                self.counted["ends of a replaced register carried after people had closed it"] += 1
            elif not self.world.is_copied(device_id) and not self._was_given_twice(claim):
                raise PromiseBroken(f"P3: {device_id} was never copied, and its use is set aside: {claim}")
            self.intervals[claim.register].pop(claim.authorization_id, None)
            return
        start, end = claim.register_from, claim.register_to
        if start == end:
            return
        mine = self.intervals[claim.register]
        for other, (other_start, other_end) in mine.items():
            if other != claim.authorization_id and other_start < end and start < other_end:
                raise PromiseBroken(f"P3: {device_id} is billed twice from {max(start, other_start)}: {claim}")
        mine[claim.authorization_id] = (start, end)
