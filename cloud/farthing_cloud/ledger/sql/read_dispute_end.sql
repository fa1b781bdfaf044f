SELECT correction_id, kind, account_id, authorization_id, gateway_id, payment_id, dispute_id, amount_micros, content, person, at_us,
    currency, plan_id, payback_id
FROM corrections
WHERE operator_id = %(operator_id)s AND dispute_id = %(dispute_id)s AND dispute_id <> ''
