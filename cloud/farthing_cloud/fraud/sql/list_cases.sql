-- Newest first, with all that a summary says. A case is open while something is still to be done about it.
SELECT fraud_case.case_id, fraud_case.operator_id, fraud_case.kind, fraud_case.device_id, fraud_case.device_epoch,
       fraud_case.opened_at_us,
       CASE WHEN EXISTS (SELECT 1 FROM action WHERE action.case_id = fraud_case.case_id AND action.state = 'due')
            THEN 'open' ELSE 'acted' END AS status,
       (SELECT count(*) FROM proof WHERE proof.case_id = fraud_case.case_id) AS proofs,
       first_proof.counter, first_proof.first_gateway_id, first_proof.second_gateway_id,
       set_aside.ledger_case_ids, set_aside.aside_micros
FROM fraud_case
JOIN LATERAL (
    SELECT counter, first_gateway_id, second_gateway_id FROM proof
    WHERE proof.case_id = fraud_case.case_id ORDER BY arrival LIMIT 1
) AS first_proof ON true
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(ledger_case_id ORDER BY ledger_case_id), '{}') AS ledger_case_ids,
           coalesce(sum(aside_micros), 0)::bigint AS aside_micros
    FROM overlap
    WHERE overlap.operator_id = fraud_case.operator_id AND overlap.device_id = fraud_case.device_id
) AS set_aside
WHERE (%(operator_id)s::text = '' OR fraud_case.operator_id = %(operator_id)s)
  AND (%(case_id)s::bigint IS NULL OR fraud_case.case_id = %(case_id)s)
ORDER BY fraud_case.case_id DESC
LIMIT %(limit)s;
