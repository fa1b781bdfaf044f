SELECT position, at_us, kind, body, chain FROM entries
WHERE position BETWEEN ? AND ? ORDER BY position LIMIT ?;
