"""The device's memory: durable before signed, one content per counter, each row once; also under kill -9."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from farthing_firmware_sim.store import Row, Store, StoreError, StoreInUse, Unsigned, read_device


def store(tmp_path: Path) -> Store:
    return Store(folder=tmp_path / "state", sessions_file=tmp_path / "out" / "sessions.jsonl")


def lines(tmp_path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (tmp_path / "out" / "sessions.jsonl").read_text().splitlines()]


def test_a_counter_belongs_to_one_content_and_recipient(tmp_path):
    with store(tmp_path) as memory:
        said = Unsigned(counter=1, recipient="gw-1", payload=b"intent")
        memory.commit("d", device_epoch=1, next_counter=2, state=b"s", unsigned=[said])
        memory.commit("d", device_epoch=1, next_counter=2, state=b"s", unsigned=[said])
        for other in (
            Unsigned(counter=1, recipient="gw-1", payload=b"another"),
            Unsigned(counter=1, recipient="gw-2", payload=b"intent"),
            Unsigned(counter=2, recipient="gw-1", payload=b"not passed yet"),
        ):
            with pytest.raises(StoreError):
                memory.commit("d", device_epoch=1, next_counter=2, state=b"changed", unsigned=[other])
        stored = memory.device("d")
        assert stored is not None
        assert stored.state == b"s", "all or nothing"
        # Another device, or the same with a new epoch, counts for itself.
        memory.commit("e", device_epoch=1, next_counter=2, state=b"s", unsigned=[replaced(said, b"other")])
        memory.commit("d", device_epoch=2, next_counter=2, state=b"s", unsigned=[replaced(said, b"other")])


def replaced(said: Unsigned, payload: bytes) -> Unsigned:
    return Unsigned(counter=said.counter, recipient=said.recipient, payload=payload)


def test_the_first_signature_stays(tmp_path):
    with store(tmp_path) as memory:
        said = Unsigned(counter=1, recipient="gw-1", payload=b"intent")
        memory.commit("d", device_epoch=1, next_counter=2, state=b"s", unsigned=[said])
        assert memory.signed("d", 1, 1) is None
        memory.keep_signature("d", 1, 1, b"first")
        memory.keep_signature("d", 1, 1, b"second")
        assert memory.signed("d", 1, 1) == b"first"


def test_two_processes_never_share_counters(tmp_path):
    with store(tmp_path):
        with pytest.raises(StoreInUse):
            store(tmp_path).open()
        with pytest.raises(StoreError):
            read_device(tmp_path / "state", "d")
    with store(tmp_path) as memory:
        memory.commit("d", device_epoch=1, next_counter=7, state=b"s")
        assert read_device(tmp_path / "state", "d").next_counter == 7, "a clone reads beside the running fleet"


def test_a_torn_last_line_is_written_again(tmp_path):
    with store(tmp_path) as memory:
        memory.commit(
            "d", device_epoch=1, next_counter=1, state=b"s", rows=[Row(id="a", body={}), Row(id="b", body={})]
        )
    file = tmp_path / "out" / "sessions.jsonl"
    file.write_bytes(file.read_bytes()[:-4])
    assert len(file.read_text().splitlines()) == 2
    with store(tmp_path):
        pass
    assert lines(tmp_path) == ["a", "b"]


def test_it_asks_the_disk_for_durability(tmp_path):
    with store(tmp_path) as memory:
        assert memory._db.execute("PRAGMA synchronous").fetchone() == (2,)
        with pytest.raises(sqlite3.IntegrityError):
            memory._db.execute("INSERT INTO devices VALUES ('d', 'not a number', 1, x'00')")


CHILD = """
import sys
from pathlib import Path
from farthing_firmware_sim.store import Row, Store, Unsigned

folder = Path(sys.argv[1])
with Store(folder=folder / "state", sessions_file=folder / "out" / "sessions.jsonl") as memory:
    stored = memory.device("d")
    counter = 1 if stored is None else stored.next_counter
    while True:
        payload = f"{counter} of {sys.argv[2]}".encode()
        memory.commit(
            "d", device_epoch=1, next_counter=counter + 1, state=payload,
            unsigned=[Unsigned(counter=counter, recipient="gw-1", payload=payload)],
            rows=[Row(id=f"d/{counter}", body={"counter": counter})],
        )
        print(counter, flush=True)  # spoken
        counter += 1
"""


def test_kill_at_any_moment_no_counter_twice_no_row_lost(tmp_path):
    lot = random.Random(11)
    spoken: list[int] = []
    for life in range(8):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(life)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        spoken += [int(child.stdout.readline()) for _ in range(lot.randint(1, 40))]
        os.kill(child.pid, signal.SIGKILL)
        spoken += [int(line) for line in child.stdout.read().split(b"\n") if line.strip().isdigit()]
        child.stdout.close()
        child.wait()
    assert len(set(spoken)) == len(spoken), "a counter spoken twice"
    with store(tmp_path) as memory:
        stored = memory.device("d")
        assert stored is not None
        assert stored.next_counter > max(spoken)
    written = lines(tmp_path)
    assert len(set(written)) == len(written)
    assert set(written) == {f"d/{counter}" for counter in range(1, stored.next_counter)}
