"""Tests of other implementations against ours share the edge's engine that records."""

import sys
from pathlib import Path

# Tests are not a package: what several of them share is found beside those it was written for.
sys.path.insert(0, str(Path(__file__).parent.parent / "edge"))
