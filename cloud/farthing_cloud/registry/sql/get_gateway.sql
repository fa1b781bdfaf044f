SELECT content, status, revision, ledger_revision, vault_revision
FROM gateway
WHERE gateway_id = %(gateway_id)s
