WITH mine AS (
    SELECT split_part(a.path, '/', 1) AS kind, a.path, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted,
        a.credits_posted - a.debits_posted AS balance
    FROM accounts a
    WHERE a.operator_id = %(operator_id)s
), sums AS (
    SELECT kind, sum(debits_posted) AS debits, sum(balance) AS balance FROM mine GROUP BY kind
), taken AS (
    -- What went back to payers or their banks: no use was paid with it. (Of a chargeback all of it, though a part became debt.)
    SELECT coalesce(sum(c.amount_micros), 0) AS amount FROM corrections c
    WHERE c.operator_id = %(operator_id)s AND c.kind IN ('payback', 'chargeback', 'closing')
), short AS (
    -- What accounts had spent beyond all that a restored ledger knew of: it stands as their debt, so they have not paid it.
    SELECT coalesce(sum(t.amount_micros), 0) AS amount
    FROM postings p
    JOIN transfers t ON t.posting_id = p.id
    WHERE p.operator_id = %(operator_id)s AND p.kind = 'short' AND t.kind = 'post'
)
SELECT
    coalesce((SELECT b.open_window FROM books b WHERE b.operator_id = %(operator_id)s ORDER BY b.currency LIMIT 1), 'w1'),
    coalesce((SELECT sum(c.net_micros + c.tax_micros) FROM claims c WHERE c.operator_id = %(operator_id)s), 0)::bigint,
    (coalesce((SELECT debits FROM sums WHERE kind = 'payer'), 0) - (SELECT amount FROM taken) - (SELECT amount FROM short))::bigint,
    coalesce((SELECT -balance FROM sums WHERE kind = 'debt'), 0)::bigint,
    coalesce((SELECT -balance FROM sums WHERE kind = 'risk'), 0)::bigint,
    coalesce((SELECT -balance FROM sums WHERE kind = 'suspense'), 0)::bigint,
    coalesce((SELECT balance FROM sums WHERE kind = 'clearing'), 0)::bigint,
    coalesce((SELECT balance FROM sums WHERE kind = 'agency'), 0)::bigint,
    coalesce((SELECT balance FROM sums WHERE kind = 'fee'), 0)::bigint,
    coalesce((SELECT balance FROM sums WHERE kind = 'tax'), 0)::bigint,
    coalesce((SELECT -sum(balance) FROM sums WHERE kind IN ('bank', 'psp')), 0)::bigint,
    -- What is on its way back to them is theirs until the bank says that it left.
    coalesce((SELECT sum(balance) FROM sums WHERE kind IN ('payer', 'transit')), 0)::bigint,
    (SELECT count(*) FROM payers y
     JOIN mine m ON m.path = 'payer/' || y.account_id
     WHERE y.operator_id = %(operator_id)s
        AND m.debits_posted + m.debits_pending > m.credits_posted + y.credit_limit_micros),
    (SELECT count(*) FROM batches b WHERE b.operator_id = %(operator_id)s AND NOT b.proven),
    coalesce((SELECT sum(b.clearing_micros) FROM batches b
        WHERE b.operator_id = %(operator_id)s AND NOT b.proven), 0)::bigint,
    (SELECT count(*) FROM quotas q WHERE q.operator_id = %(operator_id)s AND q.status <> 'closed'),
    -- core/exposure.py, in SQL: the largest of the exposure and what is held, floored and billed, less what a gateway that is heard and
    -- witnessed holds.
    coalesce((SELECT sum(greatest(g.exposure_micros, m.credits_pending + g.floor_micros + g.beyond_micros)
            - CASE WHEN %(now_us)s - g.contact_at_us <= %(silent_us)s AND g.adopted AND g.witness_start_id <> ''
                AND NOT g.quarantined AND g.waits_because = '' THEN m.credits_pending ELSE 0 END)
        FROM gateways g
        JOIN mine m ON m.path = 'quota/' || g.gateway_id
        WHERE g.operator_id = %(operator_id)s), 0)::bigint,
    (SELECT amount FROM taken)::bigint,
    coalesce((SELECT balance FROM sums WHERE kind = 'transit'), 0)::bigint,
    coalesce((SELECT sum(b.parked_micros) FROM batches b WHERE b.operator_id = %(operator_id)s), 0)::bigint
