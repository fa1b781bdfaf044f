SELECT r.id
FROM registers r
JOIN unnest(%(devices)s::text[], %(registers)s::text[], %(epochs)s::bigint[]) AS n (device_id, register_id, register_epoch)
    USING (device_id, register_id, register_epoch)
ORDER BY r.id
FOR NO KEY UPDATE OF r
