"""Tests of the cloud share an embedded PostgreSQL and the worked example's batches."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

# Tests are not a package: what several of them share is found beside this file.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "proto"))

from cloud_database import database_server, database_url, ledger_pool, ledger_template

__all__ = ["database_server", "database_url", "ledger_pool", "ledger_template"]


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for a condition; the test's own time limit ends what never comes."""

    async def wait(condition: Callable[[], Any]) -> None:
        while True:
            result = condition()
            if hasattr(result, "__await__"):
                result = await result
            if result:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()

    return wait
