"""What tests of the journal share stands beside them (``varied_day``)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
