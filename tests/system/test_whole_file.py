"""Two days of a council's charging, every row of them, through two gateways to the ledger."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WITHIN_S = 400


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(WITHIN_S + 10)
def test_a_slice_of_a_file_arrives_whole(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    settings = {
        "DEMO_REPLAY": str(shared_data("data/ev_perth_kinross.csv.gz")),
        "DEMO_REPLAY_ALL": "1",
        # One of its rows says 127 kW: more than the station was thought to give.
        "DEMO_REPLAY_FROM": "2018-11-27",
        "DEMO_REPLAY_TO": "2018-11-29",
        "DEMO_OUT": str(tmp_path / "demo"),
    }
    finished = subprocess.run(
        [sys.executable, "-m", "farthing_demo"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report["ok"]
    assert report["checks"]["file_is_delivered"]
    assert report["replay"]["rows"] == 32_711 == report["replay"]["played"] + sum(report["replay"]["skipped"].values())
    assert report["replay"]["played"] > 100
    assert report["delivered_micros"] == report["journal_micros"] == report["ledger_micros"] > 0
