-- What brings parked statements (field 26, the tag 0xD2 0x01), what could, and what says that it does.
SELECT b.gateway_id, b.incarnation, b.sequence, b.batch, b.parked_statements
FROM batches b
WHERE b.parked_statements <> 0 OR position('\xd201'::bytea IN b.batch) > 0
ORDER BY b.id
