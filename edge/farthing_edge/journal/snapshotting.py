"""The process that writes a snapshot: ``python -m farthing_edge.journal.snapshotting JOURNAL``, settings on standard input.

A process of its own, beside the daemon, because writing a state takes a second of a core that the writer does not have: it reads the
newest snapshot and the entries after it as a start would, so what it writes is what a start would become. It opens the journal to
read only and holds nothing that the daemon waits for. Standard output is one line of JSON: position, size, bytes.
"""

import json
import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from farthing_edge.authorization.state import CoreSettings
from farthing_edge.journal import snapshots
from farthing_edge.journal.errors import JournalError
from farthing_edge.journal.replaying import recall
from farthing_edge.journal.store import connect_to_read

#: Devices wait for the daemon, nobody waits for this.
NICENESS = 10


def command(journal: Path) -> tuple[str, ...]:
    """What to run."""
    return (sys.executable, "-m", "farthing_edge.journal.snapshotting", str(journal))


def settings_to_json(settings: CoreSettings) -> bytes:
    """What it is told on standard input."""
    return json.dumps(asdict(settings)).encode()


def write_snapshot(journal: Path, settings: CoreSettings) -> dict[str, int]:
    """Write a snapshot of everything in ``journal``; the position it is of, and its size in bytes."""
    with closing(connect_to_read(journal)) as connection:
        recalled = recall(journal, connection, settings)
    path = snapshots.write(journal, recalled.state, recalled.chain)
    return {"position": recalled.state.position, "size": path.stat().st_size, "replayed": recalled.replayed}


def main(journal: Path) -> int:
    """Write one; 1 and a sentence on standard error when it cannot be."""
    os.nice(NICENESS)
    settings = CoreSettings(**json.load(sys.stdin))
    try:
        written = write_snapshot(journal, settings)
    except (JournalError, snapshots.SnapshotError, sqlite3.Error, OSError) as err:
        sys.stderr.write(f"{err}\n")
        return 1
    sys.stdout.write(json.dumps(written) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
