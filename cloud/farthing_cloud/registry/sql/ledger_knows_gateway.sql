UPDATE gateway
SET ledger_revision = %(revision)s
WHERE gateway_id = %(gateway_id)s AND ledger_revision < %(revision)s
