UPDATE gateway
SET vault_revision = %(revision)s
WHERE gateway_id = %(gateway_id)s AND vault_revision < %(revision)s
