SELECT coalesce(sum(amount_micros), 0)
FROM corrections
WHERE operator_id = %(operator_id)s AND currency = %(currency)s AND payment_id = %(payment_id)s AND payment_id <> ''
    AND kind = 'chargeback'
