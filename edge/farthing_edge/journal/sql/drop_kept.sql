DELETE FROM kept WHERE position = ?;
