-- The newest first; which incarnation its gateway is in now says whether the journal that sealed it is still there.
SELECT b.posting_id, b.gateway_id, b.incarnation, b.sequence, b.posted_at_us, b.batch, g.incarnation
FROM batches b
JOIN gateways g ON g.gateway_id = b.gateway_id
WHERE b.parked_statements > 0 AND b.operator_id = %(operator_id)s AND %(gateway_id)s IN ('', b.gateway_id)
    AND (%(before)s = 0 OR b.posting_id < %(before)s)
ORDER BY b.posting_id DESC
LIMIT %(limit)s
