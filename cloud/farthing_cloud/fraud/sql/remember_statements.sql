-- Keep those whose name is new; how many are kept of each device that got one more.
WITH fresh AS (
    INSERT INTO statement (device_id, device_epoch, key_id, counter, payload_hash, gateway_id, cose)
    SELECT device_id, device_epoch, key_id, counter, payload_hash, gateway_id, cose
    FROM unnest(
        %(device_ids)s::text[], %(device_epochs)s::bigint[], %(key_ids)s::bytea[], %(counters)s::bigint[],
        %(payload_hashes)s::bytea[], %(gateway_ids)s::text[], %(coses)s::bytea[]
    ) AS seen (device_id, device_epoch, key_id, counter, payload_hash, gateway_id, cose)
    ON CONFLICT DO NOTHING
    RETURNING device_id
)
INSERT INTO device_window (device_id, kept)
SELECT device_id, count(*) FROM fresh GROUP BY device_id
ON CONFLICT (device_id) DO UPDATE SET kept = device_window.kept + excluded.kept
RETURNING device_id, kept;
