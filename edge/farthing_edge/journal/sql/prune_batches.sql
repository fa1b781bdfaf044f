DELETE FROM batches WHERE position BETWEEN ? AND ?;
