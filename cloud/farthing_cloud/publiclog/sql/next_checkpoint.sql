SELECT size, root, note
FROM checkpoint
WHERE log = 'batches' AND size > %(size)s
ORDER BY size
LIMIT 1
