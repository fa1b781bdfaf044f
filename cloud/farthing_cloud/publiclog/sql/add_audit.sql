INSERT INTO audit (batch_hash, checkpoint_size, rate_ppm, drawn_at_us, due_at_us)
VALUES (%(batch_hash)s, %(checkpoint_size)s, %(rate_ppm)s, %(drawn_at_us)s, %(due_at_us)s)
ON CONFLICT (batch_hash) DO NOTHING
