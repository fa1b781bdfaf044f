SELECT s.gateway_id, s.incarnation, s.sequence, s.line, s.account_id, s.site_id, s.rate_ppm, s.net_micros, s.tax_micros
FROM asides s
WHERE s.case_id = %(case_id)s
ORDER BY s.id
