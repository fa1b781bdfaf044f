SELECT size, root, note
FROM checkpoint
WHERE log = %(log)s
ORDER BY size DESC
LIMIT 1
