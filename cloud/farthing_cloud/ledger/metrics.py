"""What the ledger counts."""

from prometheus_client import Counter, Gauge, Histogram

PARKED_STATEMENTS = Counter(
    "farthing_ledger_parked_statements",
    "Statements that gateways could not take and batches brought: people decide about them.",
)
BATCHES = Counter("farthing_ledger_batches", "Batches that arrived at the door, by what became of them.", ("outcome",))
EVENTS_PRUNED = Counter("farthing_ledger_events_pruned", "Outbox rows taken away: old, and passed by every reader.")
LINES_PARKED = Counter("farthing_ledger_lines_parked", "Lines that could not be understood.")
QUOTA_ANSWERS = Counter("farthing_ledger_quota_answers", "Quota requests answered, by answer.", ("answer",))
HELLOS = Counter("farthing_ledger_hellos", "Gateways that introduced themselves, by what they heard.", ("outcome",))
EVIDENCE = Counter("farthing_ledger_evidence", "Details of batches checked, by what came out.", ("outcome",))
DIRECTIVES_SIGNED = Counter("farthing_ledger_directives_signed", "Directives signed.")
POSTING_SECONDS = Histogram("farthing_ledger_posting_seconds", "From a verified batch to its commit.")
COLLISIONS = Counter(
    "farthing_ledger_collisions",
    "Transactions that PostgreSQL undid because of another one, and that were done again; normally none.",
    ("kind",),
)
LINES = Counter("farthing_ledger_lines", "Lines of posted batches, parked ones included.")
MAXIMUM_LOSS = Gauge(
    "farthing_ledger_maximum_loss_micros",
    "The most that a gateway could cost now (docs/architecture.md, Maximum loss now); add up for a site or an operator.",
    ("operator", "site", "gateway", "currency", "part"),
)
LATE = Gauge(
    "farthing_ledger_late_micros",
    "Ever billed on quotas beyond what was held for them: after a forced void, a rollback or silence.",
    ("operator", "site", "gateway", "currency"),
)
GATEWAYS_WAITING = Gauge(
    "farthing_ledger_gateways_waiting", "Gateways about which people have to decide.", ("operator",)
)
LEDGER_OPEN = Gauge(
    "farthing_ledger_open",
    "1 while the ledger grants and pays; 0 while it is stopped or restoring after a backup was restored.",
)
POSTINGS_LEFT = Gauge(
    "farthing_ledger_postings_left",
    "Postings that find a partition ready for their transfers; at 0 nothing more is posted. The serving ledger makes them ahead.",
)
SILENCED = Counter(
    "farthing_ledger_quotas_silenced", "Quotas looked at because their gateway has been silent for too long."
)


def collisions() -> dict[str, int]:
    """How many of each kind there were in this process, none left out that happened."""
    samples = (sample for metric in COLLISIONS.collect() for sample in metric.samples)
    return {each.labels["kind"]: int(each.value) for each in samples if each.name.endswith("_total") and each.value}
