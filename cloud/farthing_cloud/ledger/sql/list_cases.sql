SELECT c.id, c.authorization_id, c.other_authorization_id, c.site_id, c.device_id,
    coalesce((SELECT sum(a.net_micros + a.tax_micros) FROM asides a WHERE a.case_id = c.id), 0)::bigint AS aside_micros,
    c.status, c.kind, c.detail, c.missing_micros
FROM cases c
WHERE c.operator_id = %(operator_id)s AND c.id > %(after_case_id)s
ORDER BY c.id
LIMIT %(limit)s
