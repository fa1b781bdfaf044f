DELETE FROM directives
WHERE gateway_id = %(gateway_id)s AND version > %(version)s
