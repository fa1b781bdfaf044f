"""A story: everything that is not the same in every run. As JSON it can be sent to somebody else and told again."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation.actions import KINDS, Action, draw_actions
from simulation.cast import Cast, draw_cast
from simulation.lots import Lots


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """``fates``: name of a message → when its copies arrive (seconds later; none: lost). None: still to be drawn."""

    seed: int
    cast: Cast
    actions: tuple[Action, ...]
    fates: dict[str, tuple[float, ...]] | None = None

    def size(self) -> int:
        """How much there is to take out."""
        return len(self.cast.devices) + len(self.cast.gateways) + len(self.actions) + len(self.fates or ())


def draw(seed: int) -> Story:
    """The story of a seed."""
    rng = Lots(seed).stream("story")
    cast = draw_cast(rng)
    return Story(seed=seed, cast=cast, actions=draw_actions(rng, cast))


def write(story: Story, path: Path) -> None:
    """As JSON."""
    body = {
        "seed": story.seed,
        "cast": dataclasses.asdict(story.cast),
        "actions": [[action.__class__.__name__, dataclasses.asdict(action)] for action in story.actions],
        "fates": story.fates,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1) + "\n")


def read(path: Path) -> Story:
    """A story that was written; raise ``ValueError`` for anything else."""
    body = json.loads(path.read_text())
    fates = body["fates"]
    return Story(
        seed=body["seed"],
        cast=_typed(body["cast"], Cast),
        actions=tuple(_typed(fields, KINDS[kind]) for kind, fields in body["actions"]),
        fates=None if fates is None else {name: tuple(delays) for name, delays in fates.items()},
    )


def _typed(value: Any, kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) is tuple:
        return tuple(_typed(each, typing.get_args(kind)[0]) for each in value)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return typing.cast("type[Any]", kind)(**{name: _typed(each, hints[name]) for name, each in value.items()})
    return value
