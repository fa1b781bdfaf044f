"""What a running gateway says of itself: one value, shown as a page, a table and gauges."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import structlog

from farthing.daemon import RunFileError, read_run_file
from farthing_edge.config import EdgeConfig

_log = structlog.get_logger(__name__)

#: JSON as it is: what /status serves.
Status: TypeAlias = Mapping[str, Any]

#: Longest wait for a running daemon's own page.
PAGE_TIMEOUT_S = 3.0


class StatusError(Exception):
    """There is nothing to show; the message says why and what to do."""


def fetch(config: EdgeConfig) -> dict[str, Any]:
    """The status of the daemon that runs on ``config``; raise ``StatusError``."""
    import httpx

    try:
        run = read_run_file(config.run_file)
    except FileNotFoundError as err:
        raise StatusError(
            f"not running: there is no {config.run_file}; start it with `farthing-edge run --config …`"
        ) from err
    except RunFileError as err:
        raise StatusError(str(err)) from err
    address = run.addresses.get("http", "")
    try:
        response = httpx.get(f"http://{address}/status", timeout=PAGE_TIMEOUT_S)
        response.raise_for_status()
        page = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as err:
        raise StatusError(
            f"process {run.pid} said it listens on {address!r}, and does not answer: "
            f"it was killed, or hangs. If there is no such process, start it again"
        ) from err
    return {"pid": run.pid, "started_at": run.started_at, "addresses": dict(run.addresses), **page}


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
