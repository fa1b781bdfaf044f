SELECT format('request %%s/%%s/%%s: it was answered with %%s micros of quota %%s, which is not what was granted', r.gateway_id, r.incarnation,
    r.counter, r.amount_micros, r.quota_id)
FROM quota_requests r
LEFT JOIN quotas q ON q.quota_id = r.quota_id AND q.gateway_id = r.gateway_id AND q.incarnation = r.incarnation
    AND q.account_id = r.account_id AND q.amount_micros = r.amount_micros
WHERE r.quota_id <> '' AND q.id IS NULL
ORDER BY r.gateway_id, r.incarnation, r.counter
LIMIT 1
