SELECT b.authorization_id, b.gateway_id, b.micros
FROM unnest(%(authorizations)s::bytea[], %(claim_gateways)s::text[]) AS n (authorization_id, gateway_id)
JOIN carried_beyond b USING (authorization_id, gateway_id)
