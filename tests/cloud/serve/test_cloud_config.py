"""cloud.toml: what is wrong with it is said by key, with what to do, and never with a secret."""

from pathlib import Path

import pytest

from farthing.configuration import ConfigError
from farthing_cloud.config import load_config
from farthing_cloud.database import DatabaseError, describe, with_password


def write(folder: Path, text: str) -> Path:
    (folder / "cloud").mkdir(exist_ok=True)
    (folder / "ca.pem").write_text("")
    (folder / "password").write_text("hunter2")
    (folder / "password").chmod(0o600)
    path = folder / "cloud.toml"
    path.write_text(text)
    return path


WHOLE = """
state_dir = "state"
party = "cloud"
ca_file = "ca.pem"
[database]
embedded = true
"""


def test_a_small_file_is_enough_and_paths_are_beside_it(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, WHOLE))
    assert config.state_dir == tmp_path / "state"
    assert config.database.data_dir == tmp_path / "state" / "postgresql"
    assert config.door.listen == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WHOLE + 'dir = "x"\n', "unknown key database.dir: remove it or correct its name"),
        (WHOLE + "[legder]\n", "unknown key legder"),
        (WHOLE.replace('state_dir = "state"\n', ""), "state_dir is missing: add it"),
        (WHOLE.replace('"cloud"', '"nobody"'), "nobody does not exist; it names a folder made by: farthing-hsm-sim"),
        (WHOLE.replace('"ca.pem"', '"no.pem"'), "no.pem does not exist"),
        (WHOLE.replace("embedded = true", ""), 'say either embedded = true or url = "postgresql://…"'),
        (WHOLE.replace("embedded = true", 'embedded = true\nurl = "postgresql://x"'), "say either"),
        (WHOLE + '[door]\nlisten = "8443"\n', 'door.listen: write it as "host:port"'),
        (WHOLE + '[door]\nlisten = "h:70000"\n', 'door.listen: write it as "host:port"'),
        (WHOLE + "[clock]\nrate = 900\n", "need simulation = true"),
        (WHOLE + "[clock]\nsimulation = true\n", "a simulation needs epoch_us and real_epoch_us"),
        (WHOLE + "[ledger]\nquota_share_ppm = 0\n", "ledger.quota_share_ppm"),
        (WHOLE + '[log]\nlevel = "loud"\n', "log.level"),
        ("state_dir = ", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert words in str(caught.value)
    assert str(tmp_path / "cloud.toml") in str(caught.value)


def test_readers_of_the_outbox_are_a_list_of_names(tmp_path: Path) -> None:
    more = '[ledger]\nevent_readers = ["fraud", "publiclog"]\n'
    assert load_config(write(tmp_path, WHOLE + more)).ledger.event_readers == ("fraud", "publiclog")
    assert load_config(write(tmp_path, WHOLE + "[ledger]\nevent_readers = []\n")).ledger.event_readers == ()
    for wrong in ('["no one"]', "[1]", '"fraud"'):
        with pytest.raises(ConfigError, match=r"ledger\.event_readers"):
            load_config(write(tmp_path, f"{WHOLE}[ledger]\nevent_readers = {wrong}\n"))


def test_no_file_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "cloud.toml")


def test_a_secret_is_a_file_that_others_may_not_read(tmp_path: Path) -> None:
    text = WHOLE.replace("embedded = true", 'url = "postgresql://f@db/f"\npassword_file = "password"')
    config = load_config(write(tmp_path, text))
    assert config.database.url is not None
    url = with_password(config.database.url, config.database.password_file)
    assert "hunter2" in url
    assert "hunter2" not in describe(url)
    (tmp_path / "password").chmod(0o644)
    with pytest.raises(DatabaseError, match="others may read"):
        with_password(config.database.url, config.database.password_file)
    with pytest.raises(ConfigError, match=r"unknown key database\.password:"):
        load_config(write(tmp_path, text + 'password = "hunter2"'))
