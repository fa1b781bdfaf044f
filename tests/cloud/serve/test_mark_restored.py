"""``farthing-cloud mark-restored``: a restored database is stopped before anything serves it."""

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from farthing_cloud.command import app

pytestmark = pytest.mark.real


def config(folder: Path, url: str) -> Path:
    (folder / "cloud").mkdir()
    (folder / "ca.pem").write_text("")
    path = folder / "cloud.toml"
    path.write_text(f'state_dir = "state"\nparty = "cloud"\nca_file = "ca.pem"\n[database]\nurl = "{url}"\n')
    return path


def epoch(url: str) -> tuple[int, str, str]:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT epoch, state, why FROM ledger.epoch").fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def say(path: Path, reason: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["mark-restored", "--config", str(path), "--reason", reason])
    return result.exit_code, result.output


def test_a_restored_database_is_stopped_before_anything_serves_it(tmp_path: Path, database_url: str) -> None:
    parts = conninfo_to_dict(database_url)
    path = config(tmp_path, f"postgresql://{parts['user']}@/{parts['dbname']}?host={parts['host']}")
    assert epoch(database_url) == (1, "open", "")
    code, said = say(path, "db-1 died, restored to 12:04")
    assert (code, "stopped in epoch 1" in said, "restored propose" in said) == (0, True, True)
    stopped = (1, "stopped", "said before the start: db-1 died, restored to 12:04")
    assert epoch(database_url) == stopped
    # Once more, by another: who said it first stays.
    assert say(path, "again")[0] == 0
    assert epoch(database_url) == stopped
    assert say(path, "")[0] == 2


def test_without_a_database_nothing_is_said_to_be_done(tmp_path: Path) -> None:
    code, said = say(config(tmp_path, "postgresql://nobody@127.0.0.1:1/none"), "restored")
    assert (code, "stopped" in said) == (1, False)
