SELECT a.batch_hash, p.gateway_id, p.incarnation, p.sequence, a.due_at_us
FROM audit a JOIN posted p USING (batch_hash)
WHERE a.outcome = 'waits' AND (a.due_at_us, a.batch_hash) > (%(due_at_us)s, %(batch_hash)s)
ORDER BY a.due_at_us, a.batch_hash
LIMIT %(limit)s
