SELECT c.authorization_id, r.device_id, r.register_id, r.register_epoch, c.register_from, c.register_to, c.net_micros,
    c.tax_micros, c.final, c.aside, c.gateway_id, c.incarnation, c.sequence, c.raised_by
FROM unnest(%(authorizations)s::bytea[], %(claim_gateways)s::text[]) AS n (authorization_id, gateway_id)
JOIN claims c USING (authorization_id, gateway_id)
JOIN registers r ON r.id = c.register
