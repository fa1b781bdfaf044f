SELECT position, at_us, kind, body, chain FROM entries
WHERE position >= ? AND (? IS NULL OR kind = ?) ORDER BY position LIMIT ?;
