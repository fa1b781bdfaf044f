-- A registry's wishes: tariffs are among them.
SELECT g.operator_id, d.gateway_id, d.body
FROM directives d
JOIN gateways g ON g.gateway_id = d.gateway_id
WHERE d.idempotency_key LIKE 'registry/%%'
ORDER BY d.gateway_id, d.version
