SELECT entry
FROM leaf
WHERE log = %(log)s AND leaf_index >= %(start)s
ORDER BY leaf_index
LIMIT %(limit)s
