"""The benches' pictures are SVG that a browser can read, with what they show and the budget in words."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import pictures
from bench.pictures import Mark, bars, histogram, over_time


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pictures, "FOLDER", tmp_path)
    return tmp_path


def words(file: Path) -> Iterator[str]:
    for each in ET.fromstring(file.read_text()).iter():
        if each.text and each.text.strip():
            yield each.text.strip()


def inside(file: Path) -> bool:
    """Whether every text, line and bar begins within the picture."""
    return all(
        0 <= float(each.get(name, "0")) <= most
        for each in ET.fromstring(file.read_text()).iter()
        for name, most in (
            ("x", pictures.WIDTH),
            ("x1", pictures.WIDTH),
            ("y", pictures.HEIGHT),
            ("y1", pictures.HEIGHT),
        )
    )


def test_a_histogram_names_its_series_its_axis_and_its_budget(folder: Path) -> None:
    file = histogram(
        "E1", "E1: <authorize>", {"authorize": [0.002, 0.004, 9.0], "echo": [0.001]}, marks=(Mark("budget p99", 10.0),)
    )
    assert file == folder / "E1.svg"
    found = set(words(file))
    assert {"E1: <authorize>", "authorize", "echo", "milliseconds (logarithmic)", "budget p99 10 ms"} <= found
    assert inside(file)


def test_values_over_time_have_seconds_a_unit_and_a_budget(folder: Path) -> None:
    file = over_time("m", "memory", {"edge": [(0.0, 90.0), (10.0, 95.0)]}, unit="MB", budget=120.0)
    assert {"seconds", "MB", "budget 120 MB", "edge", "10"} <= set(words(file))
    assert inside(file)


def test_bars_show_their_values_beside_the_budget(folder: Path) -> None:
    file = bars("E4", "ticks", {"E4": 400_000.0, "floor of E4": 900_000.0}, unit="1/s", budget=300_000.0)
    assert {"400,000", "900,000", "budget 300,000 1/s", "floor of E4"} <= set(words(file))
    assert inside(file)
