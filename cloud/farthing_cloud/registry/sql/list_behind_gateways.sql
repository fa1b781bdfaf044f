SELECT gateway_id FROM gateway WHERE ledger_revision < revision OR vault_revision < revision
UNION
SELECT gateway_id FROM wish WHERE parked_reason IS NULL
ORDER BY gateway_id
