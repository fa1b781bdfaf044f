INSERT INTO checkpoint (log, size, root, note) VALUES (%(log)s, %(size)s, %(root)s, %(note)s)
