-- Rules with their parts as two arrays of one order.
SELECT rule.operator_id, rule.site_id, rule.version, rule.remainder_path, rule.effective_from_us,
       array_agg(part.path ORDER BY part.path) AS paths, array_agg(part.share_ppm ORDER BY part.path) AS shares_ppm
FROM split_rule AS rule JOIN split_part AS part USING (operator_id, site_id, version)
WHERE (%(operator_id)s::text = '' OR rule.operator_id = %(operator_id)s)
  AND (%(site_id)s::text = '' OR rule.site_id = %(site_id)s)
GROUP BY rule.operator_id, rule.site_id, rule.version
ORDER BY rule.operator_id, rule.site_id, rule.version;
