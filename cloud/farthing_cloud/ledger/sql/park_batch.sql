INSERT INTO parked_batches (batch_hash, gateway_id, incarnation, sequence, batch, signature, key_id, reason)
VALUES (%(batch_hash)s, %(gateway_id)s, %(incarnation)s, %(sequence)s, %(batch)s, %(signature)s, %(key_id)s, %(reason)s)
ON CONFLICT (batch_hash) DO NOTHING
