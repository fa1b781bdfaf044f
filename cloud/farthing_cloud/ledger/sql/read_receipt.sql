SELECT r.receipt, r.signature, r.key_id
FROM receipts r
WHERE r.batch_hash = %(batch_hash)s
