"""Make a story that breaks a promise small enough to read: take parts out as long as it still breaks the same one.

Delta debugging (Zeller and Hildebrandt, 2002) over devices, gateways, actions and fates of messages. Taking a part out changes nothing
else, as fates are drawn by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from simulation.actions import Action
from simulation.cast import Cast
from simulation.history import PromiseBroken
from simulation.story import Story
from simulation.world import Players, recorded, tell

T = TypeVar("T")
#: Stories told while shrinking one: a tenth of a second each.
MOST_TRIES = 600


@dataclass(slots=True)
class Shrinker:
    """Tells stories until the tries are used up."""

    promise: str
    players: Players | None
    tries: int = 0
    most_tries: int = MOST_TRIES

    def still_breaks(self, story: Story) -> bool:
        """Whether the same promise is broken by it."""
        if self.tries >= self.most_tries:
            return False
        self.tries += 1
        try:
            tell(story, players=self.players)
        except PromiseBroken as err:
            return err.promise == self.promise
        return False


def shrink(story: Story, *, players: Players | None = None, most_tries: int = MOST_TRIES) -> Story:
    """A smaller story that breaks the same promise as ``story``; ``ValueError`` when it breaks none."""
    try:
        tell(story, players=players)
    except PromiseBroken as err:
        shrinker = Shrinker(err.promise, players, most_tries=most_tries)
        story = recorded(story, err.told())
    else:
        raise ValueError(f"seed {story.seed} breaks no promise")
    size = story.size() + 1
    while story.size() < size and shrinker.tries < shrinker.most_tries:
        size = story.size()
        story = _fewer_players(story, shrinker)
        story = _fewer(story, story.actions, lambda story, rest: replace(story, actions=tuple(rest)), shrinker)
        fates = sorted((story.fates or {}).items())
        story = _fewer(story, fates, lambda story, rest: replace(story, fates=dict(rest)), shrinker)
        story = _shorter(story, shrinker)
    return story


def _fewer_players(story: Story, shrinker: Shrinker) -> Story:
    for device in story.cast.devices:
        without = _without_device(story, device.name)
        if len(without.cast.devices) and shrinker.still_breaks(without):
            story = without
    for gateway in story.cast.gateways:
        without = _without_gateway(story, gateway)
        if len(without.cast.gateways) and without.cast.devices and shrinker.still_breaks(without):
            story = without
    return story


def _names(action: Action) -> set[str]:
    """Everybody whom an action names as its object."""
    values = [getattr(action, field.name) for field in fields(action) if field.name not in ("at_s", "gateways")]
    return {value for value in values if isinstance(value, str)}


def _without_device(story: Story, name: str) -> Story:
    cast = replace(story.cast, devices=tuple(each for each in story.cast.devices if each.name != name))
    return replace(story, cast=cast, actions=tuple(each for each in story.actions if name not in _names(each)))


def _without_gateway(story: Story, name: str) -> Story:
    devices = tuple(
        replace(each, gateways=tuple(gateway for gateway in each.gateways if gateway != name))
        for each in story.cast.devices
    )
    cast: Cast = replace(
        story.cast,
        gateways=tuple(each for each in story.cast.gateways if each != name),
        devices=tuple(each for each in devices if each.gateways),
    )
    here = {*cast.gateways, *(device.name for device in cast.devices)}
    gone = {*story.cast.gateways, *(device.name for device in story.cast.devices)} - here
    actions = []
    for action in story.actions:
        if _names(action) & gone:
            continue
        asked = getattr(action, "gateways", None)
        if asked is not None:
            asked = tuple(gateway for gateway in asked if gateway != name)
            if not asked:
                continue
            action = replace(action, gateways=asked)  # type: ignore[call-arg]  # only arrivals have gateways
        actions.append(action)
    return replace(story, cast=cast, actions=tuple(actions))


def _shorter(story: Story, shrinker: Shrinker) -> Story:
    last_s = max((action.at_s for action in story.actions), default=0)
    minutes = int(last_s // 60) + 1
    if minutes < story.cast.minutes:
        shorter = replace(story, cast=replace(story.cast, minutes=minutes))
        if shrinker.still_breaks(shorter):
            return shorter
    return story


def _fewer(story: Story, parts: Sequence[T], put: Callable[[Story, Sequence[T]], Story], shrinker: Shrinker) -> Story:
    """``story`` with as few of ``parts`` as still break it: halves, then quarters, down to single ones."""
    parts = list(parts)
    if parts and shrinker.still_breaks(put(story, [])):
        return put(story, [])
    chunk = max(1, len(parts) // 2)
    while parts:
        start = 0
        while start < len(parts):
            rest = [*parts[:start], *parts[start + chunk :]]
            if rest != parts and shrinker.still_breaks(put(story, rest)):
                parts = rest
            else:
                start += chunk
        if chunk == 1 or shrinker.tries >= shrinker.most_tries:
            break
        chunk = max(1, chunk // 2)
    return put(story, parts)
