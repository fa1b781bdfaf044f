SELECT position, at_us, kind, body, chain FROM entries
WHERE position BETWEEN ? AND ? AND kind IN (10, 14) ORDER BY position;
