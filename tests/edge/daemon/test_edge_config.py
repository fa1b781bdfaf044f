"""edge.toml: strict, and every message says what to do."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from farthing.configuration import ConfigError
from farthing_edge.config import TokenSection, load_config
from farthing_edge.doctor import examine

GOOD = """\
gateway_id = "gw-1"
state_dir = "state"
party = "party"
ca_file = "ca.pem"
directive_key_file = "directive.der"
[uplink]
address = "127.0.0.1:4000"
[mqtt]
address = "127.0.0.1:8883"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "party").mkdir()
    (tmp_path / "ca.pem").write_text("pem")
    (tmp_path / "directive.der").write_bytes(b"der")
    return tmp_path


def load(folder: Path, text: str) -> object:
    file = folder / "edge.toml"
    file.write_text(text)
    return load_config(file)


def test_a_good_one_is_read_and_its_paths_are_beside_it(folder: Path) -> None:
    (folder / "edge.toml").write_text(GOOD)
    config = load_config(folder / "edge.toml")
    assert config.party == folder / "party"
    assert config.journal_file == folder / "state" / "journal.sqlite"
    assert config.uplink.batches_in_flight > 0


def test_the_brokers_socket_is_beside_it_too(folder: Path) -> None:
    (folder / "edge.toml").write_text(GOOD + 'socket = "way-in/s"\n')
    section = load_config(folder / "edge.toml").mqtt
    assert section is not None
    assert section.place == str(section.socket) == str(folder / "way-in" / "s")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text + "[limits]\npeer_rat_per_s = 3\n", "unknown key limits.peer_rat_per_s"),
        (lambda text: text.replace('gateway_id = "gw-1"\n', ""), "gateway_id is missing: add it"),
        (lambda text: text.replace("gw-1", "gw/1"), "gateway_id: an id is 1 to 64 letters"),
        (lambda text: text.replace("[uplink]\naddress", "[uplink]\nmax_backoff_s"), "uplink.address is missing"),
        (lambda text: text.replace("127.0.0.1:4000", "localhost"), 'uplink.address: write it as "host:port"'),
        (lambda text: text.split("[mqtt]", maxsplit=1)[0], r"add a section \[mqtt\] or \[coap\]"),
        (lambda text: text + "[clock]\nrate = 900\n", "need simulation = true"),
        (lambda text: text.replace('"party"', '"elsewhere"'), "party: .*elsewhere does not exist; it names .*ceremony"),
        (lambda text: text.replace("directive.der", "pin.der"), "directive_key_file: .* does not exist"),
        (lambda text: text.replace("ca.pem", "root.pem"), "ca_file: .* does not exist"),
        (lambda text: text + f'socket = "{"long/" * 30}s"\n', "mqtt.socket: .* is longer than 107 bytes"),
        (lambda text: text + "[[", "not TOML"),
    ],
)
def test_a_bad_one_is_no_start_and_says_why(folder: Path, change: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(folder, change(GOOD))  # type: ignore[operator]  # a row's function


def test_no_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("witness", "module", "verdict"),
    [
        (False, "libsofthsm2.so", "note"),
        (False, "libhardware.so", "note"),
        (True, "libsofthsm2.so", "wrong"),
        (True, "libhardware.so", "ok"),
    ],
)
def test_the_doctor_says_whether_the_token_is_a_witness(witness: bool, module: str, verdict: str) -> None:
    config = SimpleNamespace(token=TokenSection(witness=witness))
    party = SimpleNamespace(module_path=Path("/usr/lib") / module)
    (finding,) = examine(config, party)  # type: ignore[arg-type]  # of both it asks only this
    assert finding.verdict == verdict
    assert "witness" in finding.what or "remembers" in finding.what


def test_entries_are_kept_at_least_as_long_as_a_restored_ledger_asks_for_them(folder: Path) -> None:
    with pytest.raises(ConfigError, match="retention_days is at least backup_horizon_days"):
        load(folder, GOOD + "[journal]\nretention_days = 30\n")
    assert load(folder, GOOD + "[journal]\nretention_days = 30\nbackup_horizon_days = 7\n")
