SELECT plan_id, operator_id, currency, content, content_hash, items, refunds, back_micros, planned_by, planned_at_us, approved_by,
    approved_at_us
FROM correction_plans
WHERE plan_id = %(plan_id)s AND operator_id = %(operator_id)s AND currency = %(currency)s
FOR UPDATE
