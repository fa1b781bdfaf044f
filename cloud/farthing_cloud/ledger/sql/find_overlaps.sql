SELECT n.authorization_id, n.gateway_id, other.authorization_id
FROM unnest(%(authorizations)s::bytea[], %(claim_gateways)s::text[], %(claim_registers)s::bigint[], %(froms)s::numeric[],
        %(tos)s::numeric[])
    AS n (authorization_id, gateway_id, register, register_from, register_to)
CROSS JOIN LATERAL (
    SELECT c.authorization_id
    FROM claims c
    WHERE c.register = n.register
        AND c.operator_id = %(operator_id)s
        AND c.register_to > n.register_from
        AND c.register_from < n.register_to
        AND (c.authorization_id, c.gateway_id) <> (n.authorization_id, n.gateway_id)
        AND c.register_from < c.register_to
    ORDER BY c.authorization_id
    LIMIT 1
) AS other
WHERE n.register_from < n.register_to
