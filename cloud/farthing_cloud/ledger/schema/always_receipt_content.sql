-- What a posted batch's receipt says, column by column as it is read.
CREATE OR REPLACE VIEW receipt_content AS
SELECT b.gateway_id, b.incarnation, b.sequence, b.batch_hash, b.ledger_epoch, b.posted_at_us, b.audit_head,
    coalesce((
        SELECT jsonb_agg(jsonb_build_array(p.line, p.reason) ORDER BY p.line) FROM parked_lines p
        WHERE p.batch_id = b.id), '[]') AS parked,
    b.id AS batch_id
FROM batches b;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE 'GRANT SELECT ON receipt_content TO farthing_ledger';
    END IF;
END
$$;
