SELECT plan_id, operator_id, currency, ''::bytea, content_hash, items, refunds, back_micros, planned_by, planned_at_us, approved_by,
    approved_at_us
FROM correction_plans
WHERE operator_id = %(operator_id)s
ORDER BY planned_at_us, plan_id
