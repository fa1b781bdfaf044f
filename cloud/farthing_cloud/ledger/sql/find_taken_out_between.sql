-- Among the postings of an operator after a place of its audit chain, up to another one.
SELECT o.first_posting, o.last_posting
FROM transfers_taken_out o
WHERE EXISTS (
    SELECT FROM postings p
    WHERE p.operator_id = %(operator_id)s AND p.position > %(after)s AND p.position <= %(to)s
        AND p.id BETWEEN o.first_posting AND o.last_posting)
ORDER BY o.first_posting
LIMIT 1
