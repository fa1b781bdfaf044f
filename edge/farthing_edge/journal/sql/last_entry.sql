SELECT position, chain FROM entries ORDER BY position DESC LIMIT 1;
