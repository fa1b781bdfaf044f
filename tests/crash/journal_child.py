"""A journal written by a process of its own, on whatever disk it is given; a process for each word on standard input, what is needed is imported once.

A word is CBOR: ``path``, ``groups`` of entries ([position, at_us, kind, body] each; what is there is passed over, and ``most`` are written),
``marks`` (where a failed disk's mark lies), ``wal_size`` (when the write-ahead log is folded back), ``prune`` (take old entries away in
between), ``keep_ballast``, and ``pragmas`` (to spoil it with). After every commit the position goes to the file ``spoken`` beside the
journal: it has been said to somebody. What became of it is one line of JSON on standard output.
"""

import json
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cbor2

from farthing_edge.journal import Entry, Group, Journal, JournalError, log, retention

#: Entries that are left when it prunes.
_STAY = 40
#: Commits that are made beside one folding: on a busy machine its thread may wait for long, and a writer that has run ahead of it to the
#: end of its day would hardly have folded anything.
_BESIDE = 4


class Folding:
    """Folds the log back beside the writer, as the daemon does."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._thread = ThreadPoolExecutor(1)
        self._beside: Future[int] | None = None
        self._commits = 0

    def see(self) -> None:
        """After a commit."""
        if self._beside is None:
            if self._journal.has_long_log:
                self._beside, self._commits = self._thread.submit(self._journal.fold_beside), 0
            return
        self._commits += 1
        if self._beside.done() or self._commits == _BESIDE:
            beside, self._beside = self._beside, None
            self._journal.fold(beside.result())

    def end(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown()
        if self._beside is not None:
            self._beside.result()


def write(journal: Journal, told: dict, spoken: int) -> None:
    before = journal.position
    groups = [[Entry(*entry) for entry in group if entry[0] > before] for group in told["groups"]]
    folding = Folding(journal)
    for number, entries in enumerate([group for group in groups if group][: told["most"]]):
        journal.commit(Group(entries=entries))
        os.write(spoken, b"%d\n" % journal.position)
        if told["prune"] and number % 16 == 15:
            may = retention.Prunable(position=journal.position - _STAY, at_us=2**62, kept=frozenset())
            journal.change(partial(retention.prune, may))
        folding.see()
    folding.end()


def live(told: dict) -> dict:
    path = Path(told["path"])
    log.WAL_SIZE = told["wal_size"]
    journal = Journal(path, mark_directory=Path(told["marks"]), keep_ballast=told["keep_ballast"])
    spoken = os.open(path.with_name("spoken"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    fault = said = ""
    try:
        journal.open()
        connection = journal._connection
        assert connection is not None
        for pragma in told["pragmas"]:
            connection.execute(f"PRAGMA {pragma}")
        write(journal, told, spoken)
    except JournalError as err:
        fault, said = type(err).__name__, str(err)
    finally:
        journal.close()
    return {"fault": fault, "said": said, "position": journal.position, "reserve": journal.has_reserve}


def main() -> None:
    while True:
        try:
            told = cbor2.load(sys.stdin.buffer)
        except cbor2.CBORDecodeEOF:
            return
        child = os.fork()
        if not child:
            print(json.dumps(live(told)), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print(json.dumps({"fault": "died"}), flush=True)


if __name__ == "__main__":
    main()
