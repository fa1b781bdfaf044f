"""What can go wrong with the journal: each message says what is wrong and what to do."""


class JournalError(Exception):
    """The journal cannot be used as it stands."""


class JournalBusy(JournalError):
    """Another daemon uses it."""


class JournalBroken(JournalError):
    """Writing failed for I/O: nothing that rests on the last commit may be said. The process must stop."""


class JournalFull(JournalError):
    """The disk is full and the reserve is used up. Nothing was written."""


class JournalRejected(JournalError):
    """The database refused a group for what is in it. Nothing was written."""
