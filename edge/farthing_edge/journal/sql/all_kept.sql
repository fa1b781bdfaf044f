SELECT position, previous_chain FROM kept ORDER BY position;
