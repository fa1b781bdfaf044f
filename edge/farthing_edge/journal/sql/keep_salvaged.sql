INSERT INTO salvaged (position, at_us, kind, body, chain) VALUES (?, ?, ?, ?, ?);
