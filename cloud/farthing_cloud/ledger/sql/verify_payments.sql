WITH moved AS (
    SELECT t.posting_id, sum(t.amount_micros) AS micros, min(d.path) AS source, min(c.path) AS payer
    FROM transfers t
    JOIN accounts d ON d.id = t.debit_id
    JOIN accounts c ON c.id = t.credit_id
    WHERE t.cause = 'fund'
    GROUP BY t.posting_id
)
SELECT format('payment %%s: %%s', coalesce(y.payment_id, a.subject),
    CASE
        WHEN y.payment_id IS NULL THEN 'it was posted, and its row is not there: the same payment would count again'
        WHEN a.id IS NULL OR a.subject <> y.payment_id THEN 'no posting made it'
        ELSE 'account, amount or source are not what was posted'
    END)
FROM payments y
FULL JOIN (SELECT p.id, p.operator_id, p.currency, p.subject FROM postings p WHERE p.kind = 'fund') AS a
    ON a.id = y.posting_id AND a.operator_id = y.operator_id AND a.currency = y.currency
LEFT JOIN moved m ON m.posting_id = y.posting_id
WHERE y.payment_id IS NULL
    OR a.id IS NULL
    OR a.subject <> y.payment_id
    OR (m.micros, m.source, m.payer) IS DISTINCT FROM (y.amount_micros, y.source, 'payer/' || y.account_id)
ORDER BY coalesce(y.posting_id, a.id)
LIMIT 1
