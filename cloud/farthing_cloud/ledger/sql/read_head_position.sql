SELECT coalesce((SELECT h.position FROM audit_heads h WHERE h.operator_id = %(operator_id)s), 0)
