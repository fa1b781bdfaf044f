"""`farthing-edge` as people and the host meet it: started, asked, stopped, and told wrong things."""

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from farthing_hsm_sim.ceremony import Parties, hold
from farthing_hsm_sim.plan import Plan

pytestmark = pytest.mark.real

#: Imports, token and journal on a busy machine.
PATIENCE_S = 60


@pytest.fixture(scope="session")
def ceremony(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return hold(Plan(gateways=("gw-1",), devices=("meter-1",)), tmp_path_factory.mktemp("daemon") / "parties")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def config(ceremony: Parties, tmp_path: Path) -> Path:
    party = ceremony.gateways["gw-1"]
    file = tmp_path / "edge.toml"
    file.write_text(
        f"""\
gateway_id = "gw-1"
state_dir = "{tmp_path}/state"
party = "{party.folder}"
ca_file = "{party.certificates}/ca.pem"
directive_key_file = "{ceremony.cloud.public}/directive.der"
[uplink]
address = "127.0.0.1:{closed_port()}"
[mqtt]
address = "127.0.0.1:{closed_port()}"
[coap]
listen = "127.0.0.1:0"
"""
    )
    return file


def edge(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "farthing_edge.command", *arguments], capture_output=True, text=True, timeout=PATIENCE_S
    )


class Running:
    """A daemon of our own."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.run_file = config.parent / "state" / "run.json"
        self.log = config.parent / "edge.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "farthing_edge.command", "run", "--config", str(config)], stderr=log
            )

    def ready(self) -> dict[str, str]:
        until = time.monotonic() + PATIENCE_S
        while not self.run_file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
        document = json.loads(self.run_file.read_text())
        assert document["pid"] == self.process.pid
        addresses: dict[str, str] = document["addresses"]
        return addresses

    def stop(self) -> float:
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0, self.log.read_text()
        return time.monotonic() - began


@pytest.fixture
def start(config: Path) -> Iterator[Callable[[], Running]]:
    running: list[Running] = []

    def begin() -> Running:
        running.append(Running(config))
        return running[-1]

    yield begin
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait(10)


def get(address: str, page: str) -> Any:
    return httpx.get(f"http://{address}{page}", timeout=5)


def test_alone_it_starts_says_what_it_lacks_and_stops(start: Callable[[], Running], config: Path) -> None:
    """No broker, no cloud: both are worked around, and said."""
    daemon = start()
    addresses = daemon.ready()
    assert set(addresses) == {"http", "coap"}

    health = get(addresses["http"], "/healthz").json()
    assert health["ok"] is True
    assert any(fault.startswith("broker") for fault in health["faults"])
    assert any(fault.startswith("uplink") for fault in health["faults"])
    metrics = get(addresses["http"], "/metrics").text
    assert "farthing_edge_broker_up 0.0" in metrics
    assert "farthing_edge_journal_hours_left " in metrics
    assert 'farthing_edge_refusals_total{number="101",stage="ingress"} 0.0' in metrics

    page = json.loads(edge("status", "--json", "--config", str(config)).stdout)
    assert page["gateway"] == "gw-1"
    assert page["uplink"]["online"] is False
    assert page["journal"]["hours_left"] > 0
    assert page["journal"]["free_bytes"] > 0
    assert "uplink.online" in edge("status", "--config", str(config)).stdout
    verified = json.loads(edge("journal", "verify", "--json", "--config", str(config)).stdout)
    assert verified["fault"] is None
    assert verified["entries"] >= 1
    assert "Started" in edge("journal", "show", "--config", str(config)).stdout
    for out, more, says in (
        (config.parent, (), "is a folder"),
        (config.parent / "none" / "out", (), "cannot be written: No such file or directory"),
        (config.parent / "out", ("--everything",), "say --batches too"),
    ):
        refused = edge("journal", "export", "--config", str(config), "--out", str(out), *more)
        assert (refused.returncode, says in refused.stderr) == (1, True), refused.stderr

    # Budget of the promise is 5 s; what is asserted here is that it comes to an end by itself.
    daemon.stop()
    assert not daemon.run_file.exists()
    assert "not running" in edge("status", "--config", str(config)).stderr
    logged = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    assert {"started", "broker_unreachable", "uplink_down", "stopped"} <= {line["event"] for line in logged}


def test_killed_it_starts_again_with_a_new_start_id(start: Callable[[], Running]) -> None:
    first = start()
    page = get(first.ready()["http"], "/status").json()
    first.process.kill()
    first.process.wait(10)
    first.run_file.unlink()

    second = start()
    again = get(second.ready()["http"], "/status").json()
    assert again["start_id"] != page["start_id"]
    assert again["position"] > page["position"]
    second.stop()


def test_a_second_daemon_on_one_journal_is_refused(start: Callable[[], Running], config: Path) -> None:
    daemon = start()
    daemon.ready()
    refused = edge("run", "--config", str(config))
    assert refused.returncode == 1
    assert "another farthing-edge" in refused.stderr
    # Whoever looks finds the first one still.
    status = edge("status", "--config", str(config))
    assert status.returncode == 0, status.stderr
    daemon.stop()
    assert not (config.parent / "state" / "run.json").exists()


def test_a_damaged_journal_is_no_start_until_it_is_salvaged(start: Callable[[], Running], config: Path) -> None:
    daemon = start()
    daemon.ready()
    in_use = edge("journal", "salvage", "--config", str(config))
    assert in_use.returncode == 1
    assert "another farthing-edge" in in_use.stderr
    daemon.stop()
    with closing(sqlite3.connect(config.parent / "state" / "journal.sqlite")) as connection:
        connection.execute("UPDATE entries SET at_us = at_us + 1 WHERE position = 1")
        connection.commit()
    refused = edge("run", "--config", str(config))
    assert refused.returncode == 1
    assert "damaged at position 1: keep it, and salvage it with `farthing-edge journal salvage`" in refused.stderr
    done = json.loads(edge("journal", "salvage", "--json", "--config", str(config)).stdout)
    assert done["recovered_to"] == 0
    assert Path(done["aside"], "journal.sqlite").exists()
    again = start()
    faults = get(again.ready()["http"], "/status").json()["faults"]
    assert any("salvaged" in fault for fault in faults)
    again.stop()


def refusal(config: Path, **changes: str) -> str:
    text = config.read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    config.write_text(text)
    result = edge("run", "--config", str(config))
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_taken_port_is_said(config: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config.write_text(config.read_text() + f'[http]\nlisten = "127.0.0.1:{port}"\n')
        said = refusal(config)
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "stop what uses it" in said


def test_a_taken_coap_port_is_said(config: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        said = refusal(config, **{'listen = "127.0.0.1:0"': f'listen = "127.0.0.1:{port}"'})
    assert f"cannot listen on 127.0.0.1:{port}" in said


@pytest.fixture
def own_party(ceremony: Parties, config: Path, tmp_path: Path) -> Path:
    """A copy of the gateway's folder to spoil."""
    source = ceremony.gateways["gw-1"].folder
    copy = tmp_path / "party"
    shutil.copytree(source, copy, symlinks=True)
    config.write_text(config.read_text().replace(str(source), str(copy)))
    return copy


def test_a_wrong_pin_is_said(config: Path, own_party: Path) -> None:
    (own_party / "pin").write_text("1234-wrong\n")
    assert "does not hold the PIN" in refusal(config)


def test_a_missing_pin_is_said(config: Path, own_party: Path) -> None:
    (own_party / "pin").unlink()
    assert "no PIN file" in refusal(config)


def test_a_missing_token_is_said(config: Path, own_party: Path, tmp_path: Path) -> None:
    empty = tmp_path / "no-tokens"
    empty.mkdir()
    conf = own_party / "softhsm2.conf"
    lines = [
        f"directories.tokendir = {empty}" if "tokendir" in line else line for line in conf.read_text().splitlines()
    ]
    conf.unlink()
    conf.write_text("\n".join(lines) + "\n")
    assert "no token" in refusal(config)


def test_another_gateways_folder_is_said(config: Path) -> None:
    assert "gateway_id is 'gw-9'" in refusal(config, **{'"gw-1"\nstate': '"gw-9"\nstate'})


def test_a_directive_key_that_is_none_is_said(config: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.der").write_bytes(b"no key")
    text = config.read_text()
    old = next(line for line in text.splitlines() if line.startswith("directive_key_file"))
    assert "copy <cloud's party>/public/directive.der" in refusal(config, **{old: 'directive_key_file = "wrong.der"'})


def test_an_unknown_key_is_said(config: Path) -> None:
    config.write_text(config.read_text() + "surprise = 1\n")
    assert "unknown key coap.surprise" in refusal(config)


def test_the_broker_command_writes_what_mosquitto_takes(config: Path, tmp_path: Path) -> None:
    folder, port = tmp_path / "broker", closed_port()
    done = edge("broker", "--config", str(config), "--listen", f"127.0.0.1:{port}", "--directory", str(folder))
    assert done.returncode == 0, done.stderr
    program, *arguments = done.stdout.split()
    assert (Path(program).name, arguments) == ("mosquitto", ["-c", str(folder / "mosquitto.conf")])
    written = (folder / "mosquitto.conf").read_text()
    for must in (
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
        "per_listener_settings true",
    ):
        assert must in written
    acl = (folder / "acl").read_text()
    assert "pattern write farthing/%u/up" in acl
    assert "pattern read farthing/%u/down" in acl
    key = Path(next(line for line in written.splitlines() if line.startswith("keyfile")).split()[1])
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_client_certificate_is_for_known_devices_only(config: Path, tmp_path: Path) -> None:
    def ask(device: str, *more: str) -> "subprocess.CompletedProcess[str]":
        return edge(
            "client-certificate",
            "--config",
            str(config),
            "--device",
            device,
            "--directory",
            str(tmp_path / device),
            *more,
        )

    unknown = ask("meter-1")
    assert unknown.returncode == 1
    made = ask("meter-1", "--unchecked", "--json")
    assert made.returncode == 0, made.stderr
    assert all(Path(json.loads(made.stdout)[name]).exists() for name in ("key_file", "certificate_file", "ca_file"))
    several = ask("meter-1", "--device", "meter-2", "--unchecked", "--json")
    assert several.returncode == 0, several.stderr
    written = json.loads(several.stdout)
    assert set(written) == {"meter-1", "meter-2"}
    for name, files in written.items():
        assert f"/{name}/" in files["certificate_file"]
        assert Path(files["certificate_file"]).exists()
    for taken in ("gateway", "broker"):
        assert "no device may be called so" in ask(taken, "--unchecked").stderr


#: A bug that ends the run, while a thread that is no daemon lives on: gRPC keeps one.
A_BUG = """
import sys, threading
from farthing_edge import command, gateway

def broken(config):
    threading.Thread(target=threading.Event().wait).start()
    raise RuntimeError("a bug")

gateway.run_gateway = broken
command.app(["run", "--config", sys.argv[1]])
"""


def test_a_bug_ends_the_process_whatever_threads_it_has(config: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", A_BUG, str(config)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "RuntimeError: a bug" in ended.stderr
