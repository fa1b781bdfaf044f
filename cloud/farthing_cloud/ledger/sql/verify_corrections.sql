WITH taken AS (
    SELECT p.operator_id, p.correction_id, sum(p.net_micros + p.tax_micros) AS micros
    FROM corrected_parts p GROUP BY p.operator_id, p.correction_id
), moved AS (
    SELECT t.posting_id, sum(t.amount_micros) AS micros
    FROM transfers t
    WHERE t.cause IN ('refund', 'goodwill', 'payback', 'payback-sent', 'payback-failed', 'payback-returned', 'chargeback', 'write-off')
    GROUP BY t.posting_id
)
SELECT format('correction %%s: %%s', coalesce(c.correction_id, split_part(a.subject, '/', 1)),
    CASE
        WHEN c.correction_id IS NULL THEN 'it was posted, and what was asked for is not there'
        WHEN a.id IS NULL THEN 'no posting made it'
        WHEN a.subject <> c.correction_id || '/' || encode(sha256(c.content), 'hex') || '/' || c.person
            THEN 'what was asked for, or who asked, is not what was posted'
        WHEN t.micros <> c.amount_micros THEN 'its parts do not add up to it'
        ELSE 'its transfers do not add up to it'
    END)
FROM corrections c
FULL JOIN (SELECT p.id, p.operator_id, p.subject FROM postings p WHERE p.kind = 'correction') AS a ON a.id = c.posting_id
LEFT JOIN taken t ON t.operator_id = c.operator_id AND t.correction_id = c.correction_id
LEFT JOIN moved m ON m.posting_id = c.posting_id
WHERE a.id IS NULL
    OR c.correction_id IS NULL
    OR a.subject <> c.correction_id || '/' || encode(sha256(c.content), 'hex') || '/' || c.person
    OR t.micros <> c.amount_micros
    -- A dispute's own figure is gross: its net moves, its tax waits until it is lost.
    OR (c.kind NOT IN ('dispute', 'dispute-won') AND coalesce(m.micros, 0) <> c.amount_micros)
ORDER BY coalesce(c.posting_id, a.id)
LIMIT 1
