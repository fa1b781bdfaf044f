-- A window of which we do not know whether it was closed.
SELECT window_name FROM closing
WHERE operator_id = %(operator_id)s AND response IS NULL
ORDER BY asked_at_us LIMIT 1;
