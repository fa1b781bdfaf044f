SELECT o.transaction_id::text, o.sequence, o.kind, o.key, o.at_us, o.value, o.traceparent
FROM outbox o
WHERE (o.transaction_id, o.sequence) > (%(transaction_id)s::text::xid8, %(sequence)s::bigint)
    AND o.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    AND (cardinality(%(kinds)s::text[]) = 0 OR o.kind = ANY (%(kinds)s::text[]))
ORDER BY o.transaction_id, o.sequence
LIMIT %(limit)s
