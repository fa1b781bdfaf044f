SELECT p.payment_id, p.account_id, p.amount_micros, p.source
FROM payments p
WHERE p.operator_id = %(operator_id)s AND p.currency = %(currency)s AND p.payment_id = %(payment_id)s
