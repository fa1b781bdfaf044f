SELECT a.path, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted
FROM accounts a
WHERE a.operator_id = %(operator_id)s AND a.currency = %(currency)s
    AND (a.path = ANY (%(paths)s::text[])
        OR a.path IN (
            SELECT p.kind || q.account_id
            FROM quotas q CROSS JOIN (VALUES ('payer/'), ('debt/')) AS p (kind)
            WHERE q.quota_id = ANY (%(quota_ids)s::text[])
            UNION
            SELECT p.kind || s.account_id
            FROM asides s CROSS JOIN (VALUES ('payer/'), ('debt/')) AS p (kind)
            WHERE s.case_id = %(case_id)s))
ORDER BY a.id
FOR NO KEY UPDATE
