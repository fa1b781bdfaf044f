-- Of an operator's postings: how many are dated after an instant, and how many there are.
SELECT (
        SELECT count(*) FROM postings p
        WHERE p.operator_id = %(operator_id)s
            AND (NOT %(by_business)s AND p.posted_at_us > %(at_us)s OR %(by_business)s AND p.business_at_us > %(at_us)s)),
    coalesce((SELECT h.position FROM audit_heads h WHERE h.operator_id = %(operator_id)s), 0)
