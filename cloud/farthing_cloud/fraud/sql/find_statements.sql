-- What is kept under each of these names.
SELECT statement.device_id, statement.device_epoch, statement.key_id, statement.counter, statement.payload_hash,
       statement.gateway_id, statement.cose
FROM unnest(%(device_ids)s::text[], %(device_epochs)s::bigint[], %(key_ids)s::bytea[], %(counters)s::bigint[])
     AS name (device_id, device_epoch, key_id, counter)
JOIN statement USING (device_id, device_epoch, key_id, counter);
