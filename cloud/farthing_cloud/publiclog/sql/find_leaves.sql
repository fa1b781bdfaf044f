-- The newest of each subject, at most so many, below a size.
SELECT found.leaf_index, found.entry
FROM unnest(%(subjects)s::bytea[]) AS given (subject)
CROSS JOIN LATERAL (
    SELECT leaf_index, entry FROM leaf
    WHERE log = %(log)s AND leaf.subject = given.subject AND leaf_index < %(size)s
    ORDER BY leaf_index DESC
    LIMIT %(limit)s
) AS found
ORDER BY found.leaf_index
