UPDATE gateways
SET contact_at_us = %(contact_at_us)s
WHERE gateway_id = %(gateway_id)s AND contact_at_us <= %(contact_at_us)s - %(step_us)s
