-- First the registers on which anything ends above where these claims begin: mostly none, and a batch has many claims on one register. (A limit,
-- so that each register is looked up, whatever PostgreSQL knows of the table.) Only on those is each claim held against the others.
WITH met AS MATERIALIZED (
    SELECT lowest.register
    FROM (
        SELECT n.register, min(n.register_from) AS register_from
        FROM unnest(%(claim_registers)s::bigint[], %(froms)s::numeric[]) AS n (register, register_from)
        GROUP BY n.register
    ) AS lowest
    CROSS JOIN LATERAL (
        SELECT FROM claims c WHERE c.register = lowest.register AND c.register_to > lowest.register_from LIMIT 1
    ) AS above
)
SELECT n.authorization_id, n.gateway_id, other.authorization_id
FROM met
JOIN unnest(%(authorizations)s::bytea[], %(claim_gateways)s::text[], %(claim_registers)s::bigint[], %(froms)s::numeric[],
        %(tos)s::numeric[])
    AS n (authorization_id, gateway_id, register, register_from, register_to) ON n.register = met.register
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
