SELECT content, status
FROM gateway
WHERE %(operator_id)s = '' OR operator_id = %(operator_id)s
ORDER BY gateway_id
