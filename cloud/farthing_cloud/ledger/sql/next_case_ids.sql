SELECT nextval(pg_get_serial_sequence('cases', 'id'))
FROM generate_series(1, %(count)s)
