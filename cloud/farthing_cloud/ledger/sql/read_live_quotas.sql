SELECT quota_id
FROM quotas
WHERE gateway_id = ANY (%(gateway_ids)s::text[]) AND status <> 'closed'
ORDER BY id
