SELECT start_id FROM starts WHERE first_position <= ? ORDER BY first_position DESC LIMIT 1;
