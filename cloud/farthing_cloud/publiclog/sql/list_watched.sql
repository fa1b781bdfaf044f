SELECT DISTINCT p.gateway_id
FROM audit a
JOIN posted p USING (batch_hash)
WHERE a.outcome IN ('unanswered', 'false') AND a.due_at_us >= %(since_us)s
