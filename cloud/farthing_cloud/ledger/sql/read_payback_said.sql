SELECT correction_id, kind, account_id, authorization_id, gateway_id, payment_id, dispute_id, amount_micros, content, person, at_us,
    currency, plan_id, payback_id
FROM corrections
WHERE operator_id = %(operator_id)s AND payback_id <> ''
    AND (payback_id = %(payback_id)s OR (payment_id = %(payment_id)s AND payment_id <> ''))
ORDER BY posting_id
