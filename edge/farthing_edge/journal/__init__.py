"""The journal: everything the gateway decided, in order, before anybody heard of it.

``store`` writes it, ``inspection`` reads it beside a running daemon, ``recovery`` deals with a disk that failed.
Import from the modules; what the rest of the daemon needs by name stands here.
"""

from farthing_edge.journal.errors import JournalBroken as JournalBroken
from farthing_edge.journal.errors import JournalBusy as JournalBusy
from farthing_edge.journal.errors import JournalError as JournalError
from farthing_edge.journal.errors import JournalFull as JournalFull
from farthing_edge.journal.errors import JournalRejected as JournalRejected
from farthing_edge.journal.inspection import Fault as Fault
from farthing_edge.journal.inspection import Report as Report
from farthing_edge.journal.inspection import export as export
from farthing_edge.journal.inspection import show as show
from farthing_edge.journal.inspection import verify as verify
from farthing_edge.journal.store import Entry as Entry
from farthing_edge.journal.store import Group as Group
from farthing_edge.journal.store import Journal as Journal
from farthing_edge.journal.store import StoredBatch as StoredBatch
