SELECT gateway_id FROM gateway WHERE operator_id = %(operator_id)s ORDER BY gateway_id
