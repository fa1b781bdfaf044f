UPDATE directives d
SET signature = n.signature, key_id = n.key_id
FROM unnest(%(gateways)s::text[], %(versions)s::bigint[], %(signatures)s::bytea[], %(key_ids)s::bytea[])
    AS n (gateway_id, version, signature, key_id)
WHERE d.gateway_id = n.gateway_id AND d.version = n.version AND d.signature IS NULL
