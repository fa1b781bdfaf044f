SELECT b.gateway_id, b.incarnation, b.sequence, b.batch,
    array_agg(c.authorization_id) AS authorizations, array_agg(c.register_to) AS tos, array_agg(c.net_micros) AS nets,
    array_agg(c.tax_micros) AS taxes
FROM claims c
LEFT JOIN batches b ON b.gateway_id = c.gateway_id AND b.incarnation = c.incarnation AND b.sequence = c.sequence
GROUP BY b.id, b.gateway_id, b.incarnation, b.sequence, b.batch
ORDER BY b.id
