SELECT operator_id, currency, coalesce(gateway_id, ''), kind
FROM decisions
WHERE decision_id = %(decision_id)s
