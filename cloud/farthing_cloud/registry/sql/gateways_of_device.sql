SELECT gateway.gateway_id, device_site.present
FROM device_site
JOIN gateway ON gateway.site_id = device_site.site_id
WHERE device_site.device_id = %(device_id)s
ORDER BY gateway.gateway_id
