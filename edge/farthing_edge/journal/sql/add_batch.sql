INSERT INTO batches (incarnation, sequence, position, batch_hash) VALUES (?, ?, ?, ?);
