-- Of each account on each gateway's floor: what was proven, what waits for its debt, and whether the operator bore a part of it.
WITH spent AS (
    SELECT b.gateway_id, f.key AS account_id, sum(f.value::numeric) AS micros
    FROM batches b
    CROSS JOIN LATERAL jsonb_each_text(b.floor) AS f
    WHERE b.proven
    GROUP BY b.gateway_id, f.key
)
SELECT coalesce(s.gateway_id, f.gateway_id), coalesce(s.account_id, f.account_id), coalesce(s.micros, 0)::bigint,
    coalesce(f.spent_micros, 0),
    EXISTS (
        SELECT FROM corrections c
        JOIN gateways g ON g.operator_id = c.operator_id AND g.gateway_id = coalesce(s.gateway_id, f.gateway_id)
        WHERE c.kind = 'write-off' AND c.account_id = coalesce(s.account_id, f.account_id))
FROM spent s
FULL JOIN floors f ON f.gateway_id = s.gateway_id AND f.account_id = s.account_id
ORDER BY 1, 2
