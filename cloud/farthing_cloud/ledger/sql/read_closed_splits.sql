SELECT c.posting_id, c.closed,
    coalesce((
        SELECT jsonb_agg(jsonb_build_array(s.site_id, s.rule_version, s.parts, s.remainder_path) ORDER BY s.site_id)
        FROM closed_splits s
        WHERE s.operator_id = c.operator_id AND s.currency = c.currency AND s.closed = c.closed), '[]')
FROM closings c
WHERE c.operator_id = %(operator_id)s AND c.currency = %(currency)s AND c.posting_id > %(after)s
ORDER BY c.posting_id
