"""What the ledger counts."""

from prometheus_client import Counter, Histogram

BATCHES = Counter("farthing_ledger_batches", "Batches that arrived at the door, by what became of them.", ("outcome",))
LINES_PARKED = Counter("farthing_ledger_lines_parked", "Lines that could not be understood.")
QUOTA_ANSWERS = Counter("farthing_ledger_quota_answers", "Quota requests answered, by answer.", ("answer",))
HELLOS = Counter("farthing_ledger_hellos", "Gateways that introduced themselves, by what they heard.", ("outcome",))
EVIDENCE = Counter("farthing_ledger_evidence", "Details of batches checked, by what came out.", ("outcome",))
DIRECTIVES_SIGNED = Counter("farthing_ledger_directives_signed", "Directives signed.")
POSTING_SECONDS = Histogram("farthing_ledger_posting_seconds", "From a verified batch to its commit.")
LINES = Counter("farthing_ledger_lines", "Lines of posted batches, parked ones included.")
