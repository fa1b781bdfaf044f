"""Tests of the whole system share ``small_town``: every daemon a process, started once a module."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests are not a package: what several of them share is found beside this file.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "crash"))

from small_town import Town, small_town


# Not for the whole session: it holds tokens open, and a process has one PKCS#11 module at a time.
@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """The running town; a test that stops something starts it again."""
    with small_town() as running:
        yield running
