SELECT incarnation, sequence, position, signature, key_id FROM batches
WHERE incarnation = ? AND sequence > ? AND signature IS NOT NULL ORDER BY sequence LIMIT ?;
