SELECT c.correction_id, c.kind, c.at_us, sum(p.net_micros), sum(p.tax_micros), sum(p.risk_micros)
FROM corrected_parts p
JOIN corrections c USING (operator_id, correction_id)
WHERE p.operator_id = %(operator_id)s AND p.part_posting_id = ANY (%(posting_ids)s::bigint[])
    AND p.authorization_id = %(authorization_id)s AND p.gateway_id = %(gateway_id)s
    AND c.kind IN ('refund', 'dispute-lost')
GROUP BY c.correction_id, c.kind, c.at_us, c.posting_id
ORDER BY c.posting_id
