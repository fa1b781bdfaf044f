"""What tests of crashes and of disks share stands beside them (``lying_disk``), and beside the edge's tests."""

import sys
from pathlib import Path

for _place in (
    Path(__file__).parent,
    Path(__file__).parents[1] / "edge",
    Path(__file__).parents[1] / "edge" / "journal",
):
    sys.path.insert(0, str(_place))
