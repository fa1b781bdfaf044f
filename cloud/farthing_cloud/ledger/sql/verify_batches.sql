WITH links AS (
    SELECT b.*, lag(b.sequence, 1, 0) OVER chain AS sequence_before,
        lag(b.batch_hash, 1, decode(repeat('00', 32), 'hex')) OVER chain AS hash_before,
        lead(b.sequence) OVER chain AS sequence_after
    FROM batches b
    WINDOW chain AS (PARTITION BY b.gateway_id, b.incarnation ORDER BY b.sequence)
), posted AS (
    SELECT t.posting_id,
        sum(t.amount_micros) FILTER (WHERE t.kind = 'post' AND t.cause IN ('use', 'overrun', 'late', 'floor')) AS billed,
        sum(t.amount_micros) FILTER (WHERE t.kind = 'post' AND t.cause IN ('second-claim', 'exposure', 'evidence-class', 'unknown-name')) AS aside
    FROM transfers t GROUP BY t.posting_id
)
SELECT format('batch %%s of %%s, incarnation %%s: %%s', l.sequence, l.gateway_id, l.incarnation,
    CASE
        WHEN sha256(l.batch) <> l.batch_hash THEN 'its bytes do not have its hash'
        WHEN l.sequence <> l.sequence_before + 1 THEN 'the one before it is missing'
        WHEN l.previous_hash <> l.hash_before THEN 'it does not follow the one before it'
        WHEN l.sequence_after IS NULL AND (c.sequence, c.head_hash) IS DISTINCT FROM (l.sequence, l.batch_hash)
            THEN 'the chain ends elsewhere'
        ELSE 'its transfers do not add up to it'
    END)
FROM links l
LEFT JOIN chains c ON c.gateway_id = l.gateway_id AND c.incarnation = l.incarnation
LEFT JOIN posted p ON p.posting_id = l.posting_id
WHERE sha256(l.batch) <> l.batch_hash
    OR l.sequence <> l.sequence_before + 1
    OR l.previous_hash <> l.hash_before
    OR (l.sequence_after IS NULL AND (c.sequence, c.head_hash) IS DISTINCT FROM (l.sequence, l.batch_hash))
    OR coalesce(p.billed, 0) <> l.net_micros + l.tax_micros
    OR coalesce(p.aside, 0) <> l.aside_micros
ORDER BY l.id
LIMIT 1
