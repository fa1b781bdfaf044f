SELECT canonical FROM payout_plan WHERE plan_id = %(plan_id)s;
