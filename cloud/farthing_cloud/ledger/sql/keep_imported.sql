INSERT INTO imported_batches (batch_hash, gateway_id, incarnation, sequence, batch, signature, key_id, leaves, person, at_us)
SELECT sha256(%(batch)s::bytea), %(gateway_id)s, %(incarnation)s, %(sequence)s, %(batch)s, %(signature)s, %(key_id)s, %(leaves)s, %(person)s,
    %(at_us)s
WHERE (SELECT count(*) FROM imported_batches i WHERE i.gateway_id = %(gateway_id)s) < %(most)s
ON CONFLICT (batch_hash) DO NOTHING
