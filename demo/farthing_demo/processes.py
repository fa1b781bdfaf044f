"""Start, watch and stop the processes of a run, each with a log of its own.

Rule 1: every process that was started is stopped, whatever happens. Rule 2: waiting is for a condition, with a limit, and
the limit's message names the log to read.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: How often a condition is looked at, seconds of real time.
LOOK_EVERY_S = 0.05
#: SIGTERM to exit: what every daemon promises, with room for a loaded machine.
STOP_WITHIN_S = 10


class DemoError(Exception):
    """The run cannot go on; the sentence says why and where to look."""


def command(name: str) -> str:
    """The installed command ``name`` of this environment."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(
    condition: Callable[[], Awaitable[bool]] | Callable[[], bool],
    *,
    what: str,
    within_s: int,
    every_s: float = LOOK_EVERY_S,
) -> None:
    """Return when ``condition`` holds; raise ``DemoError`` naming ``what`` after ``within_s``."""
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        if time.monotonic() > deadline:
            raise DemoError(f"waited {within_s} s for {what}")
        await asyncio.sleep(every_s)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``, or None while it is not there."""
    try:
        loaded = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return loaded if isinstance(loaded, dict) else None


@dataclass(slots=True, kw_only=True)
class Started:
    """One process of the run."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def running(self) -> bool:
        """Whether it has not exited."""
        return self.process.returncode is None

    async def stop(self) -> int:
        """SIGTERM, then SIGKILL when it does not listen; return the exit code."""
        if self.running():
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), STOP_WITHIN_S)
            except TimeoutError:
                self.process.kill()
        return await self.process.wait()

    async def kill(self) -> None:
        """SIGKILL: what a power cut does."""
        self.process.kill()
        await self.process.wait()

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(slots=True, kw_only=True)
class Stage:
    """All processes of a run, stopped in reverse order of their start."""

    folder: Path
    started: list[Started] = field(default_factory=list)

    async def start(self, name: str, arguments: Sequence[str], env: dict[str, str] | None = None) -> Started:
        """Start ``arguments``; what it prints goes to ``<folder>/logs/<name>.log``."""
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, **(env or {})},
                # The terminal's Ctrl-C is for the demo, which then stops the others in order.
                start_new_session=True,
            )
        started = Started(name=name, process=process, log=log)
        self.started.append(started)
        return started

    async def call(self, name: str, arguments: Sequence[str], *, within_s: int = 60) -> str:
        """Run a command to its end and return what it printed; raise ``DemoError`` unless it exits 0."""
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), within_s)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise DemoError(f"{name}: no end after {within_s} s: {' '.join(arguments)}") from None
        if process.returncode:
            raise DemoError(f"{name} exited {process.returncode}: {' '.join(arguments)}\n{err.decode()}{out.decode()}")
        return out.decode()

    async def ready(self, started: Started, run_file: Path, *, within_s: int = 60) -> dict[str, str]:
        """Wait for a daemon's run.json with its own pid; return its addresses by name."""

        def is_ready() -> bool:
            if not started.running():
                raise DemoError(f"{started.name} exited {started.process.returncode}:\n{started.tail()}")
            run = read_json(run_file)
            return run is not None and run.get("pid") == started.process.pid

        try:
            await until(is_ready, what=f"{started.name} to be ready ({run_file})", within_s=within_s)
        except DemoError as err:
            raise DemoError(f"{err}; see {started.log}:\n{started.tail()}") from err
        run = read_json(run_file)
        assert run is not None
        addresses: dict[str, str] = run["addresses"]
        return addresses

    async def stop(self) -> None:
        """Stop everything, last started first."""
        for started in reversed(self.started):
            await started.stop()
