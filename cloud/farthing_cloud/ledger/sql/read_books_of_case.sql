SELECT c.operator_id, c.currency
FROM cases c
WHERE c.id = %(case_id)s
