SELECT b.open_window
FROM books b
WHERE b.operator_id = %(operator_id)s AND b.currency = %(currency)s
FOR SHARE OF b
