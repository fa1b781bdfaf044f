SELECT p.currency
FROM payers p
WHERE p.operator_id = %(operator_id)s AND p.account_id = %(account_id)s
