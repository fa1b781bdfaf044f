"""E6 and E8: how long a start takes behind a million entries, and how many bytes each usage record writes to flash.

**E6.** ``farthing-edge`` is killed with SIGKILL and started again, from its command to ready, on a journal of ``E6_ENTRIES`` (1,000,000) with
a snapshot as old as it gets. The journal is made once and kept in ``out/``; the daemon runs on a copy.

**E8.** Usage records are written by the real core through the real journal, so many commands to a commit; what is counted is what the
kernel sent to the disk for it, in pages of 4 KiB: write-ahead log, folding back, batches, signatures, receipts. How many commands share
a commit is the load's doing. Snapshots, another process's work, are added by their size. ``python -m bench E6 E8``.
"""

import hashlib
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench import journal_day
from bench.journal_day import GATEWAY, JournalDay
from bench.pictures import bars
from bench.processes import cpu_s
from bench.site import disk
from farthing_edge import authorization
from farthing_edge import journal as journal_room
from farthing_edge.engine.upkeep import UpkeepLimits
from farthing_edge.journal import Journal, snapshots
from farthing_hsm_sim.ceremony import hold
from farthing_hsm_sim.plan import Plan

ENTRIES: Final = int(os.environ.get("E6_ENTRIES", "1000000"))
SNAPSHOT_ENTRIES: Final = UpkeepLimits().snapshot_entries
E6_BUDGET_S: Final = 2.0
#: A site of a thousand devices.
CHARGERS: Final = 1_000
STARTS: Final = 5
STARTED_S: Final = 120.0

E8_BUDGET_B: Final = 400
E8_RECORDS: Final = int(os.environ.get("E8_RECORDS", "12000"))
#: Commands in a commit, from a quiet site to one that is flooded; the engine takes no more than the last.
GROUPS: Final = (1, 4, 16, 64, 256)
#: Once the first batches are sealed everything that repeats has been seen.
_WARM_UP_RECORDS: Final = 400


def long_journal() -> Path:
    """The folder of a journal of ``ENTRIES`` entries; made when it is not there."""
    kept = Path(disk()) / f"journal-{ENTRIES}-{_program()}"
    if kept.is_dir():
        return kept
    for older in kept.parent.glob("journal-*-*"):
        shutil.rmtree(older)
    print(f"writing a journal of {ENTRIES:,} entries into {kept}; it is kept", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=kept.parent) as place:
        folder = Path(place) / "made"
        folder.mkdir()
        path = folder / "journal.sqlite"
        journal = Journal(path, mark_directory=folder, keep_ballast=False)
        journal.open()
        day = JournalDay(journal, chargers=CHARGERS, group=256)
        # What a start does not look at is the same few thousand records again and again.
        day.write(records=4_000)
        day.repeat(entries=ENTRIES - 2 * SNAPSHOT_ENTRIES)
        # As old as a snapshot gets before the next is begun.
        day.write(entries=ENTRIES - SNAPSHOT_ENTRIES)
        snapshots.write(path, day.state, journal.chain)
        day.write(entries=ENTRIES)
        journal.close()
        folder.rename(kept)
    return kept


def _program() -> str:
    """What decides, applies and writes: another program's snapshot may lack what this one keeps, and the start would replay everything."""
    sources = hashlib.sha256()
    for module in (authorization, journal_room):
        for source in sorted(Path(str(module.__file__)).parent.glob("*.py")):
            sources.update(source.read_bytes())
    sources.update(Path(journal_day.__file__).read_bytes())
    return sources.hexdigest()[:12]


def e6() -> list[dict[str, object]]:
    """Seconds from the command to ready, behind a killed gateway."""
    kept = long_journal()
    with tempfile.TemporaryDirectory(prefix="journal-bench-", dir=disk()) as place, _parties() as config:
        state = Path(place)
        shutil.copytree(kept, state, dirs_exist_ok=True)
        file = state / "edge.toml"
        file.write_text(f'state_dir = "{state}"\n{config}')
        # The first finds a journal that was closed; then each finds one that was killed.
        _start_and_kill(file, state)
        started = [_start_and_kill(file, state) for _ in range(STARTS)]
        snapshot = snapshots.found(state / "journal.sqlite")[0]
        floors = [_floor_s(state / "journal.sqlite", snapshot) for _ in range(STARTS)]
    seconds, cpu = (statistics.median(each) for each in zip(*started, strict=True))
    floor, floor_cpu = (statistics.median(each) for each in zip(*floors, strict=True))
    return [
        {
            "id": "E6",
            "what": f"start after kill -9 with {ENTRIES:,} entries, from the command to ready ({cpu:.2f} s of CPU; the floor {floor_cpu:.2f})",
            "value": seconds,
            "unit": "s",
            "floor": floor,
            "floor_what": "a Python that imports what the daemon does, opens the journal and reads the snapshot's bytes",
            "ratio": seconds / floor,
            "budget": f"≤ {E6_BUDGET_S:g} s",
            "met": seconds <= E6_BUDGET_S,
        }
    ]


@contextmanager
def _parties() -> Iterator[str]:
    """A gateway's keys; the rest of its configuration: nobody to talk to, and a start needs nobody."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir="/tmp") as place:
        parties = hold(Plan(gateways=(GATEWAY,), shared_tokens=True), Path(place) / "parties")
        party = parties.gateways[GATEWAY]
        yield f"""\
gateway_id = "{GATEWAY}"
party = "{party.folder}"
ca_file = "{party.certificates}/ca.pem"
directive_key_file = "{parties.cloud.public}/directive.der"
[uplink]
address = "127.0.0.1:9"
[mqtt]
address = "127.0.0.1:9"
[coap]
listen = "127.0.0.1:0"
[log]
level = "warning"
"""


def _start_and_kill(config: Path, state: Path) -> tuple[float, float]:
    """Seconds until ready, and seconds of processor that they took; then it is killed."""
    run_file = state / "run.json"
    run_file.unlink(missing_ok=True)
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "farthing_edge.command", "run", "--config", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        while not run_file.exists():
            if process.poll() is not None or time.monotonic() - began > STARTED_S:
                raise RuntimeError("farthing-edge did not start")
            time.sleep(0.005)
        return time.monotonic() - began, cpu_s(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


_FLOOR = """
import sqlite3, sys, farthing_edge.gateway
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT position FROM entries ORDER BY position DESC LIMIT 1").fetchone()
open(sys.argv[2], "rb").read()
"""


def _floor_s(journal: Path, snapshot: Path) -> tuple[float, float]:
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", _FLOOR, str(journal), str(snapshot)], check=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - began, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def e8() -> list[dict[str, object]]:
    """Bytes to flash for a usage record, by how many commands share a commit."""
    rows: list[dict[str, object]] = []
    for group in GROUPS:
        with tempfile.TemporaryDirectory(prefix="journal-bench-", dir=disk()) as place:
            flash, statement = _written_for_a_record(Path(place), group)
        rows.append(
            {
                "id": f"E8-{group}",
                "what": f"bytes to flash per usage record, {group} commands in a commit",
                "value": round(flash),
                "unit": "B",
                "floor": round(statement),
                "floor_what": "the device's signed statement",
                "ratio": flash / statement,
                "budget": f"≤ {E8_BUDGET_B} B",
                "met": flash <= E8_BUDGET_B,
            }
        )
    values: dict[str, float] = {f"{group} a commit": _number(row) for group, row in zip(GROUPS, rows, strict=True)}
    bars("E8", "E8: bytes to flash per usage record", values, unit="B", budget=E8_BUDGET_B)
    return rows


def _number(row: dict[str, Any]) -> float:
    value: float = row["value"]
    return value


def _written_for_a_record(folder: Path, group: int) -> tuple[float, float]:
    """(bytes to flash, bytes of its signed statement), each by usage record."""
    path = folder / "journal.sqlite"
    journal = Journal(path, mark_directory=folder)
    journal.open()
    try:
        # Between two statements of one device lie the others': 200 chargers.
        day = JournalDay(journal, chargers=200, group=group)
        day.write(records=_WARM_UP_RECORDS)
        before, records, statements = _bytes_to_disk(), day.records, day.statement_bytes
        day.write(records=E8_RECORDS)
        made = day.records - records
    finally:
        # What is in the log is folded back, and counted.
        journal.close()
    written = (_bytes_to_disk() - before) / made
    snapshot = snapshots.write(path, day.state, journal.chain).stat().st_size / SNAPSHOT_ENTRIES
    return written + snapshot, (day.statement_bytes - statements) / made


def _bytes_to_disk() -> int:
    """What this process has had the kernel send to disks, page by page."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise RuntimeError("this kernel does not count what a process writes")
