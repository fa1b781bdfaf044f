UPDATE batches SET signature = ?, key_id = ? WHERE incarnation = ? AND sequence = ? AND signature IS NULL;
