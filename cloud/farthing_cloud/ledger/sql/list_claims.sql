SELECT c.authorization_id, c.gateway_id, r.device_id, r.register_id, r.register_epoch, c.register_from, c.register_to,
    c.net_micros, c.tax_micros, c.final, c.aside
FROM claims c
JOIN registers r ON r.id = c.register
WHERE c.operator_id = %(operator_id)s AND %(device_id)s IN ('', r.device_id)
    AND (c.authorization_id, c.gateway_id) > (%(after_authorization_id)s, %(after_gateway_id)s)
ORDER BY c.authorization_id, c.gateway_id
LIMIT %(limit)s
