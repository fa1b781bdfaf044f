SELECT b.gateway_id, b.incarnation, b.sequence, b.batch, b.carried,
    array_agg(c.gateway_id) AS owners,
    array_agg(c.authorization_id) AS authorizations, array_agg(c.register_to) AS tos, array_agg(c.net_micros) AS nets,
    array_agg(c.tax_micros) AS taxes, array_agg(r.device_id) AS devices, array_agg(r.register_id) AS registers,
    array_agg(r.register_epoch) AS epochs, array_agg(c.register_from) AS froms
FROM claims c
LEFT JOIN registers r ON r.id = c.register
LEFT JOIN batches b ON b.gateway_id = coalesce(c.raised_by, c.gateway_id) AND b.incarnation = c.incarnation AND b.sequence = c.sequence
GROUP BY b.id, b.gateway_id, b.incarnation, b.sequence, b.batch, b.carried
ORDER BY b.id
