SELECT r.id, n.place
FROM unnest(%(devices)s::text[], %(registers)s::text[], %(epochs)s::bigint[]) WITH ORDINALITY
    AS n (device_id, register_id, register_epoch, place)
JOIN registers r USING (device_id, register_id, register_epoch)
ORDER BY r.id
FOR NO KEY UPDATE OF r
