SELECT content FROM operator WHERE operator_id = %(operator_id)s
