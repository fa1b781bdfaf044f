INSERT INTO receipts (batch_hash, receipt, signature, key_id)
SELECT n.batch_hash, n.receipt, n.signature, n.key_id
FROM unnest(%(batch_hashes)s::bytea[], %(receipts)s::bytea[], %(signatures)s::bytea[], %(key_ids)s::bytea[])
    AS n (batch_hash, receipt, signature, key_id)
ORDER BY n.batch_hash
ON CONFLICT (batch_hash) DO NOTHING
RETURNING batch_hash
