SELECT canonical FROM payout_plan WHERE operator_id = %(operator_id)s AND window_name = %(window)s;
