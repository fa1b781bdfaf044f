"""Parts of the cloud die while devices go on: authorizing does not stop, and afterwards nothing is lost or doubled."""

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from small_town import CALL_TIMEOUT_S, CLERK, FARE_MICROS, OPERATOR, SPARE, Town, postmaster

from farthing.device.messages import AnswerStatus
from farthing.v1 import ledger_pb2, ledger_pb2_grpc

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def fare(town: Town) -> int:
    """A passage, granted: what it costs."""
    pass_often(town, 1)
    return FARE_MICROS


def pass_often(town: Town, times: int) -> None:
    """Passages, each granted."""
    spare = town.speaker(SPARE)
    assert {spare.pass_once().status for _ in range(times)} == {AnswerStatus.GRANTED}


def test_postgresql_gone_costs_nothing(town: Town) -> None:
    before = town.assert_books_agree()
    pass_often(town, 20)
    dead = postmaster(town.data_dir)
    os.kill(dead, signal.SIGKILL)
    pass_often(town, 20)
    done = town.try_admin("operators", "list")
    assert done.returncode == 0 or "database is out of reach" in done.stderr
    assert town.assert_books_agree() == before + 40 * FARE_MICROS
    assert postmaster(town.data_dir) != dead


@pytest.mark.parametrize("database_too", [False, True], ids=["its database left running", "with its database"])
def test_a_killed_cloud_takes_up_where_it_was(town: Town, database_too: bool) -> None:
    before = town.assert_books_agree()
    pass_often(town, 5)
    left = postmaster(town.data_dir)
    town.cloud.kill()
    if database_too:
        os.kill(left, signal.SIGKILL)
    done = town.try_admin("operators", "list")
    assert (done.returncode, "the back office does not answer: start it" in done.stderr) == (1, True)
    pass_often(town, 5)
    town.cloud.start()
    pass_often(town, 5)
    town.cloud.ready()
    assert (postmaster(town.data_dir) == left) is not database_too
    assert town.assert_books_agree() == before + 15 * FARE_MICROS


def epoch(town: Town) -> ledger_pb2.ShowEpochResponse:
    with town.channel(town.parties.people[CLERK].folder, town.addresses["back_office"]) as channel:
        return ledger_pb2_grpc.LedgerStub(channel).ShowEpoch(ledger_pb2.ShowEpochRequest(), timeout=CALL_TIMEOUT_S)


def open_quotas(town: Town) -> set[str]:
    with town.channel(town.parties.people[CLERK].folder, town.addresses["back_office"]) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ListQuotas(
            ledger_pb2.ListQuotasRequest(operator_id=OPERATOR, open_only=True), timeout=CALL_TIMEOUT_S
        )
    return {quota.quota_id for quota in answer.quotas}


def back_up(town: Town, folder: Path) -> int:
    """A base backup with the log it needs, file by file while devices go on; what was used meanwhile."""
    used = 0
    folder.mkdir(mode=0o700)
    with psycopg.connect(host=str(town.data_dir), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute("SELECT pg_backup_start('test', true)")
        for number, entry in enumerate(sorted(town.data_dir.iterdir())):
            if entry.is_dir():
                shutil.copytree(entry, folder / entry.name, copy_function=_copy_if_there)
            elif entry.is_file() and entry.name not in ("postmaster.pid", "postmaster.opts"):
                _copy_if_there(entry, folder / entry.name)
            if number % 4 == 0:
                used += fare(town)
        stopped = connection.execute("SELECT labelfile FROM pg_backup_stop()").fetchone()
    assert stopped is not None
    (folder / "backup_label").write_text(stopped[0])
    # The log until the backup's end, and not a byte of what comes after.
    shutil.rmtree(folder / "pg_wal")
    shutil.copytree(town.data_dir / "pg_wal", folder / "pg_wal", copy_function=_copy_if_there)
    return used


def _copy_if_there(source: str | Path, target: str | Path) -> None:
    """A file may go while the server works: then the log says so."""
    with suppress(FileNotFoundError):
        shutil.copyfile(source, target)


def put_back(town: Town, backup: Path) -> None:
    """Replace the database by its backup, as whoever restores it does."""
    town.cloud.kill()
    os.kill(postmaster(town.data_dir), signal.SIGQUIT)
    owner = town.data_dir.stat()
    town.data_dir.rename(town.folder / "postgresql.lost")
    for path in (backup, *backup.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    backup.rename(town.data_dir)
    town.cloud.start()
    town.cloud.ready()


@pytest.mark.timeout(240)  # two starts of the cloud, and people at their commands
def test_a_base_backup_taken_mid_traffic_loses_nothing(town: Town) -> None:
    before = town.assert_books_agree()
    used = fare(town)
    backup = town.folder / "backup"
    used += back_up(town, backup)
    # What the backup does not have: receipts, a recall, a grant that is spent from.
    known = open_quotas(town)
    town.admin("quotas", "recall", "--operator", OPERATOR, "--reason", "to be lost")
    while not (fresh := open_quotas(town) - known):
        used += fare(town)
    (lost,) = fresh
    used += fare(town) + fare(town)
    assert town.assert_books_agree() == before + used

    put_back(town, backup)
    assert lost not in open_quotas(town)
    # Devices notice nothing; the gateway's hello proves it, and the ledger stops.
    used += fare(town)
    town.until(lambda: epoch(town).state == "stopped", "the ledger to find out")
    assert "gw-1 has proven it" in epoch(town).why
    done = town.try_admin(
        "corrections",
        "goodwill",
        "acme",
        "--operator",
        OPERATOR,
        "--amount",
        "1.00",
        "--id",
        "gift-1",
        "--reason",
        "none",
    )
    assert (done.returncode, "the ledger was restored from a backup" in done.stderr) == (1, True), done.stderr

    proposed = town.admin("ledger", "restored", "propose", "--operator", OPERATOR, "--reason", "disk died")
    town.admin(
        "ledger", "restored", "approve", proposed["decision_id"], "--content-hash", proposed["content_hash"],
        person="checker",
    )  # fmt: skip
    town.until(lambda: epoch(town).state == "open", "the gateway to rewind")
    used += fare(town)
    assert town.assert_books_agree() == before + used
    now = town.admin("ledger", "epoch")
    (gateway,) = now["gateways"]
    assert (now["ledger_epoch"], gateway["standing"], gateway["short_micros"]) == (2, "rewound", 0)
    assert gateway["quotas"] >= 1
    assert gateway["posted_sequence"] >= gateway["receipted_sequence"] > 0
