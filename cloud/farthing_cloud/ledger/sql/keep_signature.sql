UPDATE directives
SET signature = %(signature)s, key_id = %(key_id)s
WHERE gateway_id = %(gateway_id)s AND version = %(version)s AND signature IS NULL
