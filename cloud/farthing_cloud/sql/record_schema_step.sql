INSERT INTO schema_step (name, checksum) VALUES (%(name)s, %(checksum)s)
