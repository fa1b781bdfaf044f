SELECT incarnation, sequence, position, signature, key_id FROM batches
WHERE signature IS NOT NULL ORDER BY incarnation, sequence;
