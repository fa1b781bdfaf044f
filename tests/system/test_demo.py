"""The demo is the system test: every daemon as a process, real SoftHSM, Mosquitto and PostgreSQL, cut wires, a kill, a clone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: Short, and still long enough for every act: a cut of five seconds, a kill in its middle.
SECONDS = "15"
#: Set-up and closing on a loaded machine.
WITHIN_S = 400

REPORT_KEYS = {
    "devices", "records", "delivered_micros", "journal_micros", "ledger_micros", "payers_micros", "debt_micros",
    "risk_micros", "suspense_micros", "shares_micros", "lost", "doubled", "overspent", "offline_authorizations",
    "refusals", "clones_caught", "kills", "seconds", "checks", "ok",
}  # fmt: skip


def play(out: Path, **settings: str) -> dict[str, Any]:
    finished = subprocess.run(
        [sys.executable, "-m", "farthing_demo"],
        env={**os.environ, "DEMO_SECONDS": SECONDS, "DEMO_OUT": str(out), **settings},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(WITHIN_S + 10)
def test_a_short_run_holds_every_check(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    """Parking, meters and tolls by statistics, the chargers by sessions of a real file."""
    report = play(tmp_path / "demo", DEMO_SEED="7", DEMO_REPLAY=str(shared_data("data/ev_acn_caltech_2020.json.gz")))

    assert report.keys() >= REPORT_KEYS
    assert report["ok"]
    assert all(report["checks"].values())
    assert report["delivered_micros"] == report["journal_micros"] == report["ledger_micros"] > 0
    assert (report["lost"], report["doubled"], report["overspent"]) == (0, 0, 0)
    assert report["kills"] == 1
    assert report["offline_authorizations"] > 0
    assert report["clones_caught"] == 1
    assert report["replay"]["played"] > 0
    assert report["replay"]["rows"] == report["replay"]["played"] + sum(report["replay"]["skipped"].values()) == 2_477
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "every check holds" in page
    # Self-contained: nothing is fetched when it is opened.
    assert "http://" not in page
    assert "https://" not in page
