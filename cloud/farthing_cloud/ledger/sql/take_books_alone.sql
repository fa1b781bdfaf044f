SELECT b.open_window, e.epoch
FROM books b CROSS JOIN epoch e
WHERE b.operator_id = %(operator_id)s AND b.currency = %(currency)s
FOR UPDATE OF b
