"""What a run is told from outside, and the business day it plays."""

import os
from dataclasses import dataclass
from pathlib import Path

#: The business day of a run: 15 hours from six in the morning, a Monday in March 2026 (UTC).
DAY_BEGINS_US = 1_772_431_200_000_000
DAY_HOURS = 15


class SettingsError(ValueError):
    """An environment variable that the demo cannot use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``DEMO_SECONDS``, ``DEMO_SEED``, ``DEMO_REPLAY``, and the folder everything is written to."""

    seconds: int
    seed: int
    replay: Path | None
    out: Path

    @property
    def rate(self) -> int:
        """Business seconds per real second."""
        return DAY_HOURS * 3_600 // self.seconds


def from_environment() -> Settings:
    """Read the settings; raise ``SettingsError`` naming the variable."""
    seconds = _integer("DEMO_SECONDS", 60, low=10, high=3_600)
    replay_name = os.environ.get("DEMO_REPLAY")
    replay = Path(replay_name).expanduser().absolute() if replay_name else None
    if replay is not None and not replay.is_file():
        raise SettingsError(f"DEMO_REPLAY: no such file: {replay}")
    return Settings(
        seconds=seconds,
        seed=_integer("DEMO_SEED", 1, low=0, high=2**31 - 1),
        replay=replay,
        out=Path(os.environ.get("DEMO_OUT", "out/demo")).absolute(),
    )


def _integer(name: str, default: int, *, low: int, high: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        value = int(text)
    except ValueError as err:
        raise SettingsError(f"{name} is a whole number, not {text!r}") from err
    if not low <= value <= high:
        raise SettingsError(f"{name} is {low} to {high}, not {value}")
    return value
