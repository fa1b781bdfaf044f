SELECT q.quota_id, q.operator_id, q.gateway_id, q.account_id, q.currency, q.amount_micros, q.posted_micros, q.voided_micros,
    q.amount_micros - q.posted_micros - q.voided_micros AS held_micros, q.spend_until_us, q.report_until_us, q.incarnation,
    q.status
FROM quotas q
WHERE q.operator_id = %(operator_id)s AND %(gateway_id)s IN ('', q.gateway_id) AND %(account_id)s IN ('', q.account_id)
    AND (NOT %(open_only)s OR q.status <> 'closed')
    AND q.id > coalesce((SELECT a.id FROM quotas a WHERE a.quota_id = %(after_quota_id)s), 0)
ORDER BY q.id
LIMIT %(limit)s
