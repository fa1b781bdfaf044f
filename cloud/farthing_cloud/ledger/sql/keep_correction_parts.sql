INSERT INTO corrected_parts (operator_id, correction_id, place, part_posting_id, line, authorization_id, gateway_id, net_micros,
    tax_micros, risk_micros, set_aside)
SELECT %(operator_id)s, %(correction_id)s, n.place, n.part_posting_id, n.line, n.authorization_id, n.gateway_id, n.net_micros,
    n.tax_micros, n.risk_micros, n.set_aside
FROM jsonb_to_recordset(%(parts)s::jsonb) AS n (place integer, part_posting_id bigint, line integer, authorization_id bytea,
    gateway_id text, net_micros bigint, tax_micros bigint, risk_micros bigint, set_aside jsonb)
