SELECT position FROM batches WHERE incarnation = ? AND sequence = ?;
