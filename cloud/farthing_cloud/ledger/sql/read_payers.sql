SELECT p.account_id, p.status, p.credit_limit_micros, p.debt_limit_micros, p.preload_micros
FROM (
    SELECT n.account_id FROM unnest(%(account_ids)s::text[]) AS n (account_id)
    UNION
    SELECT q.account_id FROM quotas q WHERE q.quota_id = ANY (%(quota_ids)s::text[])
    UNION
    SELECT s.account_id FROM asides s WHERE s.case_id = %(case_id)s
) AS n
JOIN payers p ON p.operator_id = %(operator_id)s AND p.currency = %(currency)s AND p.account_id = n.account_id
