-- What stands against a gateway's exposure, and what it ever billed late, again from what was posted. Beyond holds go three causes; a carried
-- end's transfers have no line, and stand against who granted it (docs/adr/0037).
WITH beyond AS (
    SELECT t.posting_id, t.line IS NULL AS carried, t.cause, t.authorization_id, t.amount_micros,
        nullif(substring(d.path FROM '^(?:payer|debt)/(.*)$'), '') AS account_id
    FROM transfers t
    JOIN accounts d ON d.id = t.debit_id
    WHERE t.kind = 'post' AND t.cause IN ('overrun', 'late', 'floor')
), own AS (
    SELECT posting_id, sum(amount_micros) AS micros, coalesce(sum(amount_micros) FILTER (WHERE cause = 'late'), 0) AS late
    FROM beyond WHERE NOT carried GROUP BY posting_id
), floored AS (
    SELECT n.posting_id, jsonb_object_agg(n.account_id, n.micros) AS floor
    FROM (
        SELECT posting_id, account_id, sum(amount_micros) AS micros
        FROM beyond WHERE NOT carried AND cause = 'floor' AND account_id IS NOT NULL GROUP BY posting_id, account_id
    ) AS n
    GROUP BY n.posting_id
), granted AS (
    -- Only a gateway that signs another's authorization for its own makes it unclear whose of two it is; then the two are looked at together.
    SELECT b.posting_id, decode(c.end ->> 'authorization_id', 'hex') AS authorization_id, array_agg(DISTINCT c.end ->> 'gateway_id') AS by
    FROM batches b
    CROSS JOIN LATERAL jsonb_array_elements(b.carried) AS c ("end")
    GROUP BY 1, 2
), by_others AS (
    SELECT g.by[1] AS gateway_id, sum(o.amount_micros) AS micros, coalesce(sum(o.amount_micros) FILTER (WHERE o.cause = 'late'), 0) AS late
    FROM beyond o
    JOIN granted g ON g.posting_id = o.posting_id AND g.authorization_id = o.authorization_id AND cardinality(g.by) = 1
    WHERE o.carried
    GROUP BY g.by[1]
), unclear AS (
    SELECT DISTINCT n.gateway_id FROM granted g CROSS JOIN LATERAL unnest(g.by) AS n (gateway_id) WHERE cardinality(g.by) > 1
), said AS (
    SELECT b.gateway_id, sum(b.beyond_micros) AS micros, coalesce(sum(b.beyond_micros) FILTER (WHERE NOT b.proven), 0) AS unproven,
        coalesce(sum(o.micros), 0) AS own, coalesce(sum(o.late), 0) AS late
    FROM batches b
    LEFT JOIN own o ON o.posting_id = b.posting_id
    GROUP BY b.gateway_id
), kept AS (
    SELECT c.gateway_id, sum(c.micros) AS micros FROM carried_beyond c GROUP BY c.gateway_id
)
SELECT fault FROM (
    SELECT 1 AS rule, format('batch %%s of %%s, incarnation %%s: what it billed beyond holds or on the floor is not what was posted', b.sequence,
        b.gateway_id, b.incarnation) AS fault
    FROM batches b
    LEFT JOIN own o ON o.posting_id = b.posting_id
    LEFT JOIN floored f ON f.posting_id = b.posting_id
    WHERE b.beyond_micros < coalesce(o.micros, 0) OR b.floor <> coalesce(f.floor, '{}')
    UNION ALL
    SELECT 2, format('gateway %%s: its batches and what others carried give %%s beyond holds, what was posted gives %%s', g.gateway_id,
        coalesce(s.micros, 0) + coalesce(k.micros, 0), coalesce(s.own, 0) + coalesce(o.micros, 0))
    FROM gateways g
    LEFT JOIN said s ON s.gateway_id = g.gateway_id
    LEFT JOIN kept k ON k.gateway_id = g.gateway_id
    LEFT JOIN by_others o ON o.gateway_id = g.gateway_id
    WHERE coalesce(s.micros, 0) + coalesce(k.micros, 0) <> coalesce(s.own, 0) + coalesce(o.micros, 0)
        AND NOT EXISTS (SELECT FROM unclear u WHERE u.gateway_id = g.gateway_id)
    UNION ALL
    SELECT 3, format('gateway %%s: %%s stand against its exposure, what is not proven gives %%s', g.gateway_id, g.beyond_micros,
        coalesce(s.unproven, 0) + coalesce(k.micros, 0))
    FROM gateways g
    LEFT JOIN said s ON s.gateway_id = g.gateway_id
    LEFT JOIN kept k ON k.gateway_id = g.gateway_id
    WHERE g.beyond_micros <> coalesce(s.unproven, 0) + coalesce(k.micros, 0)
    UNION ALL
    -- Of what others carried, what stood on no quota is not late: the grants in the batches' bytes say which.
    SELECT 4, format('gateway %%s: it says that %%s were late, what was posted gives %%s, and at most %%s by others', g.gateway_id, g.late_micros,
        coalesce(s.late, 0), coalesce(o.late, 0))
    FROM gateways g
    LEFT JOIN said s ON s.gateway_id = g.gateway_id
    LEFT JOIN by_others o ON o.gateway_id = g.gateway_id
    WHERE g.late_micros NOT BETWEEN coalesce(s.late, 0) AND coalesce(s.late, 0) + coalesce(o.late, 0)
        AND NOT EXISTS (SELECT FROM unclear u WHERE u.gateway_id = g.gateway_id)
) AS faults
ORDER BY rule, fault
LIMIT 1
