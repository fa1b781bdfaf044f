INSERT INTO parked_batches (batch_hash, gateway_id, incarnation, sequence, batch, signature, key_id, reason)
SELECT %(batch_hash)s, %(gateway_id)s, %(incarnation)s, %(sequence)s, %(batch)s, %(signature)s, %(key_id)s, %(reason)s
WHERE (SELECT count(*) FROM parked_batches p WHERE p.gateway_id = %(gateway_id)s) < %(most)s
ON CONFLICT (batch_hash) DO NOTHING
