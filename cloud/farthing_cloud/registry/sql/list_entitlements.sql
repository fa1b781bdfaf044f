SELECT content
FROM entitlement
WHERE %(operator_id)s = '' OR operator_id = %(operator_id)s
ORDER BY operator_id, entitlement_id
