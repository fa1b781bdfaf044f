SELECT c.answer
FROM closings c
WHERE c.operator_id = %(operator_id)s AND c.currency = %(currency)s AND c.closed = %(window)s
