WITH sides AS (
    SELECT t.debit_id AS account, 0 AS dp, t.amount_micros::numeric AS dd, 0 AS cp, 0 AS cc
    FROM transfers t WHERE t.kind = 'post'
    UNION ALL
    SELECT t.credit_id, 0, 0, 0, t.amount_micros FROM transfers t WHERE t.kind = 'post'
    UNION ALL
    SELECT p.id, CASE t.kind WHEN 'hold' THEN t.amount_micros ELSE -t.amount_micros END, 0, 0, 0
    FROM transfers t
    JOIN quotas q ON q.id = t.quota
    JOIN accounts p ON p.operator_id = q.operator_id AND p.currency = q.currency AND p.path = 'payer/' || q.account_id
    UNION ALL
    SELECT g.id, 0, 0, CASE t.kind WHEN 'hold' THEN t.amount_micros ELSE -t.amount_micros END, 0
    FROM transfers t
    JOIN quotas q ON q.id = t.quota
    JOIN accounts g ON g.operator_id = q.operator_id AND g.currency = q.currency AND g.path = 'quota/' || q.gateway_id
), again AS (
    SELECT account, sum(dp) AS dp, sum(dd) AS dd, sum(cp) AS cp, sum(cc) AS cc FROM sides GROUP BY account
)
SELECT format('account %%s of %%s in %%s: its transfers give %%s, it says %%s', a.path, a.operator_id, a.currency,
    array[coalesce(n.dp, 0), coalesce(n.dd, 0), coalesce(n.cp, 0), coalesce(n.cc, 0)],
    array[a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted])
FROM accounts a
FULL JOIN again n ON n.account = a.id
WHERE (coalesce(n.dp, 0), coalesce(n.dd, 0), coalesce(n.cp, 0), coalesce(n.cc, 0))
    IS DISTINCT FROM (a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted)
ORDER BY a.id
LIMIT 1
