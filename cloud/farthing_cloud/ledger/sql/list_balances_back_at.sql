-- As they stand now, without the transfers of postings dated after an instant. Accounts on which nothing stood then are not there.
WITH wanted AS (
    SELECT a.id, a.path, a.currency, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted
    FROM accounts a
    WHERE a.operator_id = %(operator_id)s AND starts_with(a.path, %(path_prefix)s)
), dated AS (
    -- The first one dated so bounds what is looked at: partitions before it are not.
    SELECT t.kind, t.debit_id, t.credit_id, t.quota, sum(t.amount_micros) AS micros
    FROM transfers t
    JOIN postings p ON p.id = t.posting_id
    WHERE t.posting_id >= (
            SELECT min(l.id) FROM postings l
            WHERE l.operator_id = %(operator_id)s
                AND (NOT %(by_business)s AND l.posted_at_us > %(at_us)s OR %(by_business)s AND l.business_at_us > %(at_us)s))
        AND p.operator_id = %(operator_id)s
        AND (NOT %(by_business)s AND p.posted_at_us > %(at_us)s OR %(by_business)s AND p.business_at_us > %(at_us)s)
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
), since AS (
    SELECT s.account, sum(s.dp) AS dp, sum(s.dd) AS dd, sum(s.cp) AS cp, sum(s.cc) AS cc
    FROM sides s
    GROUP BY s.account
)
SELECT w.path, w.currency, w.debits_pending - coalesce(s.dp, 0), w.debits_posted - coalesce(s.dd, 0),
    w.credits_pending - coalesce(s.cp, 0), w.credits_posted - coalesce(s.cc, 0)
FROM wanted w
LEFT JOIN since s ON s.account = w.id
WHERE (w.debits_pending, w.debits_posted, w.credits_pending, w.credits_posted)
    IS DISTINCT FROM (coalesce(s.dp, 0), coalesce(s.dd, 0), coalesce(s.cp, 0), coalesce(s.cc, 0))
ORDER BY w.path, w.currency
