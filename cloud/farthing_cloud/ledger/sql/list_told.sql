-- All that gateways were told, each chain in order; registry: as a registry's wish, as tariffs are.
SELECT g.operator_id, d.gateway_id, d.body, coalesce(d.idempotency_key LIKE 'registry/%%', false) AS registry
FROM directives d
JOIN gateways g ON g.gateway_id = d.gateway_id
ORDER BY d.gateway_id, d.version
