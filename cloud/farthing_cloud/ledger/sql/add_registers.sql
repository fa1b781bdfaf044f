INSERT INTO registers (device_id, register_id, register_epoch)
SELECT n.device_id, n.register_id, n.register_epoch
FROM unnest(%(devices)s::text[], %(registers)s::text[], %(epochs)s::bigint[]) AS n (device_id, register_id, register_epoch)
WHERE NOT EXISTS (
    SELECT FROM registers r
    WHERE r.device_id = n.device_id AND r.register_id = n.register_id AND r.register_epoch = n.register_epoch)
ORDER BY n.device_id, n.register_id, n.register_epoch
ON CONFLICT DO NOTHING
