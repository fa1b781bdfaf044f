SELECT quota_id, gateway_id, incarnation, account_id, amount_micros, posted_micros, voided_micros, status, spend_until_us,
    report_until_us, request_counter, in_use_at_us
FROM quotas
WHERE quota_id = ANY (%(quota_ids)s::text[])
