-- Among the postings that wrote down what an operator's accounts lacked after a restore: its sums rest on them.
SELECT o.first_posting, o.last_posting
FROM transfers_taken_out o
WHERE EXISTS (
    SELECT FROM postings p
    WHERE p.operator_id = %(operator_id)s AND p.kind = 'short' AND p.id BETWEEN o.first_posting AND o.last_posting)
ORDER BY o.first_posting
LIMIT 1
