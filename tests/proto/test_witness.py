"""``farthing-witness`` as a third party runs it: from a verifier key and files, it tells a log that grew from one that forked."""

import functools
import http.server
import shutil
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from published_log import KEY, ORIGIN, publish, sign
from typer.testing import CliRunner

from farthing.tlog.checkpoint import Checkpoint, open_checkpoint
from farthing.tlog.command import CAUGHT, app
from farthing.tlog.entries import DeviceEntry, decode
from farthing.tlog.note import NoteKey, parse_note, verify
from farthing.tlog.telling import tell
from farthing.tlog.tree import verify_consistency


def devices(count: int, *, status: str = "active") -> list[bytes]:
    return [
        DeviceEntry(
            device=f"m-{number}",
            device_epoch=1,
            operator="city",
            status=status if number == 2 else "active",
            statement_key_hash=bytes([number % 256]) * 32,
            certificate_hash=b"c" * 32,
            at_us=number,
        ).encode()
        for number in range(count)
    ]


class Witness:
    """One person's witness: a key, a state, a place to look at."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home / "log"
        self.state = home / "state"
        made = CliRunner().invoke(app, ["key", "--name", "example.org/w", "--out", str(home / "key")])
        assert made.exit_code == 0, made.output
        self.key = NoteKey.parse(made.stdout)

    def look(self, *more: str, place: str | None = None) -> tuple[int, str, str]:
        done = CliRunner().invoke(
            app, ["look", "--log", str(KEY), "--from", place or str(self.log), "--state", str(self.state), *more]
        )
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    def cosign(self) -> tuple[int, str, str]:
        return self.look("--key", str(self.home / "key"), "--name", "example.org/w")


@pytest.fixture
def witness(tmp_path) -> Witness:
    return Witness(tmp_path)


def test_a_log_that_grows_is_followed_and_cosigned(witness: Witness) -> None:
    assert stat.S_IMODE((witness.home / "key").stat().st_mode) == 0o600
    for size in (1, 1, 3, 256, 300):
        head = publish(witness.log, devices(size))
        code, out, _ = witness.cosign()
        assert code == 0
        note = parse_note(out.encode())
        assert open_checkpoint(out.encode(), KEY)[0] == head
        assert verify(note, witness.key) is not None
        assert open_checkpoint(witness.state.read_bytes(), KEY)[0] == head


def test_new_entries_are_listed_once(witness: Witness) -> None:
    publish(witness.log, devices(2))
    _, out, _ = witness.look("--entries")
    assert [line.split()[2] for line in out.splitlines()] == ["m-0", "m-1"]
    publish(witness.log, devices(4, status="suspended"))
    _, out, _ = witness.look("--entries")
    assert [line.split("  ")[1:5] for line in out.splitlines()] == [
        ["device m-2", "epoch 1", "of city", "suspended"],
        ["device m-3", "epoch 1", "of city", "active"],
    ]
    assert witness.look("--entries")[1] == ""


def test_it_reads_a_web_server(witness: Witness) -> None:
    publish(witness.log, devices(260))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(witness.log))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        code, out, _ = witness.look("--entries", place=url)
        missing = witness.look(place=f"{url}/elsewhere")
        server.shutdown()
        thread.join()
    assert code == 0
    assert len(out.splitlines()) == 260
    assert missing[0] == 1
    assert witness.look(place=url)[0] == 1  # nobody there any more
    assert witness.look(place="ftp://127.0.0.1/log")[0] == 1


def other_entries(before: list[bytes]) -> list[bytes]:
    return [*before[:1], b"slipped in", *before[1:]]


@pytest.mark.parametrize("size", [5, 6, 300], ids=["same size", "larger", "much larger"])
def test_a_log_that_forked_is_caught_with_both_notes_kept(witness: Witness, size: int) -> None:
    first = publish(witness.log, devices(5))
    assert witness.look()[0] == 0
    seen = witness.state.read_bytes()
    shutil.rmtree(witness.log)
    second = publish(witness.log, other_entries(devices(size))[:size])
    code, out, err = witness.cosign()
    assert (code, out) == (CAUGHT, "")
    assert "FORKED" in err
    assert witness.state.read_bytes() == seen
    kept = (witness.home / "state.evidence-1").read_text()
    for head in (first, second):
        assert sign(head).decode() in kept
    assert str(KEY) in kept
    # Each time it is said, it is kept.
    assert witness.look()[0] == CAUGHT
    assert (witness.home / "state.evidence-2").is_file()


def test_a_log_that_went_back_is_caught(witness: Witness) -> None:
    publish(witness.log, devices(5))
    witness.look()
    publish(witness.log, devices(4))
    code, _, err = witness.cosign()
    assert code == CAUGHT
    assert "WENT BACK" in err
    assert (witness.home / "state.evidence-1").is_file()


def test_broken_files_are_no_fork(witness: Witness) -> None:
    publish(witness.log, devices(5))
    witness.look()
    seen = witness.state.read_bytes()
    head = publish(witness.log, devices(9))
    tile = witness.log / "tile/0/000.p/9"
    good = tile.read_bytes()
    for content in (good[:-1], bytes(32) + good[32:], b""):
        tile.write_bytes(content)
        code, _, err = witness.cosign()
        assert code == 1
        assert "nothing learned" in err
    tile.unlink()
    assert witness.look()[0] == 1
    tile.write_bytes(good)
    (witness.log / "checkpoint").write_bytes(sign(Checkpoint(origin=ORIGIN, size=9, root=bytes(32))))
    assert witness.look()[0] == 1
    (witness.log / "checkpoint").write_bytes(sign(head)[:-9] + b"AAAAAAA=\n")
    assert witness.look()[0] == 1
    assert witness.state.read_bytes() == seen
    assert not list(witness.home.glob("state.evidence-*"))
    (witness.log / "checkpoint").write_bytes(sign(head))
    assert witness.look()[0] == 0


def test_a_note_of_another_log_under_the_same_key_is_refused(witness: Witness) -> None:
    publish(witness.log, devices(5), origin="example.com/farthing/batches")
    code, _, err = witness.look()
    assert code == 1
    assert "example.com/farthing/batches" in err


def test_a_mirror_grows_and_can_be_witnessed_itself(witness: Witness) -> None:
    copy = witness.home / "copy"

    def mirror() -> int:
        done = CliRunner().invoke(app, ["mirror", "--log", str(KEY), "--from", str(witness.log), "--to", str(copy)])
        return done.exit_code

    for size in (1, 255, 256, 300):
        publish(witness.log, devices(size))
        assert mirror() == 0
        assert witness.look("--entries", place=str(copy))[0] == 0
    held = (copy / "checkpoint").read_bytes()
    shutil.rmtree(witness.log)
    publish(witness.log, other_entries(devices(300)))
    assert mirror() == CAUGHT
    assert (copy / "checkpoint").read_bytes() == held


def test_the_proof_that_is_kept_leads_to_the_new_root(witness: Witness) -> None:
    """Anybody can check from the file alone that the notes contradict each other: the way leads to the new root, and not from the old one."""
    import base64

    first = publish(witness.log, devices(5))
    witness.look()
    shutil.rmtree(witness.log)
    second = publish(witness.log, other_entries(devices(8))[:8])
    witness.look()
    steps = [
        base64.b64decode(line)
        for line in (witness.home / "state.evidence-1").read_text().split("2.1.4) ==\n")[1].splitlines()
    ]
    assert not verify_consistency(first.size, second.size, first.root, second.root, steps)
    from farthing.evidence import merkle

    forked_root = merkle.root(other_entries(devices(8))[:5])
    assert verify_consistency(first.size, second.size, forked_root, second.root, steps)
    assert forked_root != first.root


def test_an_entry_without_a_date_is_told_all_the_same() -> None:
    (dated,) = devices(1)
    assert tell(3, dated).endswith("  1970-01-01T00:00:00+00:00")
    entry = decode(dated)
    assert isinstance(entry, DeviceEntry)
    assert tell(3, replace(entry, at_us=2**62).encode()).endswith(f"  {2**62} µs")
