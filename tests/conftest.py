"""What every test may ask for."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Find a file of the shared folder (``../shared`` beside the repository, or ``FARTHING_SHARED``) or skip, saying so."""
    folder = Path(os.environ.get("FARTHING_SHARED") or Path(__file__).resolve().parents[2] / "shared")

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"shared data not there: {path} (set FARTHING_SHARED)")
        return path

    return find
