SELECT window_name FROM closing
WHERE operator_id = %(operator_id)s AND response IS NOT NULL
ORDER BY closed_at_us DESC, asked_at_us DESC LIMIT 1;
