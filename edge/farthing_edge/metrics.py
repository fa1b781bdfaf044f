"""Everything this daemon counts, under one registry (Prometheus)."""

import math
from collections.abc import Callable, Mapping
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from farthing.device.messages import AnswerStatus
from farthing.refusal import Refusal
from farthing_edge.engine.view import ClockView

#: Around the budget of an authorization (p50 a few milliseconds, p99 10 ms), and up to the wait for a quota.
_ANSWER_BUCKETS_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Counters and gauges, named with their unit; labels come from closed sets only."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        #: Counted for every message: a child's way through its labels is several times as dear as counting.
        self.statements_of: Callable[[str], Counter] = cache(lambda channel: self.statements.labels(channel))
        self.answers_of: Callable[[str, AnswerStatus], Counter] = cache(
            lambda channel, status: self.answers.labels(channel, status.name.lower())
        )
        self.ticks_of: Callable[[str], Counter] = cache(lambda channel: self.ticks.labels(channel))
        registry = self.registry
        self.ticks = Counter("farthing_edge_ticks", "Ticks that arrived", ("channel",), registry=registry)
        self.ticks_dropped = Counter(
            "farthing_edge_ticks_dropped",
            "Ticks over a rate or without room; the next one proves them",
            registry=registry,
        )
        self.ticks_answered = Counter(
            "farthing_edge_ticks_answered", "Answers to ticks by status", ("status",), registry=registry
        )
        self.statements = Counter("farthing_edge_statements", "Envelopes that arrived", ("channel",), registry=registry)
        self.answers = Counter("farthing_edge_answers", "Answers by status", ("channel", "status"), registry=registry)
        self.refusals = Counter(
            "farthing_edge_refusals",
            "Noes by number; stage is where it was said: ingress (nothing verified) or engine",
            ("stage", "number"),
            registry=registry,
        )
        self.unverified = Counter(
            "farthing_edge_unverified", "Messages that nobody could verify", ("channel",), registry=registry
        )
        self.answer_seconds = Histogram(
            "farthing_edge_answer_seconds",
            "From the arrival of an envelope to its answer",
            buckets=_ANSWER_BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge(
            "farthing_edge_statements_in_flight", "Statements between arrival and answer", registry=registry
        )
        self.answers_lost = Counter(
            "farthing_edge_answers_lost",
            "Answers that did not reach the broker; the device asks again",
            registry=registry,
        )
        self.turned_away = Counter(
            "farthing_edge_turned_away",
            "Messages over their peer's rate that were dropped unread: it was told when to come again a moment ago",
            registry=registry,
        )
        self.broker_up = Gauge("farthing_edge_broker_up", "1 while the broker is connected", registry=registry)
        self.handshakes = Counter(
            "farthing_edge_edhoc_handshakes",
            "EDHOC handshakes by outcome",
            ("outcome",),
            registry=registry,
        )
        self.contexts = Gauge("farthing_edge_oscore_contexts", "Security contexts of devices", registry=registry)
        self.half_open = Gauge("farthing_edge_edhoc_half_open", "Handshakes waiting for message_3", registry=registry)
        self.uplink_up = Gauge("farthing_edge_uplink_up", "1 while the cloud answers", registry=registry)
        self.uplink_breaks = Counter(
            "farthing_edge_uplink_breaks", "Sessions with the cloud that ended", ("cause",), registry=registry
        )
        self.directives = Counter("farthing_edge_directives", "Directives taken over", registry=registry)
        self.directives_refused = Counter(
            "farthing_edge_directives_refused", "Directives and heads that did not verify", registry=registry
        )
        self.batches_sent = Counter("farthing_edge_batches_sent", "Batches sent, replays included", registry=registry)
        self.sent_bytes = Counter(
            "farthing_edge_uplink_sent_bytes",
            "What went up, before TLS",
            ("what",),
            registry=registry,
        )
        self.backlog_batches = Gauge(
            "farthing_edge_uplink_backlog_batches", "Sealed and not receipted", registry=registry
        )
        self.backlog_bytes = Gauge(
            "farthing_edge_uplink_backlog_bytes",
            "Sealed and not receipted, by the mean size of the batches receipted since the start",
            registry=registry,
        )
        self.drain_seconds = Gauge(
            "farthing_edge_uplink_drain_seconds",
            "Until the backlog is receipted, at the rate of the last minute; +Inf while nothing moves",
            registry=registry,
        )
        self.receipts = Counter("farthing_edge_receipts", "Receipts that verified", registry=registry)
        self.evidence = Counter(
            "farthing_edge_evidence", "Details of batches uploaded", ("verified",), registry=registry
        )
        self.state = Gauge(
            "farthing_edge_state", "What the gateway knows and holds, by name", ("what",), registry=registry
        )
        self.position = Gauge("farthing_edge_journal_position", "The last entry's position", registry=registry)
        self.sealed = Gauge("farthing_edge_sealed_sequence", "The last batch sealed", registry=registry)
        self.receipted = Gauge("farthing_edge_receipted_sequence", "The last batch receipted", registry=registry)
        self.directive_version = Gauge(
            "farthing_edge_directive_version", "The last directive obeyed", registry=registry
        )
        self.snapshot_position = Gauge(
            "farthing_edge_journal_snapshot_position", "The newest snapshot's position", registry=registry
        )
        self.pruned_position = Gauge(
            "farthing_edge_journal_pruned_position", "Entries up to here were taken away", registry=registry
        )
        self.journal_growth = Gauge(
            "farthing_edge_journal_bytes_per_hour", "How fast the journal grows, over the last hour", registry=registry
        )
        self.journal_free = Gauge("farthing_edge_journal_free_bytes", "Free on the journal's disk", registry=registry)
        self.hours_left = Gauge(
            "farthing_edge_journal_hours_left",
            "Hours until the journal's disk is full at the present rate; +Inf while nothing is written",
            registry=registry,
        )
        self.clock_trusted = Gauge(
            "farthing_edge_clock_trusted",
            "1 while the kernel or a signed head vouches for the clock",
            registry=registry,
        )
        self.clock_behind = Gauge(
            "farthing_edge_clock_behind_seconds",
            "How much later it is at least than the clock shows, business time",
            registry=registry,
        )
        self.clock_steps = Gauge(
            "farthing_edge_clock_steps", "Steps of the wall clock since the journal began", registry=registry
        )
        for number in (Refusal.MALFORMED, Refusal.SIGNATURE_INVALID, Refusal.DEVICE_UNKNOWN, Refusal.CHANNEL_DIFFERS):
            # Show what is watched for before it happens.
            self.refusals.labels(stage="ingress", number=str(int(number)))

    def clock(self, known: ClockView) -> None:
        """Take over what is known of the time."""
        self.clock_trusted.set(known.trusted)
        self.clock_behind.set(known.behind_s)
        self.clock_steps.set(known.steps)

    def journal(self, page: Mapping[str, int | None]) -> None:
        """Take over what the journal's upkeep says of itself."""
        self.snapshot_position.set(page["snapshot_position"] or 0)
        self.pruned_position.set(page["pruned_position"] or 0)
        self.journal_growth.set(page["bytes_per_hour"] or 0)
        self.journal_free.set(page["free_bytes"] or 0)
        hours = page["hours_left"]
        self.hours_left.set(math.inf if hours is None else hours)

    def page(self) -> bytes:
        """The page in the text format."""
        return generate_latest(self.registry)
