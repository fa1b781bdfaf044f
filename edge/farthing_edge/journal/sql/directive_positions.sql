SELECT position FROM directives WHERE version > ? ORDER BY version LIMIT ?;
