UPDATE starts SET last_position = ? WHERE last_position IS NULL;
