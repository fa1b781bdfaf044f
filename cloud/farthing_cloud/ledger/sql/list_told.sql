-- All that gateways were told, each chain in order, and the service that wished for it, as the registry for tariffs; empty for none. With the wish's place among
-- those of its service, where the key has one.
SELECT g.operator_id, d.gateway_id, d.body, split_part(coalesce(d.idempotency_key, ''), '/', 1) AS service,
    substring(d.idempotency_key FROM '^[a-z]+/([0-9]{1,18})/')::bigint AS place
FROM directives d
JOIN gateways g ON g.gateway_id = d.gateway_id
ORDER BY d.gateway_id, d.version
