-- The names first, each looked up by its own key: OFFSET 0 keeps PostgreSQL from reading all claims there are for those of one group, which it
-- takes for cheaper as long as there are less than a million.
SELECT c.authorization_id, r.device_id, r.register_id, r.register_epoch, c.register_from, c.register_to, c.net_micros,
    c.tax_micros, c.final, c.aside, c.gateway_id, c.incarnation, c.sequence, c.raised_by
FROM unnest(%(authorizations)s::bytea[], %(claim_gateways)s::text[]) AS n (authorization_id, gateway_id)
CROSS JOIN LATERAL (
    SELECT * FROM claims o WHERE o.authorization_id = n.authorization_id AND o.gateway_id = n.gateway_id OFFSET 0
) AS c
CROSS JOIN LATERAL (SELECT * FROM registers o WHERE o.id = c.register OFFSET 0) AS r
