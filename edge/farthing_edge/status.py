"""What a running gateway says of itself: one value, shown as a page, a table and gauges."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import structlog

from farthing_edge.config import EdgeConfig

_log = structlog.get_logger(__name__)

#: JSON as it is: what /status serves.
Status: TypeAlias = Mapping[str, Any]

#: Longest wait for a running daemon's own page.
PAGE_TIMEOUT_S = 3.0


class StatusError(Exception):
    """There is nothing to show; the message says why and what to do."""


def write_run_file(path: Path, *, pid: int, started_at: str, addresses: Mapping[str, str]) -> None:
    """Say where this process is reached: written whole or not at all."""
    scratch = path.with_suffix(".json.new")
    scratch.write_text(
        json.dumps({"pid": pid, "started_at": started_at, "addresses": dict(addresses)}) + "\n", encoding="utf-8"
    )
    scratch.replace(path)


def read_run_file(path: Path) -> Mapping[str, Any]:
    """What a running daemon wrote; raise ``StatusError`` if none runs."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise StatusError(f"not running: there is no {path}; start it with `farthing-edge run --config …`") from err
    except (OSError, ValueError) as err:
        raise StatusError(f"{path} is not what a running gateway writes") from err
    if not isinstance(document, dict):
        raise StatusError(f"{path} is not what a running gateway writes")
    return document


def fetch(config: EdgeConfig) -> dict[str, Any]:
    """The status of the daemon that runs on ``config``; raise ``StatusError``."""
    import httpx

    run = read_run_file(config.run_file)
    address = run.get("addresses", {}).get("http", "")
    try:
        response = httpx.get(f"http://{address}/status", timeout=PAGE_TIMEOUT_S)
        response.raise_for_status()
        page = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as err:
        raise StatusError(
            f"process {run.get('pid')} said it listens on {address!r}, and does not answer: "
            f"it was killed, or hangs. If there is no such process, start it again"
        ) from err
    return {"pid": run.get("pid"), "started_at": run.get("started_at"), "addresses": run.get("addresses"), **page}


def lines(page: Status, prefix: str = "") -> list[tuple[str, str]]:
    """The page as (name, value) for people: nested names with dots, lists by their length."""
    found: list[tuple[str, str]] = []
    for name, value in page.items():
        if isinstance(value, Mapping):
            found += lines(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            found.append((f"{prefix}{name}", ", ".join(map(str, value)) if len(value) <= _SHOWN else str(len(value))))
        else:
            found.append((f"{prefix}{name}", str(value)))
    return found


#: Longer lists are for --json.
_SHOWN = 4
