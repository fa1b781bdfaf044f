"""Contract tests: a fake and the real part pass the same ones."""

import sys
from pathlib import Path

import pytest

# Tests are not a package: what the cloud's and the contract's tests share is found beside them.
sys.path.insert(0, str(Path(__file__).parent.parent / "cloud"))
sys.path.insert(0, str(Path(__file__).parent.parent / "proto"))
sys.path.insert(0, str(Path(__file__).parent.parent / "edge"))

from cloud_database import database_server, database_url, ledger_pool, ledger_template, serving_pool

from farthing_cloud.ledger.store.interface import LedgerStore
from farthing_cloud.ledger.store.memory import MemoryStore
from farthing_cloud.ledger.store.postgres import PostgresStore

__all__ = ["database_server", "database_url", "ledger_pool", "ledger_template", "serving_pool"]


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
def store(request: pytest.FixtureRequest) -> LedgerStore:
    """The ledger's rows, in memory and in PostgreSQL."""
    if request.param == "memory":
        return MemoryStore()
    return PostgresStore(request.getfixturevalue("serving_pool"))
