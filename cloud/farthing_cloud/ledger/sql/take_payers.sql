-- The names first: an account is found by its own, not by looking at all of them. OFFSET 0 keeps it so where PostgreSQL has no statistics
-- yet: it then takes an operator for one of few rows, and would look through all of his for each name.
-- As text, which becomes an integer at a third of a Decimal's price.
SELECT a.path, a.debits_pending::text, a.debits_posted::text, a.credits_pending::text, a.credits_posted::text
FROM accounts a
WHERE a.id = ANY (ARRAY (
    SELECT found.id
    FROM (
        SELECT n.path FROM unnest(%(paths)s::text[]) AS n (path)
        UNION
        SELECT p.kind || q.account_id
        FROM quotas q CROSS JOIN (VALUES ('payer/'), ('debt/')) AS p (kind)
        WHERE q.quota_id = ANY (%(quota_ids)s::text[])
        UNION
        SELECT p.kind || s.account_id
        FROM asides s CROSS JOIN (VALUES ('payer/'), ('debt/')) AS p (kind)
        WHERE s.case_id = %(case_id)s
    ) AS n
    CROSS JOIN LATERAL (
        SELECT o.id
        FROM accounts o
        WHERE o.operator_id = %(operator_id)s AND o.currency = %(currency)s AND o.path = n.path
        OFFSET 0
    ) AS found
))
ORDER BY a.id
FOR NO KEY UPDATE OF a
