-- The partitions of the transfers, and making the next ones.

-- What is attached: postings first_posting up to, not including, end_posting.
CREATE OR REPLACE VIEW transfer_partitions AS
SELECT c.relname::text AS name, n.bounds[1]::bigint AS first_posting, n.bounds[2]::bigint AS end_posting, c.oid AS table_id
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \('?(\d+)'?\) TO \('?(\d+)'?\)$$) AS n (bounds)
WHERE i.inhparent = 'transfers'::regclass AND NOT i.inhdetachpending;

-- Postings whose transfers have no partition here, though a later one is there: they were taken out.
CREATE OR REPLACE VIEW transfers_taken_out AS
SELECT s.before AS first_posting, s.first_posting - 1 AS last_posting
FROM (
    SELECT p.first_posting, lag(p.end_posting, 1, 1::bigint) OVER (ORDER BY p.first_posting) AS before FROM transfer_partitions p
) AS s
WHERE s.before < s.first_posting;

-- See to it that a whole range of p_postings is ready after the one that is being written; how many were made. Who serves may call it, and may
-- make no tables otherwise. Nobody who posts waits: a table is made apart, and attached.
CREATE OR REPLACE FUNCTION make_transfer_partitions(p_postings bigint) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    v_last bigint;
    v_next bigint;
    v_name text;
    v_made integer := 0;
BEGIN
    -- One at a time; against each other, not against who posts.
    LOCK TABLE ONLY transfers IN SHARE UPDATE EXCLUSIVE MODE;
    v_last := coalesce(pg_sequence_last_value(pg_get_serial_sequence('postings', 'id')::regclass), 0);
    SELECT coalesce(max(p.end_posting), 1) INTO v_next FROM transfer_partitions p;
    WHILE v_next <= v_last + p_postings LOOP
        v_name := 'transfers_from_' || v_next;
        EXECUTE format('CREATE TABLE %I (LIKE transfers INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)', v_name);
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', v_name);
        EXECUTE format('ALTER TABLE transfers ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', v_name, v_next, v_next + p_postings);
        v_next := v_next + p_postings;
        v_made := v_made + 1;
    END LOOP;
    RETURN v_made;
END
$$;

DO $$
BEGIN
    -- With its owner's rights, in its own schema, whatever the caller's search_path is.
    EXECUTE format('ALTER FUNCTION make_transfer_partitions(bigint) SET search_path TO %I, pg_temp', current_schema());
    REVOKE ALL ON FUNCTION make_transfer_partitions(bigint) FROM PUBLIC;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE 'GRANT EXECUTE ON FUNCTION make_transfer_partitions(bigint) TO farthing_ledger';
        EXECUTE 'GRANT SELECT ON transfer_partitions, transfers_taken_out TO farthing_ledger';
    END IF;
END
$$;
