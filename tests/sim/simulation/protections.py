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
from simulation.actions import Arrive, CrashGateway, Cut, Draw, Gone
from simulation.cast import Air, DeviceRole
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


def _goes_with_passages(story: Story) -> Story:
    """Who goes for good has lately let a transponder pass."""
    gone = next((action for action in story.actions if isinstance(action, Gone)), None)
    if gone is None:
        return story
    others = tuple(each for each in story.cast.gateways if each != gone.gateway)
    toll = DeviceRole(
        name="toll-gone",
        profile="one-shot",
        unit="passage",
        tariff="toll-1",
        gateways=(gone.gateway, *others),
        rated_per_hour=600,
        stoppable=True,
        report_interval_s=720,
        value=0,
    )
    passages = [
        Arrive(
            at_s=max(1.0, gone.at_s - before_s),
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
        for before_s in (60, 30)
    ]
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
            name="stop before close",
            seams=(Seam("farthing_edge.metering.sealing", "_quotas_to_report", _holds_nothing_any_more),),
            breaks=("P1",),
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
