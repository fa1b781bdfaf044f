INSERT INTO receipts (batch_hash, receipt, signature, key_id)
VALUES (%(batch_hash)s, %(receipt)s, %(signature)s, %(key_id)s)
ON CONFLICT (batch_hash) DO NOTHING
RETURNING 1
