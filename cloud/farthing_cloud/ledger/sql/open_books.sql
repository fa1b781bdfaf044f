INSERT INTO books (operator_id, currency)
VALUES (%(operator_id)s, %(currency)s)
ON CONFLICT DO NOTHING
