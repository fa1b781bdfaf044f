SELECT c.authorization_id, r.device_id, r.register_id, r.register_epoch, c.register_from, c.register_to, c.net_micros,
    c.tax_micros, c.final, c.aside, c.gateway_id, c.incarnation, c.sequence, c.raised_by
FROM claims c
JOIN registers r ON r.id = c.register
WHERE c.authorization_id = %(authorization_id)s AND c.operator_id = %(operator_id)s
ORDER BY c.gateway_id
