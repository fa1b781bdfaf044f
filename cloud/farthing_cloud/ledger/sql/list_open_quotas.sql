SELECT q.gateway_id, q.account_id, q.quota_id
FROM quotas q
WHERE q.operator_id = %(operator_id)s AND q.status = 'open'
    AND %(gateway_id)s IN ('', q.gateway_id) AND %(account_id)s IN ('', q.account_id)
ORDER BY q.gateway_id, q.account_id, q.quota_id
