SELECT name, checksum FROM schema_step ORDER BY name
