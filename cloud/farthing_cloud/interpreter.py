"""How a process of the cloud wants its Python: threads that wait briefly, a collector that looks rarely."""

import gc
import sys
from typing import Final

#: Longest that the event loop waits for the interpreter while a thread parses or plans a batch, seconds. Python's own 5 ms, at each of the
#: answers of the database, is more than most of them take.
SWITCH_INTERVAL_S: Final = 0.001
#: New objects between two looks of the collector, and how many of the smaller looks come before a larger one. A batch is thousands of
#: tuples, gone by their count when it is posted, and several are in hand at once: 100,000 objects, which a look would walk for nothing (with
#: 20,000 that was a tenth of the service's processor time). What lies in circles is looked for all the same, only later.
COLLECTOR_THRESHOLDS: Final = (200_000, 20, 20)


def set_interpreter() -> None:
    """Set both, for the whole process; before the event loop begins."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
