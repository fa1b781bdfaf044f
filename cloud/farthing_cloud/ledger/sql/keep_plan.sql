INSERT INTO correction_plans (plan_id, operator_id, currency, content, content_hash, items, refunds, back_micros, planned_by,
    planned_at_us)
VALUES (%(plan_id)s, %(operator_id)s, %(currency)s, %(content)s, %(content_hash)s, %(items)s, %(refunds)s, %(back_micros)s,
    %(planned_by)s, %(planned_at_us)s)
