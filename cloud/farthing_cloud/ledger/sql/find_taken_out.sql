SELECT o.first_posting, o.last_posting
FROM transfers_taken_out o
WHERE EXISTS (SELECT FROM unnest(%(posting_ids)s::bigint[]) AS n (id) WHERE n.id BETWEEN o.first_posting AND o.last_posting)
ORDER BY o.first_posting
LIMIT 1
