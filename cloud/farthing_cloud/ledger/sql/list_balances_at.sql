-- Summed up again from the first transfer on, those of postings dated up to an instant. Accounts on which nothing stands then are not there.
WITH wanted AS (
    SELECT a.id, a.path, a.currency
    FROM accounts a
    WHERE a.operator_id = %(operator_id)s AND starts_with(a.path, %(path_prefix)s)
), dated AS (
    -- The last one dated so bounds what is looked at: partitions after it are not.
    SELECT t.kind, t.debit_id, t.credit_id, t.quota, sum(t.amount_micros) AS micros
    FROM transfers t
    JOIN postings p ON p.id = t.posting_id
    WHERE t.posting_id <= (
            SELECT max(l.id) FROM postings l
            WHERE l.operator_id = %(operator_id)s
                AND (NOT %(by_business)s AND l.posted_at_us <= %(at_us)s OR %(by_business)s AND l.business_at_us <= %(at_us)s))
        AND p.operator_id = %(operator_id)s
        AND (NOT %(by_business)s AND p.posted_at_us <= %(at_us)s OR %(by_business)s AND p.business_at_us <= %(at_us)s)
    GROUP BY t.kind, t.debit_id, t.credit_id, t.quota
), sides AS (
    SELECT d.debit_id AS account, 0 AS dp, d.micros AS dd, 0 AS cp, 0 AS cc FROM dated d WHERE d.kind = 'post'
    UNION ALL
    SELECT d.credit_id, 0, 0, 0, d.micros FROM dated d WHERE d.kind = 'post'
    UNION ALL
    SELECT p.id, CASE d.kind WHEN 'hold' THEN d.micros ELSE -d.micros END, 0, 0, 0
    FROM dated d
    JOIN quotas q ON q.id = d.quota
    JOIN accounts p ON p.operator_id = q.operator_id AND p.currency = q.currency AND p.path = 'payer/' || q.account_id
    UNION ALL
    SELECT g.id, 0, 0, CASE d.kind WHEN 'hold' THEN d.micros ELSE -d.micros END, 0
    FROM dated d
    JOIN quotas q ON q.id = d.quota
    JOIN accounts g ON g.operator_id = q.operator_id AND g.currency = q.currency AND g.path = 'quota/' || q.gateway_id
)
SELECT w.path, w.currency, sum(s.dp), sum(s.dd), sum(s.cp), sum(s.cc)
FROM sides s
JOIN wanted w ON w.id = s.account
GROUP BY w.path, w.currency
HAVING sum(s.dp) <> 0 OR sum(s.dd) <> 0 OR sum(s.cp) <> 0 OR sum(s.cc) <> 0
ORDER BY w.path, w.currency
