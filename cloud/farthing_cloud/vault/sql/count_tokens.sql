SELECT count(*) FROM token WHERE operator_id = %(operator_id)s
