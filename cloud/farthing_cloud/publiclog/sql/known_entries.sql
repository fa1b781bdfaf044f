-- All that was said of these subjects, oldest first.
SELECT subject, entry
FROM leaf
WHERE log = %(log)s AND subject = ANY (%(subjects)s::bytea[])
ORDER BY leaf_index
