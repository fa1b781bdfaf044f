-- The first to ask wins; who comes second asks with the same words.
INSERT INTO closing (operator_id, window_name, currency, request, asked_at_us)
VALUES (%(operator_id)s, %(window)s, %(currency)s, %(request)s, %(at_us)s)
ON CONFLICT (operator_id, window_name) DO UPDATE SET operator_id = excluded.operator_id
RETURNING request;
