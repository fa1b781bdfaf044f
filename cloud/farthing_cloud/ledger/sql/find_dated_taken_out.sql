-- Among the postings of an operator that are dated after an instant, or up to it.
SELECT o.first_posting, o.last_posting
FROM transfers_taken_out o
WHERE EXISTS (
    SELECT FROM postings p
    WHERE p.operator_id = %(operator_id)s AND p.id BETWEEN o.first_posting AND o.last_posting
        AND (CASE WHEN %(by_business)s THEN p.business_at_us ELSE p.posted_at_us END > %(at_us)s) = %(after)s)
ORDER BY o.first_posting
LIMIT 1
