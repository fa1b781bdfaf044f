SELECT c.kind, p.part_posting_id, p.line, p.authorization_id, p.gateway_id, p.net_micros, p.tax_micros, p.risk_micros, p.set_aside
FROM corrected_parts p
JOIN corrections c USING (operator_id, correction_id)
WHERE p.part_posting_id = ANY (%(posting_ids)s::bigint[])
ORDER BY c.posting_id, p.place
