SELECT c.currency
FROM cases c
WHERE c.operator_id = %(operator_id)s AND c.id = %(case_id)s
