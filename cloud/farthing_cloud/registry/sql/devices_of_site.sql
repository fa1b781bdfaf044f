SELECT device.content, device.status
FROM device_site
JOIN device ON device.device_id = device_site.device_id
WHERE device_site.site_id = %(site_id)s AND device_site.present
ORDER BY device.device_id
