INSERT INTO session AS s (operator_id, authorization_id, gateway_id, device_id, first_at_us, last_at_us, code)
SELECT n.operator_id, n.authorization_id, n.gateway_id, n.device_id, n.first_at_us, n.last_at_us, n.code
FROM unnest(%(operator_ids)s::text[], %(authorizations)s::bytea[], %(gateway_ids)s::text[], %(device_ids)s::text[],
    %(firsts)s::bigint[], %(lasts)s::bigint[], %(codes)s::bytea[])
    AS n (operator_id, authorization_id, gateway_id, device_id, first_at_us, last_at_us, code)
ORDER BY n.operator_id, n.authorization_id, n.gateway_id
ON CONFLICT (operator_id, authorization_id, gateway_id) DO UPDATE
SET first_at_us = least(s.first_at_us, excluded.first_at_us), last_at_us = greatest(s.last_at_us, excluded.last_at_us),
    code = CASE s.code WHEN '' THEN excluded.code ELSE s.code END;
