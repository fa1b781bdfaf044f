SELECT t.gateway_id
FROM told t
WHERE t.operator_id = %(operator_id)s AND t.account_id = %(account_id)s
ORDER BY t.gateway_id
