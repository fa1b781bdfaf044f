SELECT body FROM entries WHERE kind = ? ORDER BY position;
