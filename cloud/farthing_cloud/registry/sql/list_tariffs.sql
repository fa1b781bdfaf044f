SELECT content
FROM tariff
WHERE %(operator_id)s = '' OR operator_id = %(operator_id)s
ORDER BY operator_id, tariff_id, version
