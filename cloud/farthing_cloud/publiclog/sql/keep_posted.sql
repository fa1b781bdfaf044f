INSERT INTO posted (batch_hash, operator_id, gateway_id, incarnation, sequence)
SELECT * FROM unnest(%(batch_hashes)s::bytea[], %(operator_ids)s::text[], %(gateway_ids)s::text[],
    %(incarnations)s::bigint[], %(sequences)s::bigint[])
ON CONFLICT (batch_hash) DO NOTHING
