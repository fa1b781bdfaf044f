SELECT gateway.gateway_id, gateway.site_id, site_key.epoch
FROM gateway
JOIN site_key ON site_key.site_id = gateway.site_id
WHERE gateway.operator_id = %(operator_id)s
ORDER BY gateway.gateway_id
