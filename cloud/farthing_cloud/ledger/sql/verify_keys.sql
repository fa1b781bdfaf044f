-- A gateway's present batch key is the one that has not ended; and each batch names a key of its gateway.
-- (What was posted stays posted when its key is revoked later.)
SELECT fault FROM (
    SELECT format('gateway %%s: its batch key is not the present one of its keys', g.gateway_id) AS fault
    FROM gateways g
    LEFT JOIN batch_keys k ON k.gateway_id = g.gateway_id AND k.until_us IS NULL
    WHERE coalesce(k.batch_key, '') <> g.batch_key
    UNION ALL
    SELECT format('batch %%s of %%s, incarnation %%s: signed with a key that its gateway never had', b.sequence, b.gateway_id,
        b.incarnation)
    FROM batches b
    WHERE EXISTS (SELECT FROM batch_keys k WHERE k.gateway_id = b.gateway_id)
        AND NOT EXISTS (
            SELECT FROM batch_keys k
            WHERE k.gateway_id = b.gateway_id AND substring(sha256(k.batch_key) FROM 1 FOR 8) = b.key_id
        )
) AS faults
LIMIT 1
