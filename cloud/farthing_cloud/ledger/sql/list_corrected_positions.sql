SELECT p.position, c.line, c.authorization_id, c.net_micros, c.tax_micros, c.risk_micros
FROM corrected_parts c
JOIN postings p ON p.id = c.part_posting_id
WHERE c.operator_id = %(operator_id)s AND c.correction_id = %(correction_id)s
ORDER BY c.place
