SELECT q.account_id, count(*)
FROM quotas q
WHERE q.operator_id = %(operator_id)s AND q.account_id = ANY (%(account_ids)s::text[]) AND q.status = 'open'
GROUP BY q.account_id
