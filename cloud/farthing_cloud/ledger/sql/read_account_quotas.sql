SELECT quota_id, gateway_id, incarnation, account_id, amount_micros, posted_micros, voided_micros, status, spend_until_us,
    report_until_us, request_counter, in_use_at_us
FROM quotas
WHERE operator_id = %(operator_id)s AND account_id = ANY (%(account_ids)s::text[]) AND status <> 'closed'
ORDER BY quota_id
