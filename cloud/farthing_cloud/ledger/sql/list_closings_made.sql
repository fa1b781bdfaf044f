SELECT c.closed, c.operator_id, c.currency, c.answer,
    coalesce((
        SELECT jsonb_agg(jsonb_build_array(d.path, k.path, t.amount_micros, t.cause) ORDER BY t.id)
        FROM transfers t JOIN accounts d ON d.id = t.debit_id JOIN accounts k ON k.id = t.credit_id
        WHERE t.posting_id = c.posting_id), '[]') AS moved,
    coalesce((
        SELECT jsonb_agg(jsonb_build_array(s.site_id, s.parts, s.remainder_path))
        FROM closed_splits s
        WHERE s.operator_id = c.operator_id AND s.currency = c.currency AND s.closed = c.closed), '[]') AS rules
FROM closings c
ORDER BY c.posting_id
