"""``run.json``: how a daemon says that it is ready, who it is and where it listens, to whoever starts or watches it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

#: In a daemon's ``state_dir``; it is there exactly while the daemon serves, unless it was killed.
RUN_FILE = "run.json"


class RunFileError(Exception):
    """The file is not what a daemon writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """What a running daemon wrote: its process id, when it started (ISO 8601, UTC), ``host:port`` by name."""

    pid: int
    started_at: str
    addresses: Mapping[str, str]


def write_run_file(path: Path, *, started_at: datetime, addresses: Mapping[str, str]) -> None:
    """Say that this process serves: written whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    document = {
        "pid": os.getpid(),
        "started_at": started_at.isoformat(timespec="milliseconds"),
        "addresses": dict(addresses),
    }
    scratch.write_text(json.dumps(document) + "\n", encoding="utf-8")
    scratch.replace(path)


def read_run_file(path: Path) -> RunFile:
    """What is written at ``path``; raise ``FileNotFoundError`` if no daemon runs there, else ``RunFileError``."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return RunFile(
            pid=int(document["pid"]),
            started_at=str(document["started_at"]),
            addresses={str(name): str(address) for name, address in document["addresses"].items()},
        )
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise RunFileError(f"{path} is not what a running daemon writes") from err
