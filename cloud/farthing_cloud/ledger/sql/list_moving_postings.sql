-- The next postings that touch a payer's account or debt.
WITH span AS (
    SELECT min(s.id) AS first, max(s.id) AS last FROM postings s
    WHERE s.operator_id = %(operator_id)s AND s.position > %(after)s AND s.position <= %(to)s
), touching AS (
    SELECT DISTINCT t.posting_id
    FROM transfers t
    -- As values that are known before a row is read: partitions outside are not looked at.
    WHERE t.posting_id BETWEEN (SELECT span.first FROM span) AND (SELECT span.last FROM span)
        AND (t.debit_id IN (%(payer_id)s, %(debt_id)s) OR t.credit_id IN (%(payer_id)s, %(debt_id)s))
)
SELECT p.id, p.position, p.kind, p.subject, p.posted_at_us, p.business_at_us
FROM touching
JOIN postings p ON p.id = touching.posting_id
WHERE p.operator_id = %(operator_id)s AND p.position > %(after)s AND p.position <= %(to)s
ORDER BY p.position
