SELECT format('quota %%s: its transfers give held %%s, posted %%s, voided %%s; it says %%s, %%s, %%s (%%s)', q.quota_id,
    coalesce(t.held, 0), coalesce(t.posted, 0), coalesce(t.voided, 0), q.amount_micros, q.posted_micros, q.voided_micros,
    q.status)
FROM quotas q
LEFT JOIN (
    SELECT quota,
        sum(amount_micros) FILTER (WHERE kind = 'hold') AS held,
        sum(amount_micros) FILTER (WHERE kind = 'post') AS posted,
        sum(amount_micros) FILTER (WHERE kind = 'void') AS voided
    FROM transfers WHERE quota <> 0 GROUP BY quota
) AS t ON t.quota = q.id
WHERE (coalesce(t.held, 0), coalesce(t.posted, 0), coalesce(t.voided, 0))
        <> (q.amount_micros, q.posted_micros, q.voided_micros)
    OR (q.status = 'closed' AND q.amount_micros <> q.posted_micros + q.voided_micros)
ORDER BY q.id
LIMIT 1
