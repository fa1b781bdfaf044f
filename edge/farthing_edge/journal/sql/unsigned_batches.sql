SELECT incarnation, sequence, position FROM batches WHERE signature IS NULL ORDER BY incarnation, sequence;
