INSERT INTO entries (position, at_us, kind, body, chain) VALUES (?, ?, ?, ?, ?);
