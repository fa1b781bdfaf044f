SELECT content
FROM site
WHERE %(operator_id)s = '' OR operator_id = %(operator_id)s
ORDER BY site_id
