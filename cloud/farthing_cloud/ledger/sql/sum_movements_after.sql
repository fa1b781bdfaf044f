-- What transfers after a place added to a payer's account and debt. (Ids of postings bound what is looked at: partitions before are not.)
SELECT t.kind, t.debit_id, t.credit_id, t.quota <> 0, sum(t.amount_micros)
FROM transfers t
JOIN postings p ON p.id = t.posting_id
WHERE t.posting_id >= (
        SELECT min(s.id) FROM postings s WHERE s.operator_id = %(operator_id)s AND s.position > %(position)s)
    AND (t.debit_id IN (%(payer_id)s, %(debt_id)s) OR t.credit_id IN (%(payer_id)s, %(debt_id)s))
    AND p.operator_id = %(operator_id)s AND p.position > %(position)s
GROUP BY 1, 2, 3, 4
