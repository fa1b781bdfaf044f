"""Contract tests: a fake and the real part pass the same ones."""

import sys
from pathlib import Path

# Tests are not a package: what the cloud's tests share is found beside them.
sys.path.insert(0, str(Path(__file__).parent.parent / "cloud"))

from cloud_database import database_server, database_url, ledger_pool

__all__ = ["database_server", "database_url", "ledger_pool"]
