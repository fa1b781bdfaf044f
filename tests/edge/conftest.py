"""Tests of the edge share ``edge_playbook``: a gateway's core driven like a conversation."""

import sys
from pathlib import Path

# Tests are not a package: what several of them share is found beside this file.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "proto"))
