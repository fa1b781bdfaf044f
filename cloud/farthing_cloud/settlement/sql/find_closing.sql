SELECT operator_id, window_name, currency, request, response, disagreement FROM closing
WHERE operator_id = %(operator_id)s AND window_name = %(window)s;
