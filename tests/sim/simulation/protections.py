"""Protections, each of which can be turned off from outside: what the simulator then finds is what the protection is for.

Each is a named seam of a core (a function replaced while the story is told) or another player. Nothing of this is in the cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from farthing.refusal import Refusal
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.incarnations import Standing
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.core.rows import Quota, Touch, View
from farthing_edge.authorization.decision import no
from farthing_edge.authorization.usage import day_of
from simulation.actions import (
    Arrive,
    CrashGateway,
    Cut,
    Draw,
    Gone,
    JumpClock,
    LoseDisk,
    ReplaceRegister,
    RestoreLedger,
)
from simulation.cast import Air, DeviceRole, M, PassRole
from simulation.gateway import GatewayNode
from simulation.ledger import LedgerNode, WatchedStore
from simulation.story import Story
from simulation.world import Players


@dataclass(frozen=True, slots=True)
class Seam:
    """A name in a module of a core, and what stands there instead; ``made`` is given what stood there."""

    module: str
    name: str
    made: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What it is, how to turn it off, and which promises are broken without it."""

    name: str
    seams: tuple[Seam, ...] = ()
    players: Players = field(default_factory=Players)
    breaks: tuple[str, ...]
    #: A worse network, where what it protects from is rare in the one that a seed draws.
    air: Air | None = None
    #: More of what it protects from than a seed draws.
    worse: Callable[[Story], Story] | None = None


@contextmanager
def turned_off(name: str) -> Iterator[Players | None]:
    """Tell stories without the protection of this name; an empty name turns nothing off."""
    if not name:
        yield None
        return
    protection = PROTECTIONS[name]
    with ExitStack() as stack:
        for seam in protection.seams:
            target = f"{seam.module}.{seam.name}"
            stood = _resolve(target)
            stack.enter_context(patch(target, seam.made(stood)))
        yield protection.players


def provoked(name: str, story: Story) -> Story:
    """The story in which the protection of this name is needed more often; an empty name changes nothing."""
    if not name:
        return story
    air, worse = PROTECTIONS[name].air, PROTECTIONS[name].worse
    story = story if worse is None else worse(story)
    return story if air is None else replace(story, cast=replace(story.cast, air=air))


def _resolve(target: str) -> Any:
    parts = target.split(".")
    found = __import__(".".join(parts[:1]))
    for position, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part):
            __import__(".".join(parts[:position]))
        found = getattr(found, part)
    return found


# ---- players who lack something


class HastyGateway(GatewayNode):
    """Speaks before it writes, and always dies between the two: devices make good most of what it forgets, so few deaths show."""

    def die(self, crash: CrashGateway) -> None:
        super().die(replace(crash, moment="before its commit"))

    def _write_then_speak(self, written: Any, said: Any) -> None:
        self._speak(said)
        super()._write_then_speak(written, [])


class LyingDiskGateway(GatewayNode):
    """Its disk says that it wrote, and forgets the last entries when the power goes."""

    def crash(self, when: str, down_s: float) -> None:
        if len(self.disk):
            self.disk.forget_last(min(3, len(self.disk)))
        super().crash(when, down_s)


class EmptyHandedBook(Book):
    """Takes note of what a gateway was granted, and holds nothing for it."""

    def hold(self, quota: Quota, cause: Cause = Cause.GRANT) -> None:
        super().hold(quota, cause)
        self.void(quota, quota.amount_micros, Cause.SHORT)


class ForgetfulStore(WatchedStore):
    """Does not know what was claimed before."""

    def load(self, touch: Touch) -> View:
        return replace(super().load(touch), claimed={})


class ForgetfulLedger(LedgerNode):
    """Takes every claim for the first."""

    def make_store(self) -> WatchedStore:
        return ForgetfulStore(self.world)


class ShortSightedStore(WatchedStore):
    """Does not look whether somebody else has claimed the same use."""

    def load(self, touch: Touch) -> View:
        return replace(super().load(touch), overlaps={})


class ShortSightedLedger(LedgerNode):
    """Bills a copied device's use twice."""

    def make_store(self) -> WatchedStore:
        return ShortSightedStore(self.world)


# ---- seams


def _nothing_overlaps(_stood: Any) -> Any:
    return lambda *_: None


def _holds_nothing_any_more(stood: Any) -> Any:
    """A stopped quota is reported as if nothing were held of it."""

    def quotas_to_report(state: Any) -> Any:
        stopped, closed = stood(state)
        return tuple((name, 0) for name, _ in stopped), closed

    return quotas_to_report


def _is_never_stopped(stood: Any) -> Any:
    """Holds of a stopped quota grow like any other's."""

    def hold(purse: Any, charges: Any, need_micros: int, now: Any, *, floor: bool) -> Any:
        class Open:
            def __init__(self, quota: Any) -> None:
                self._quota = quota

            def __getattr__(self, name: str) -> Any:
                return getattr(self._quota, name)

            def is_stopped(self, _now: Any) -> bool:
                return False

        return stood(
            purse._replace(quotas=[Open(quota) for quota in purse.quotas]), charges, need_micros, now, floor=floor
        )

    return hold


def _leaves_silently(stood: Any) -> Any:
    """A device that got no answer, and asks nobody else, goes away without a word."""

    def end(draft: Any, use: Any) -> None:
        if use.stage.value != "asking" or use.gateways_left:
            stood(draft, use)
            return
        _forget(draft, use)

    return end


def _leaves_to_ask_elsewhere(stood: Any) -> Any:
    """A device that asks elsewhere says nothing of what it leaves."""

    def end(draft: Any, use: Any) -> None:
        # Who gives up has nobody left to ask, or is finishing: that end is another protection.
        if use.stage.value != "asking" or not use.gateways_left or draft.state.finishing:
            stood(draft, use)
            return
        _forget(draft, use)

    return end


def _forget(draft: Any, use: Any) -> None:
    draft.state = replace(
        draft.state,
        use=None,
        outgoing=tuple(each for each in draft.state.outgoing if each.intent_counter != use.intent_counter),
        kept=tuple(each for each in draft.state.kept if each.intent_counter != use.intent_counter),
    )


def _same_counter_again(stood: Any) -> Any:
    """A device that asks elsewhere asks under the counter that it has asked with."""

    def ask(draft: Any, plan: Any, *, gateway: Any, **more: Any) -> None:
        before = draft.state
        if gateway != plan.gateways[0] and before.kept and before.kept[-1].kind == "end":
            asked = before.kept[-1].intent_counter
            draft.state = replace(before, next_counter=asked)
            stood(draft, plan, gateway=gateway, **more)
            draft.state = replace(draft.state, next_counter=before.next_counter)
            return
        stood(draft, plan, gateway=gateway, **more)

    return ask


def _kept_until_answered(stood: Any) -> Any:
    """A device forgets what was answered, whether or not the cloud has it."""

    def drop(draft: Any, gateway: Any) -> None:
        stood(draft, gateway)
        unanswered = {each.counter for each in draft.state.outgoing}
        using = None if draft.state.use is None else draft.state.use.intent_counter
        draft.state = replace(
            draft.state,
            kept=tuple(
                each for each in draft.state.kept if each.counter in unanswered or each.intent_counter in (using, None)
            ),
        )

    return drop


def _speaks_to_nobody_in_particular(rules: Any) -> Any:
    """Whatever incarnation an intent speaks to, it is decided."""

    def whatever_incarnation(state: Any, ask: Any) -> Any:
        return Refusal.NOT_AUTHORIZING if state.not_authorizing_reason else None

    def without(table: Any) -> Any:
        return tuple(whatever_incarnation if rule.__name__ == "gateway_may_authorize" else rule for rule in table)

    return {
        entitles: {active: without(table) for active, table in tables.items()} for entitles, tables in rules.items()
    }


def _is_not_adopted(_stood: Any) -> Any:
    """What this journal does not know it does not take."""

    def decide_adoption(_state: Any, _command: Any, statement: Any, *_more: Any) -> Any:
        return no(statement, Refusal.AUTHORIZATION_UNKNOWN)

    return decide_adoption


def _is_not_carried(_stood: Any) -> Any:
    """Another gateway's end is none of its business."""

    def decide_carried(_state: Any, _command: Any, end: Any, *_more: Any) -> Any:
        return no(end, Refusal.RECIPIENT_DIFFERS)

    return decide_carried


def _whoever_comes_is_welcome(_stood: Any) -> Any:
    """Every journal goes on in the incarnation that there is."""

    def judge(gateway: Any, _chain: Any, hello: Any) -> Any:
        return (Standing.AGREED if hello.incarnation == gateway.incarnation else Standing.BEGIN), ""

    return judge


def _suspects_nothing(_stood: Any) -> Any:
    return lambda *_: ""


def _heard_and_forgotten(stood: Any) -> Any:
    """An end for an intent that never came is answered, and not remembered."""

    def decide_end(state: Any, command: Any, end: Any, now: Any) -> Any:
        decision = stood(state, command, end, now)
        if any(event.__class__.__name__ == "IntentCancelled" for event in decision.events):
            return decision._replace(events=())
        return decision

    return decide_end


def _keeps_it_to_itself(_stood: Any) -> Any:
    """What a gateway has answered nobody else hears, even if that one is gone."""
    return lambda _draft: None


def _as_the_clock_shows(_: Any, now: Any) -> Any:
    """Time is what the clock says."""
    return now


def _begins_whenever_it_hears(_draft: Any, _grant: Any) -> bool:
    """A yes is a yes, however late it comes."""
    return False


def _yeses_lapse_at_once(story: Story) -> Story:
    """So soon that whatever is late on its way has lapsed."""
    return replace(story, cast=replace(story.cast, terms=replace(story.cast.terms, lapse_s=1)))


def _clocks_begin_anywhere(story: Story) -> Story:
    """A gateway's clock stands years ago, as after a boot without a battery for it."""
    jumps = [JumpClock(at_s=20.0, who=name, by_s=-3 * 365 * 86_400) for name in story.cast.gateways]
    return replace(story, actions=tuple(sorted((*story.actions, *jumps), key=lambda action: action.at_s)))


def _goes_with_what_it_heard(story: Story) -> Story:
    """Who goes for good has long been cut off from the ledger: it takes with it what it has answered."""
    cuts = [
        Cut(at_s=max(0.0, gone.at_s - 200), one=gone.gateway, other="ledger", for_s=300)
        for gone in story.actions
        if isinstance(gone, Gone)
    ]
    return replace(story, actions=tuple(sorted((*story.actions, *cuts), key=lambda action: action.at_s)))


def _goes_with_a_meter(story: Story) -> Story:
    """A standing meter reports to who goes for good, and has been read by then."""
    gone = next((action for action in story.actions if isinstance(action, Gone)), None)
    if gone is None:
        return story
    others = tuple(each for each in story.cast.gateways if each != gone.gateway)
    meter = DeviceRole(
        name="meter-gone",
        profile="standing",
        unit="Wh",
        tariff="kwh",
        gateways=(gone.gateway, *others),
        rated_per_hour=9_000,
        stoppable=True,
        report_interval_s=60,
        value=0,
    )
    draws = Draw(at_s=0.0, device=meter.name, rate_per_hour=9_000)
    story = replace(story, cast=replace(story.cast, devices=(*story.cast.devices, meter)))
    return _goes_with_what_it_heard(replace(story, actions=(draws, *story.actions)))


def _passing(*, name: str, gateways: tuple[str, ...]) -> DeviceRole:
    """A transponder."""
    return DeviceRole(
        name=name,
        profile="one-shot",
        unit="passage",
        tariff="toll-1",
        gateways=gateways,
        rated_per_hour=600,
        stoppable=True,
        report_interval_s=720,
        value=0,
    )


def _passage(toll: DeviceRole, at_s: float) -> Arrive:
    """Somebody who can pay passes."""
    return Arrive(
        at_s=at_s,
        device=toll.name,
        account="rich",
        gateways=toll.gateways,
        target=1,
        rate_per_hour=toll.rated_per_hour,
        stay_s=0,
        patience_s=None,
        elsewhere_s=None,
        wanted=None,
    )


def _goes_with_passages(story: Story) -> Story:
    """Who goes for good has lately let a transponder pass."""
    gone = next((action for action in story.actions if isinstance(action, Gone)), None)
    if gone is None:
        return story
    others = tuple(each for each in story.cast.gateways if each != gone.gateway)
    toll = _passing(name="toll-gone", gateways=(gone.gateway, *others))
    passages = [_passage(toll, max(1.0, gone.at_s - before_s)) for before_s in (60, 30)]
    story = replace(story, cast=replace(story.cast, devices=(*story.cast.devices, toll)))
    actions = tuple(sorted((*story.actions, *passages), key=lambda action: action.at_s))
    return _goes_with_what_it_heard(replace(story, actions=actions))


def _shows_no_yes(_stood: Any) -> Any:
    """A journal that forgot a passage is asked for its receipt, for ever."""
    return lambda _draft, _kept: False


def _keeps_its_yes_to_itself(stood: Any) -> Any:
    """A transponder tells nobody of a passage that its gateway took with it."""
    return lambda draft, kept: kept.kind != "intent" and stood(draft, kept)


def _reads_to_nobody(stood: Any) -> Any:
    """A standing meter whose gateway is gone goes on reading to it alone."""

    def hand_over(draft: Any, word: Any) -> None:
        if word.kind != "reading":
            stood(draft, word)

    return hand_over


def _lends_passes(stood: Any) -> Any:
    """The floor is for whoever pays, also for an entitlement."""

    def floor_room_micros(state: Any, account: Any, token_key: Any) -> Any:
        entitling, state.entitling = state.entitling, set()
        try:
            return stood(state, account, token_key)
        finally:
            state.entitling = entitling

    return floor_room_micros


def _everything_is_a_pass(story: Story) -> Story:
    """Chargers that nobody can stop serve who has a few units prepaid, and a floor is there."""
    cast = story.cast
    devices = tuple(
        replace(device, takes_passes=True, stoppable=False, tariff="chg-3", report_interval_s=30)
        if device.name.startswith("charger")
        else device
        for device in cast.devices
    )
    passes = tuple(
        PassRole(account=account.name, unit="Wh", units=400, from_s=0, until_s=7_200, priority=0)
        for account in cast.accounts
    )
    floor = 2 * M
    terms = replace(cast.terms, floor_token_micros=floor, limit_use_micros=0)
    return replace(story, cast=replace(cast, devices=devices, passes=passes, terms=terms))


def _limits_nothing_by_day(_stood: Any) -> Any:
    """A day's count is never what is left of it."""
    return lambda _tally, _day: 0


def _every_day_is_its_clocks(_stood: Any) -> Any:
    """A clock that goes back begins the day before anew."""

    def day_at(_usage: Any, time_zone: str, at: Any) -> int:
        return day_of(time_zone, at)

    return day_at


def _believes_every_journal(_stood: Any) -> Any:
    """A journal that begins anew counts from nothing, however often."""
    return lambda _usage, _day: False


def _one_a_day(story: Story) -> Story:
    """A token may begin one use a day at a gateway, and what cuts uses short is not there."""
    terms = replace(
        story.cast.terms,
        limit_use_micros=0,
        limit_token_day_micros=0,
        limit_token_day_count=1,
        limit_device_day_count=0,
    )
    return replace(story, cast=replace(story.cast, terms=terms))


def _back_over_midnight(story: Story) -> Story:
    """Clocks go past midnight and come back before it."""
    jumps = [
        JumpClock(at_s=at_s, who=gateway, by_s=by_s)
        for gateway in story.cast.gateways
        for at_s, by_s in ((60.0, 600), (120.0, -600))
    ]
    story = _one_a_day(story)
    return replace(story, actions=tuple(sorted((*story.actions, *jumps), key=lambda action: action.at_s)))


def _loses_many(story: Story) -> Story:
    """A gateway loses its disk twice before midnight, and nothing else goes wrong while one payer passes again and again."""
    story = _one_a_day(story)
    gateway = story.cast.gateways[0]
    toll = _passing(name="toll-lost", gateways=(gateway,))
    passages = [_passage(toll, at_s) for at_s in range(1, 236, 6)]
    lost = [LoseDisk(at_s=at_s, gateway=gateway, down_s=1.0) for at_s in (15.0, 100.0)]
    cast = replace(story.cast, devices=(toll,), gateways=(gateway,), air=CALM)
    return replace(story, cast=cast, actions=tuple(sorted((*passages, *lost), key=lambda action: action.at_s)))


def _loses_disks_again_and_again(story: Story) -> Story:
    """Every gateway begins anew a few times, and nothing of it is gone for good: what was on its way to the journal before arrives at the next one."""
    lost = [
        LoseDisk(at_s=at_s, gateway=gateway, down_s=1.0)
        for gateway in story.cast.gateways
        for at_s in (40.0, 140.0, 240.0)
    ]
    stays = [action for action in story.actions if not isinstance(action, Gone | RestoreLedger)]
    return replace(story, actions=tuple(sorted((*stays, *lost), key=lambda action: action.at_s)))


def _all_registers_are_one(_stood: Any) -> Any:
    """What is read of a new register takes the place of what was read of the old one."""
    return lambda one, other: one.intent_counter == other.intent_counter


def _replaces_meters(story: Story) -> Story:
    """Each smart meter is replaced while its gateway cannot hear it, and the operator says so when it can again."""
    meter = DeviceRole(
        name="meter-old",
        profile="standing",
        unit="Wh",
        tariff="kwh",
        gateways=story.cast.gateways[:1],
        rated_per_hour=9_000,
        stoppable=True,
        report_interval_s=60,
        value=0,
    )
    actions = (
        Draw(at_s=0.0, device=meter.name, rate_per_hour=9_000),
        Cut(at_s=80.0, one=meter.name, other=meter.gateways[0], for_s=60),
        ReplaceRegister(at_s=100.0, device=meter.name, value=0, told_s=60.0),
    )
    story = replace(story, cast=replace(story.cast, devices=(*story.cast.devices, meter)))
    stays = [action for action in story.actions if not isinstance(action, Gone)]
    return replace(story, actions=tuple(sorted((*actions, *stays), key=lambda action: action.at_s)))


def _ends_are_not_remembered(stood: Any) -> Any:
    """An end that comes after people have closed its use is answered, and its counter forgotten."""

    def decide_end(state: Any, command: Any, end: Any, now: Any) -> Any:
        decision = stood(state, command, end, now)
        if end.authorization in state.authorizations and any(
            event.__class__.__name__ == "IntentCancelled" for event in decision.events
        ):
            return decision._replace(events=())
        return decision

    return decide_end


def _parks_for_itself(_stood: Any) -> Any:
    """What waits for people is in the gateway's journal alone."""
    return lambda _state: []


def _leaves_where_it_stood(_stood: Any) -> Any:
    """Who leaves an unanswered passage goes on where it asked: its gateway may have said yes to the same unit."""
    return lambda draft, use: draft._end(use)


def _is_heard_and_does_not_hear(story: Story) -> Story:
    """A transponder's first gateway hears it, and cannot answer for long; others come to be served elsewhere."""
    gateways = story.cast.gateways
    toll = _passing(name="toll-deaf", gateways=gateways)
    passages = [_passage(toll, at_s) for at_s in (20.0, 90.0)]
    # What it says goes through; the gateway's process dies before it speaks.
    death = CrashGateway(at_s=19.9, gateway=gateways[0], moment="after its commit, before it speaks", down_s=120.0)
    cast = replace(story.cast, devices=(*story.cast.devices, toll), air=CALM)
    return replace(
        story, cast=cast, actions=tuple(sorted((*story.actions, *passages, death), key=lambda action: action.at_s))
    )


#: Nothing is lost, and nothing comes late.
CALM = Air(loss=0.0, doubling=0.0, late=0.0, late_s=1)
#: Much of what is said comes late, some of it twice.
LATE = Air(loss=0.15, doubling=0.35, late=0.3, late_s=200)

_EDGE = "farthing_edge.authorization"
_STEP = "farthing_firmware_sim.device.step"

PROTECTIONS: dict[str, Protection] = {
    protection.name: protection
    for protection in (
        Protection(
            name="durable before spoken",
            players=Players(gateway=HastyGateway),
            breaks=("P1", "P3", "P4", "rest"),
        ),
        Protection(
            name="written is written",
            players=Players(gateway=LyingDiskGateway),
            breaks=("P1", "P3", "P4", "rest"),
        ),
        Protection(
            name="cumulative claims",
            players=Players(ledger=ForgetfulLedger),
            breaks=("P3", "P4", "P5"),
        ),
        Protection(
            name="overlap check",
            players=Players(ledger=ShortSightedLedger),
            seams=(Seam("farthing_cloud.ledger.core.batches", "_overlap", _nothing_overlaps),),
            breaks=("P3",),
        ),
        Protection(
            name="recorded ends",
            seams=(Seam(f"{_EDGE}.deciding", "decide_end", _heard_and_forgotten),),
            breaks=("P3", "P4", "rest"),
        ),
        Protection(
            name="cancelling ends",
            seams=(Seam(_STEP, "_Draft._end", _leaves_silently),),
            breaks=("P3", "P4", "rest"),
        ),
        Protection(
            name="end first",
            seams=(Seam(_STEP, "_Draft._end", _leaves_to_ask_elsewhere),),
            breaks=("P3", "P4", "rest"),
        ),
        Protection(
            name="a new counter at another gateway",
            seams=(Seam(_STEP, "_Draft._ask", _same_counter_again),),
            breaks=("P3",),
        ),
        Protection(
            name="kept statements",
            seams=(Seam(_STEP, "_Draft._drop_receipted", _kept_until_answered),),
            breaks=("P4",),
        ),
        Protection(
            name="adoption",
            seams=(Seam(f"{_EDGE}.deciding", "decide_adoption", _is_not_adopted),),
            breaks=("P4", "rest"),
        ),
        Protection(
            name="carried ends",
            seams=(Seam(f"{_EDGE}.deciding", "decide_carried", _is_not_carried),),
            breaks=("P4", "rest"),
        ),
        Protection(
            name="answered ends of who is gone",
            seams=(Seam(_STEP, "_Draft._say_of_who_is_away", _keeps_it_to_itself),),
            breaks=("P4", "rest"),
            worse=_goes_with_what_it_heard,
        ),
        Protection(
            name="passages of who is gone",
            seams=(Seam(_STEP, "_Draft._is_last_word", _keeps_its_yes_to_itself),),
            breaks=("P4", "rest"),
            worse=_goes_with_passages,
        ),
        Protection(
            name="readings of who is gone",
            seams=(Seam(_STEP, "_Draft._hand_over", _reads_to_nobody),),
            breaks=("P4", "rest"),
            worse=_goes_with_a_meter,
        ),
        Protection(
            name="a passage's yes is shown",
            seams=(Seam(_STEP, "_Draft._is_given_use", _shows_no_yes),),
            breaks=("P4", "rest"),
        ),
        Protection(
            name="incarnation in the intent",
            seams=(Seam(f"{_EDGE}.intents", "RULES_BY_POLICY", _speaks_to_nobody_in_particular),),
            breaks=("P3", "P4", "rest"),
            air=LATE,
            worse=_loses_disks_again_and_again,
        ),
        Protection(
            name="new incarnation",
            seams=(
                Seam("farthing_cloud.ledger.core.incarnations", "judge", _whoever_comes_is_welcome),
                Seam(f"{_EDGE}.from_cloud", "_rollback", _suspects_nothing),
                Seam(f"{_EDGE}.witnesses", "disagreement", _suspects_nothing),
            ),
            breaks=("P1", "P3", "P4", "rest"),
        ),
        Protection(
            name="holds of shown grants",
            seams=(Seam("farthing_cloud.ledger.core.restoring", "Book", lambda _: EmptyHandedBook),),
            breaks=("P1",),
        ),
        Protection(
            name="a replaced register is another",
            seams=tuple(
                Seam(f"farthing_firmware_sim.device.{room}", "is_of_one_use", _all_registers_are_one)
                for room in ("draft", "keeping", "saying")
            ),
            breaks=("P4", "rest"),
            worse=_replaces_meters,
        ),
        Protection(
            name="parked statements go up",
            seams=(Seam("farthing_edge.metering.sealing", "_parked", _parks_for_itself),),
            breaks=("P4",),
        ),
        Protection(
            name="ends of what people have closed",
            seams=(Seam(f"{_EDGE}.deciding", "decide_end", _ends_are_not_remembered),),
            breaks=("rest",),
            worse=_is_heard_and_does_not_hear,
        ),
        Protection(
            name="a passage that is left keeps its unit",
            seams=(Seam(_STEP, "_Draft._leave", _leaves_where_it_stood),),
            breaks=("P3", "P4"),
            worse=_is_heard_and_does_not_hear,
        ),
        Protection(
            name="nobody lends a pass",
            seams=(
                Seam("farthing_edge.metering.funding", "floor_room_micros", _lends_passes),
                Seam(f"{_EDGE}.adopting", "floor_room_micros", _lends_passes),
            ),
            breaks=("P1",),
            worse=_everything_is_a_pass,
        ),
        Protection(
            name="what a day has used",
            seams=(Seam(f"{_EDGE}.limits", "_used", _limits_nothing_by_day),),
            breaks=("limit",),
        ),
        Protection(
            name="a day goes on",
            seams=(Seam(f"{_EDGE}.usage", "Usage.day_at", _every_day_is_its_clocks),),
            breaks=("limit",),
            worse=_back_over_midnight,
        ),
        Protection(
            name="a day begins anew once",
            seams=(Seam(f"{_EDGE}.usage", "Usage.is_in_doubt", _believes_every_journal),),
            breaks=("limit",),
            worse=_loses_many,
        ),
        Protection(
            name="lapse",
            seams=(Seam(_STEP, "_Draft._has_lapsed", lambda _: _begins_whenever_it_hears),),
            breaks=("lapse",),
            worse=_yeses_lapse_at_once,
        ),
        Protection(
            name="stop before close",
            seams=(Seam("farthing_edge.metering.sealing", "_quotas_to_report", _holds_nothing_any_more),),
            breaks=("P1",),
        ),
        Protection(
            name="what has surely passed",
            seams=(
                Seam("farthing_edge.authorization.timekeeping.Timekeeping", "latest", lambda _: _as_the_clock_shows),
                Seam("farthing_edge.authorization.timekeeping.Timekeeping", "surely", lambda _: _as_the_clock_shows),
            ),
            breaks=("P1",),
            worse=_clocks_begin_anywhere,
        ),
        Protection(
            name="holds that only shrink",
            seams=(
                Seam(f"{_EDGE}.readings", "hold", _is_never_stopped),
                Seam(f"{_EDGE}.intents", "hold", _is_never_stopped),
            ),
            breaks=("P1",),
        ),
    )
}
