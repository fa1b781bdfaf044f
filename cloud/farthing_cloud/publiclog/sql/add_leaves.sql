INSERT INTO leaf (log, leaf_index, subject, entry)
SELECT %(log)s, %(first)s + ordinal - 1, subject, entry
FROM unnest(%(subjects)s::bytea[], %(entries)s::bytea[]) WITH ORDINALITY AS given (subject, entry, ordinal)
