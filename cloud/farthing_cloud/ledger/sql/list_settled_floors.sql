SELECT f.gateway_id, f.account_id
FROM floors f
JOIN gateways g ON g.gateway_id = f.gateway_id
JOIN accounts d ON d.operator_id = g.operator_id AND d.currency = g.currency AND d.path = 'debt/' || f.account_id
WHERE f.spent_micros > 0 AND d.debits_posted = d.credits_posted
ORDER BY f.gateway_id, f.account_id
LIMIT %(limit)s
