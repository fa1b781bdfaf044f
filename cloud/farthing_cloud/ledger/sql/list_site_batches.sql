SELECT b.id, b.posting_id, b.gateway_id, b.batch, NULL::bytea
FROM batches b
WHERE b.id > %(after)s AND b.operator_id = %(operator_id)s AND b.currency = %(currency)s AND b.site_id = %(site_id)s
    AND b.sealed_at_us >= %(since_us)s
ORDER BY b.id
LIMIT %(limit)s
