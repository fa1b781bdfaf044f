SELECT revoked_at_us FROM gateway_revocations WHERE gateway_id = %(gateway_id)s
