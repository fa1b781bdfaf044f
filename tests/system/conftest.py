"""Tests of the whole system share ``small_town``: every daemon a process, started once."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests are not a package: what several of them share is found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from small_town import Town, small_town


@pytest.fixture(scope="session")
def town() -> Iterator[Town]:
    """The running town; a test that stops something starts it again."""
    with small_town() as running:
        yield running
