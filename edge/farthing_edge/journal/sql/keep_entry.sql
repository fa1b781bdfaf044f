INSERT INTO kept (position, previous_chain) VALUES (?, ?);
