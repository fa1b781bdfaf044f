"""Tests of the cloud share an embedded PostgreSQL and the worked example's batches."""

import sys
from pathlib import Path

# Tests are not a package: what several of them share is found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from cloud_database import database_server, database_url, ledger_pool

__all__ = ["database_server", "database_url", "ledger_pool"]
