WITH digests AS (
    SELECT t.posting_id,
        sha256(convert_to(string_agg(concat(t.kind, '|', d.path, '|', c.path, '|', t.amount_micros, '|', q.quota_id, '|',
            t.cause, '|', t.line, '|', encode(t.authorization_id, 'hex'), E'\n'), '' ORDER BY t.id), 'UTF8')) AS digest
    FROM transfers t
    JOIN accounts d ON d.id = t.debit_id
    JOIN accounts c ON c.id = t.credit_id
    LEFT JOIN quotas q ON q.id = t.quota
    GROUP BY t.posting_id
), links AS (
    SELECT p.*, lag(p.position, 1, 0) OVER chain AS position_before,
        lag(p.head, 1, decode(repeat('00', 32), 'hex')) OVER chain AS head_before,
        lead(p.position) OVER chain AS position_after,
        coalesce(g.digest, sha256('')) AS digest_again
    FROM postings p
    LEFT JOIN digests g ON g.posting_id = p.id
    WINDOW chain AS (PARTITION BY p.operator_id ORDER BY p.position)
), judged AS (
    SELECT l.*,
        CASE
            WHEN l.position <> l.position_before + 1 THEN 'the one before it is missing'
            WHEN l.digest <> l.digest_again THEN 'its transfers are not those that were posted'
            WHEN l.head <> sha256(l.head_before || convert_to(concat(l.operator_id, '|', l.currency, '|', l.kind, '|',
                l.subject, '|', l.posted_at_us, '|', l.business_at_us, '|'), 'UTF8') || l.digest)
                THEN 'it does not follow the one before it'
            WHEN l.position_after IS NULL AND (h.position, h.head) IS DISTINCT FROM (l.position, l.head)
                THEN 'the chain ends elsewhere'
        END AS fault
    FROM links l
    LEFT JOIN audit_heads h ON h.operator_id = l.operator_id
)
SELECT format('audit link %%s of %%s (posting %%s): %%s', j.position, j.operator_id, j.id, j.fault)
FROM judged j
WHERE j.fault IS NOT NULL
ORDER BY j.id
LIMIT 1
