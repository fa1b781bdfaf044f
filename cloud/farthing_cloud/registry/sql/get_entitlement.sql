SELECT content
FROM entitlement
WHERE operator_id = %(operator_id)s AND entitlement_id = %(entitlement_id)s
