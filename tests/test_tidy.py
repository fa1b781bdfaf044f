"""House rules that no linter knows."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSES = ("proto", "edge", "cloud", "firmware-sim", "hsm-sim", "demo", "bench", "tests")

# A name that says nothing about the domain hides what is in the room.
NAMELESS = re.compile(r"^(utils?|common|base|helpers?|managers?|misc|services?)$")
# Words that make people think of how it was written instead of what it does.
SUPPRESSION = re.compile(r"#\s*(noqa(?!:\s*[A-Z0-9, ]+\s+\S)|type:\s*ignore(?!\[[\w, -]+\]\s+#\s*\S))")
MONEY_HOUSES = (
    ROOT / "proto/farthing/money.py",
    ROOT / "proto/farthing/tariff",
    ROOT / "proto/farthing/evidence",
    ROOT / "cloud/farthing_cloud/ledger",
    ROOT / "cloud/farthing_cloud/settlement",
    ROOT / "edge/farthing_edge/authorization",
    ROOT / "edge/farthing_edge/metering",
)


def sources(*roots: Path) -> Iterator[Path]:
    """Our own Python files below ``roots``, generated stubs apart."""
    for root in roots:
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            if "_pb2" not in path.name:
                yield path


def every_source() -> list[Path]:
    return [path for path in sources(*(ROOT / house for house in HOUSES)) if path != Path(__file__)]


def test_no_room_has_a_name_that_says_nothing() -> None:
    named = {part for path in every_source() for part in (*path.relative_to(ROOT).parts[:-1], path.stem)}
    assert not {name for name in named if NAMELESS.match(name)}


def test_every_suppression_says_why() -> None:
    """``# noqa: X reason`` and ``# type: ignore[x]  # reason``."""
    silent = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in every_source()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if SUPPRESSION.search(line)
    ]
    assert not silent, "\n".join(silent)


def test_no_test_sleeps() -> None:
    asleep = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources(ROOT / "tests")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\b(time|asyncio)\.sleep\((?!0\))", line)
    ]
    assert not asleep, "wait for a condition instead: " + ", ".join(asleep)


def test_nothing_is_raised_by_a_handler_of_a_group() -> None:
    """Before Python 3.11.4 (Debian 12 has 3.11.2) it would arrive in a group of its own, which no caller waits for."""
    raising = [
        f"{path.relative_to(ROOT)}:{inner.lineno}"
        for path in every_source()
        if "except*" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.TryStar)
        for handler in node.handlers
        for inner in ast.walk(handler)
        if isinstance(inner, ast.Raise)
    ]
    assert not raising, "\n".join(raising)


def test_no_float_near_money() -> None:
    floats = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources(*MONEY_HOUSES)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\bfloat\(|: float\b|-> float\b", line) and "parse_float" not in line
    ]
    assert not floats, "\n".join(floats)


def test_sql_of_the_cloud_lives_in_sql_files() -> None:
    sentence = re.compile(r"""["'](?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE TABLE)\s""")
    inline = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources(ROOT / "cloud")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if sentence.search(line)
    ]
    assert not inline, "\n".join(inline)


def test_the_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    foreign = re.compile(r"/work/(main|shared|notes)|registry\.npmjs|pypi\.org|files\.pythonhosted|repo1\.maven")
    found = []
    for name in tracked:
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name}:{n}" for n, line in enumerate(text.splitlines(), 1) if foreign.search(line)]
    assert not found, found


def test_generated_stubs_are_what_the_proto_files_give(tmp_path: Path) -> None:
    subprocess.run(
        [ROOT / "proto/generate.sh", tmp_path],
        check=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
    )
    committed = ROOT / "proto/farthing/v1"
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "farthing/v1").iterdir()}
    stale = [name for name, body in fresh.items() if (committed / name).read_bytes() != body]
    assert not stale, f"run `make proto`: {stale}"
    assert {path.name for path in committed.glob("*_pb2*")} == set(fresh)


@pytest.mark.parametrize("house", [h for h in HOUSES if h not in ("tests", "bench")])
def test_the_readme_shows_every_house(house: str) -> None:
    assert f"{house}/" in (ROOT / "README.md").read_text()


def test_every_table_says_what_sees_a_change_of_it() -> None:
    page = (ROOT / "docs/what-covers-what.md").read_text()
    named = {name for row in re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    made = {
        name
        for path in (ROOT / "cloud").rglob("*.sql")
        for name in re.findall(r"^CREATE TABLE (?:IF NOT EXISTS )?(\w+)", path.read_text(), re.MULTILINE)
    }
    assert made
    assert named == made


def test_a_decision_has_a_number_of_its_own() -> None:
    """`ADR 12` in the code is one page: its file and its title begin with that number, and no other page has it."""
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    numbers = [int(page.name.partition("-")[0]) for page in pages]
    assert numbers == list(range(1, len(pages) + 1))
    for number, page in zip(numbers, pages, strict=True):
        assert page.read_text().startswith(f"# {number}. "), page.name
