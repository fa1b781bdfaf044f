INSERT INTO directives_set_aside (gateway_id, version, epoch, body, signature, key_id)
SELECT gateway_id, version, %(epoch)s, body, signature, key_id
FROM directives
WHERE gateway_id = %(gateway_id)s AND version > %(version)s
