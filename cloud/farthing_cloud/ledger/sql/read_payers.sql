-- The names first, as one array, as in take_payers: each is looked up, or all in one reading of a small table.
SELECT o.account_id, o.status, o.credit_limit_micros, o.debt_limit_micros, o.preload_micros
FROM payers o
WHERE o.operator_id = %(operator_id)s AND o.currency = %(currency)s AND o.account_id = ANY (ARRAY (
    SELECT n.account_id FROM unnest(%(account_ids)s::text[]) AS n (account_id)
    UNION
    SELECT q.account_id FROM quotas q WHERE q.quota_id = ANY (%(quota_ids)s::text[])
    UNION
    SELECT s.account_id FROM asides s WHERE s.case_id = %(case_id)s
))
