SELECT transaction_id::text, sequence, content, status, at_us
FROM device_change
WHERE (transaction_id, sequence) > (%(transaction_id)s::text::xid8, %(sequence)s::bigint)
    AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY transaction_id, sequence
LIMIT %(limit)s
