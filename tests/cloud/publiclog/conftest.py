"""Tests of the public log share what lies beside this file."""

import sys
from pathlib import Path

# Tests are not a package.
sys.path.insert(0, str(Path(__file__).parent))
