SELECT p.operator_id, p.gateway_id, p.incarnation, p.sequence, a.batch_hash, a.rate_ppm, c.note, a.drawn_at_us,
    a.due_at_us, a.outcome, a.detail
FROM audit a
JOIN posted p USING (batch_hash)
JOIN checkpoint c ON c.log = a.checkpoint_log AND c.size = a.checkpoint_size
WHERE %(gateway_id)s = '' OR p.gateway_id = %(gateway_id)s
ORDER BY a.drawn_at_us DESC, a.batch_hash
LIMIT %(limit)s
