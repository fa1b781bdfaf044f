-- The ledger refused: nothing was closed, and the next attempt may use other rules.
DELETE FROM closing WHERE operator_id = %(operator_id)s AND window_name = %(window)s AND response IS NULL;
