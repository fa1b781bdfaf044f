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
    """``DEMO_SECONDS``, ``DEMO_SEED``, ``DEMO_REPLAY`` (``_ALL``, ``_FROM``, ``_TO``), and the folder everything is written to."""

    seconds: int
    seed: int
    replay: Path | None
    #: Play all of the file, one device per station, as fast as gateways answer, instead of the day with a slice of it.
    whole_file: bool
    #: Of the whole file, only rows that begin from the first day on, and before the second (ISO 8601; None: no bound).
    file_from: str | None
    file_to: str | None
    out: Path

    @property
    def rate(self) -> int:
        """Business seconds per real second."""
        return 1 if self.whole_file else DAY_HOURS * 3_600 // self.seconds

    @property
    def file_bounds(self) -> tuple[str, ...]:
        """Which part of the file, as arguments of ``farthing-firmware-sim``."""
        bounds = (("--from", self.file_from), ("--to", self.file_to))
        return tuple(text for name, value in bounds if value is not None for text in (name, value))


def from_environment() -> Settings:
    """Read the settings; raise ``SettingsError`` naming the variable."""
    seconds = _integer("DEMO_SECONDS", 60, low=10, high=3_600)
    replay_name = os.environ.get("DEMO_REPLAY")
    replay = Path(replay_name).expanduser().absolute() if replay_name else None
    if replay is not None and not replay.is_file():
        raise SettingsError(f"DEMO_REPLAY: no such file: {replay}")
    whole_file = _integer("DEMO_REPLAY_ALL", 0, low=0, high=1) == 1
    if whole_file and replay is None:
        raise SettingsError("DEMO_REPLAY_ALL=1 needs DEMO_REPLAY: which file?")
    file_from, file_to = os.environ.get("DEMO_REPLAY_FROM") or None, os.environ.get("DEMO_REPLAY_TO") or None
    if (file_from or file_to) and not whole_file:
        raise SettingsError(
            "DEMO_REPLAY_FROM and _TO need DEMO_REPLAY_ALL=1: which slice a day plays is the seed's choice"
        )
    return Settings(
        seconds=seconds,
        seed=_integer("DEMO_SEED", 1, low=0, high=2**31 - 1),
        replay=replay,
        whole_file=whole_file,
        file_from=file_from,
        file_to=file_to,
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
