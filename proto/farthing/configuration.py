"""Configuration files that all processes read alike: TOML, strict, frozen; what is wrong is said with its key and what to do.

Rule 1: an unknown key or a missing file is no start. Rule 2: a relative path is relative to the file that says it.
Rule 3: a fault never repeats a value: it may be a secret in the wrong place.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from farthing.clock import MAX_RATE, BusinessClock, real_clock, simulated_clock


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key and says what to do."""


def _host_port(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError('write it as "host:port", for example "127.0.0.1:0" (0: any free port)')
    return value


Address: TypeAlias = Annotated[str, AfterValidator(_host_port)]
#: TOML has no paths: text becomes one, also where a section is strict.
FilePath: TypeAlias = Annotated[Path, Field(strict=False)]


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` (IPv6 hosts in brackets) as its two parts."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Section(BaseModel):
    """A part of a configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClockSection(Section):
    """Business time: as it is, or a simulation.

    All processes of one run must agree on it: a gateway dates its records and stops its quotas by the same clock by which the
    cloud closes windows and voids holds. So each is given the same three numbers.
    """

    simulation: bool = False
    #: Business µs since 1970 at the real instant ``real_epoch_us``.
    epoch_us: int | None = None
    real_epoch_us: int | None = None
    #: Business seconds per real second.
    rate: Annotated[int, Field(ge=1, le=MAX_RATE)] = 1

    @model_validator(mode="after")
    def _only_a_simulation_is_fast(self) -> Self:
        if self.simulation:
            if self.epoch_us is None or self.real_epoch_us is None:
                raise ValueError("a simulation needs epoch_us and real_epoch_us")
        elif self.epoch_us is not None or self.real_epoch_us is not None or self.rate != 1:
            raise ValueError("epoch_us, real_epoch_us and rate need simulation = true")
        return self

    def clock(self) -> BusinessClock:
        """The clock that this section describes."""
        if not self.simulation:
            return real_clock()
        assert self.epoch_us is not None
        assert self.real_epoch_us is not None
        return simulated_clock(epoch_us=self.epoch_us, real_epoch_us=self.real_epoch_us, rate=self.rate)


class LogSection(Section):
    """JSON lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"


def read_toml(path: Path, *, absent: str = "no such file", parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """The TOML document at ``path``; raise ``ConfigError``, which says ``absent`` where there is none."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file, parse_float=parse_float)
    except FileNotFoundError as err:
        raise ConfigError(f"{path}: {absent}") from err
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror}") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: not TOML: {err}") from err


def explain(path: Path, err: ValidationError) -> str:
    """One line per fault, each naming its key."""
    lines = []
    for fault in err.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in fault["loc"]) or "the file"
        if fault["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key {key}: remove it or correct its name")
        elif fault["type"] == "missing":
            lines.append(f"{path}: {key} is missing: add it")
        else:
            lines.append(f"{path}: {key}: {fault['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def resolved(config_file: Path, path: Path) -> Path:
    """``path`` as ``config_file`` means it, absolute."""
    return (config_file.parent / path).absolute()


def existing(config_file: Path, key: str, path: Path, what: str) -> Path:
    """``path`` resolved; raise ``ConfigError`` naming ``key`` and ``what`` stands there if it does not exist."""
    absolute = resolved(config_file, path)
    if not absolute.exists():
        raise ConfigError(f"{config_file}: {key}: {absolute} does not exist; it names {what}")
    return absolute
