SELECT c.id, c.kind, c.status, c.device_id, c.authorization_id, c.other_authorization_id
FROM cases c
WHERE c.id = %(case_id)s AND c.operator_id = %(operator_id)s AND c.currency = %(currency)s
FOR NO KEY UPDATE
