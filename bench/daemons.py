"""What the daemons take to start and to sit there: from the command to ``run.json``, and resident memory then.

Real parties from a real ceremony; the edge with an empty journal and nobody to talk to, the cloud with the database it made at an
earlier start. The floor is a Python that has imported the daemon's modules and does nothing: what is above it is ours.
"""

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.processes import resident_mb
from farthing.daemon import read_run_file
from farthing_hsm_sim.ceremony import Parties, hold
from farthing_hsm_sim.plan import Plan

GATEWAY = "gw-bench"
#: Enough for a median, few enough for a run of half a minute.
STARTS = 3
STARTED_S = 60.0
STOPPED_S = 30.0
EDGE_START_S, EDGE_MEMORY_MB, ADMIN_START_S = 2.0, 120.0, 0.8
MODULES = {"farthing-edge": "farthing_edge.gateway", "farthing-cloud": "farthing_cloud.serve"}


def daemons() -> list[dict[str, object]]:
    """Start time and memory of ``farthing-edge`` and ``farthing-cloud``, start time of ``farthing-admin``."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir="/tmp") as place:
        folder = Path(place)
        # The embedded database runs as a user of its own and has to get through; PINs and keys have modes of their own.
        folder.chmod(0o755)
        parties = hold(Plan(gateways=(GATEWAY,), shared_tokens=True), folder / "parties")
        rows = []
        for daemon, command, state in (
            ("farthing-edge", ("run", "--config", _edge_config(folder, parties)), folder / "edge"),
            ("farthing-cloud", ("serve", "--config", _cloud_config(folder, parties)), folder / "cloud"),
        ):
            run_file = state / "run.json"
            _start(daemon, command, run_file)  # the first makes journal or database
            started = [_start(daemon, command, run_file) for _ in range(STARTS)]
            floors = [_import(MODULES[daemon]) for _ in range(STARTS)]
            seconds, memory = (statistics.median(each) for each in zip(*started, strict=True))
            floor_s, floor_mb = (statistics.median(each) for each in zip(*floors, strict=True))
            is_edge = daemon == "farthing-edge"
            what = f"a Python that has imported {MODULES[daemon]}"
            rows += [
                _row(
                    name=f"{daemon} start",
                    what=f"{daemon}, from its command to ready",
                    value=seconds,
                    unit="s",
                    floor=floor_s,
                    floor_what=what,
                    most=EDGE_START_S if is_edge else None,
                ),
                _row(
                    name=f"{daemon} memory",
                    what=f"resident memory of {daemon}, ready",
                    value=memory,
                    unit="MB",
                    floor=floor_mb,
                    floor_what=what,
                    most=EDGE_MEMORY_MB if is_edge else None,
                ),
            ]
    rows.append(
        _row(
            name="farthing-admin start",
            what="farthing-admin --help",
            value=statistics.median(_run_s(_script("farthing-admin"), "--help") for _ in range(STARTS)),
            unit="s",
            floor=statistics.median(_run_s(sys.executable, "-c", "pass") for _ in range(STARTS)),
            floor_what="a Python that does nothing",
            most=ADMIN_START_S,
        )
    )
    return rows


def _row(
    *, name: str, what: str, value: float, unit: str, floor: float, floor_what: str, most: float | None
) -> dict[str, object]:
    return {
        "id": name,
        "what": what,
        "value": value,
        "unit": unit,
        "floor": floor,
        "floor_what": floor_what,
        "ratio": value / floor,
        "budget": "" if most is None else f"≤ {most:g} {unit}",
        "met": None if most is None else value <= most,
    }


def _edge_config(folder: Path, parties: Parties) -> Path:
    party = parties.gateways[GATEWAY]
    file = folder / "edge.toml"
    # Port 9 of this machine: nobody is there, and a gateway starts all the same.
    file.write_text(
        f"""\
gateway_id = "{GATEWAY}"
state_dir = "{folder}/edge"
party = "{party.folder}"
ca_file = "{party.certificates}/ca.pem"
directive_key_file = "{parties.cloud.public}/directive.der"
[uplink]
address = "127.0.0.1:9"
[mqtt]
address = "127.0.0.1:9"
[coap]
listen = "127.0.0.1:0"
"""
    )
    return file


def _cloud_config(folder: Path, parties: Parties) -> Path:
    file = folder / "cloud.toml"
    file.write_text(
        f"""\
state_dir = "{folder}/cloud"
party = "{parties.cloud.folder}"
ca_file = "{parties.cloud.certificates}/ca.pem"
[database]
embedded = true
"""
    )
    return file


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _start(daemon: str, arguments: Sequence[str | Path], run_file: Path) -> tuple[float, float]:
    """Seconds until ready, and MB then; it is stopped again."""
    began = time.monotonic()
    process = subprocess.Popen([_script(daemon), *map(str, arguments)], stderr=subprocess.DEVNULL)
    try:
        while not run_file.exists():
            if process.poll() is not None or time.monotonic() - began > STARTED_S:
                raise RuntimeError(f"{daemon} did not start")
            time.sleep(0.005)
        seconds = time.monotonic() - began
        return seconds, resident_mb(read_run_file(run_file).pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOPPED_S)


def _import(module: str) -> tuple[float, float]:
    """Seconds to import ``module`` in a fresh Python, and MB then."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys, {module}\nprint(flush=True)\nsys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        measured = time.monotonic() - began, resident_mb(process.pid)
        process.terminate()
    return measured


def _run_s(*command: str) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began
