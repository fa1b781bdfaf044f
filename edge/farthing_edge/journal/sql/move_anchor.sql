INSERT INTO anchor (id, position, chain, batches, directives, billed_micros) VALUES (1, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET position = excluded.position, chain = excluded.chain, batches = excluded.batches,
directives = excluded.directives, billed_micros = excluded.billed_micros;
