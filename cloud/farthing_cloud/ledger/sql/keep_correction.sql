INSERT INTO corrections (operator_id, correction_id, currency, kind, account_id, authorization_id, gateway_id, payment_id, dispute_id,
    amount_micros, content, person, at_us, posting_id, plan_id, payback_id)
VALUES (%(operator_id)s, %(correction_id)s, %(currency)s, %(kind)s, %(account_id)s, %(authorization_id)s, %(gateway_id)s,
    %(payment_id)s, %(dispute_id)s, %(amount_micros)s, %(content)s, %(person)s, %(at_us)s, %(posting_id)s, %(plan_id)s, %(payback_id)s)
