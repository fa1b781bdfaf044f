SELECT t.account_id
FROM told t
WHERE t.operator_id = %(operator_id)s AND t.account_id = ANY (%(account_ids)s::text[]) AND t.gateway_id = %(gateway_id)s
