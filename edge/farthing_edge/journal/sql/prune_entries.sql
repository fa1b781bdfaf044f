DELETE FROM entries WHERE position BETWEEN ? AND ?
AND position NOT IN (SELECT position FROM kept);
