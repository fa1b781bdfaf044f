SELECT action.case_id, action.wish, fraud_case.operator_id, fraud_case.device_id
FROM action JOIN fraud_case USING (case_id)
WHERE action.state = 'due'
ORDER BY action.attempts, action.case_id
LIMIT %(limit)s;
