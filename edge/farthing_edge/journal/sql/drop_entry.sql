DELETE FROM entries WHERE position = ? AND position IN (SELECT position FROM kept);
