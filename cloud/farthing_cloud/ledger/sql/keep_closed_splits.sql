INSERT INTO closed_splits (operator_id, currency, closed, site_id, rule_version, parts, remainder_path)
SELECT %(operator_id)s, %(currency)s, %(closed)s, n.site_id, n.rule_version, n.parts, n.remainder_path
FROM jsonb_to_recordset(%(splits)s::jsonb) AS n (site_id text, rule_version bigint, parts jsonb, remainder_path text)
