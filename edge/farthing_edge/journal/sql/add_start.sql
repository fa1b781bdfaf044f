INSERT INTO starts (first_position, start_id, incarnation) VALUES (?, ?, ?);
