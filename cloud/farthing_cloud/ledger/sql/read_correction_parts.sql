SELECT part_posting_id, line, authorization_id, gateway_id, net_micros, tax_micros, risk_micros, set_aside
FROM corrected_parts
WHERE operator_id = %(operator_id)s AND correction_id = %(correction_id)s
ORDER BY place
