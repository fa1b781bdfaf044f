WITH plan AS (
    INSERT INTO payout_plan (plan_id, operator_id, window_name, canonical, content_hash, planned_at_us)
    VALUES (%(plan_id)s, %(operator_id)s, %(window)s, %(canonical)s, %(content_hash)s, %(at_us)s)
)
INSERT INTO payout_promise (plan_id, operator_id, path, planned_micros)
SELECT %(plan_id)s, %(operator_id)s, path, planned_micros
FROM unnest(%(paths)s::text[], %(planned_micros)s::numeric[]) AS payout (path, planned_micros)
WHERE planned_micros > 0;
