SELECT split_part(a.path, '/', 2) AS site_id, a.credits_posted - a.debits_posted AS balance_micros,
    coalesce((
        SELECT sum(b.clearing_micros) FROM batches b
        WHERE b.operator_id = a.operator_id AND b.currency = a.currency AND b.site_id = split_part(a.path, '/', 2)
            AND NOT b.proven), 0) AS unproven_micros
FROM accounts a
WHERE a.operator_id = %(operator_id)s AND a.currency = %(currency)s
    AND a.path LIKE 'clearing/%%/' || %(window)s
ORDER BY 1
