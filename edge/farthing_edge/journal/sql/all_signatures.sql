SELECT signature, key_id, incarnation, sequence FROM batches WHERE signature IS NOT NULL ORDER BY incarnation, sequence;
