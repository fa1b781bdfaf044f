SELECT CASE WHEN (p.path, g.path) IS DISTINCT FROM ('payer/' || q.account_id, 'quota/' || q.gateway_id)
    THEN format('quota %%s: it was not granted to %%s for %%s', q.quota_id, q.gateway_id, q.account_id)
    ELSE format('quota %%s: its transfers give held %%s, posted %%s, voided %%s; it says %%s, %%s, %%s (%%s)', q.quota_id,
    coalesce(t.held, 0), coalesce(t.posted, 0), coalesce(t.voided, 0), q.amount_micros, q.posted_micros, q.voided_micros,
    q.status) END
FROM quotas q
LEFT JOIN (
    SELECT quota,
        sum(amount_micros) FILTER (WHERE kind = 'hold') AS held,
        sum(amount_micros) FILTER (WHERE kind = 'post') AS posted,
        sum(amount_micros) FILTER (WHERE kind = 'void') AS voided,
        min(debit_id) FILTER (WHERE kind = 'hold') AS payer,
        min(credit_id) FILTER (WHERE kind = 'hold') AS gateway
    FROM transfers WHERE quota <> 0 GROUP BY quota
) AS t ON t.quota = q.id
LEFT JOIN accounts p ON p.id = t.payer
LEFT JOIN accounts g ON g.id = t.gateway
WHERE (coalesce(t.held, 0), coalesce(t.posted, 0), coalesce(t.voided, 0))
        <> (q.amount_micros, q.posted_micros, q.voided_micros)
    OR (p.path, g.path) IS DISTINCT FROM ('payer/' || q.account_id, 'quota/' || q.gateway_id)
    OR (q.status = 'closed' AND q.amount_micros <> q.posted_micros + q.voided_micros)
ORDER BY q.id
LIMIT 1
