INSERT INTO directives (version, position, directive_hash) VALUES (?, ?, ?);
