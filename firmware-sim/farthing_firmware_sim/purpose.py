"""What a fleet is started for. Alone, so that a command can say it without loading what a fleet needs."""

from enum import Enum, auto


class Purpose(Enum):
    """What a fleet is started for."""

    #: Serve until told to finish or stop.
    SERVE = auto()
    #: A clone: serve until all its uses are spent.
    SPEND = auto()
    #: Only what is asked at the desk, then stop.
    ATTEMPT = auto()
    #: Only the rows of a file, then finish.
    REPLAY = auto()
