SELECT p.head FROM postings p WHERE p.operator_id = %(operator_id)s AND p.position = %(position)s
