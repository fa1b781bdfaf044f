SELECT position, at_us, kind, body FROM entries WHERE kind = ? AND position <= ? ORDER BY position DESC LIMIT 1;
