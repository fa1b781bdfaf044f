-- Who serves may change what has to change, and nothing beside it: rows of what was posted, asked and told get a word or two later on.
DO $$
DECLARE
    narrowed record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        RETURN;
    END IF;
    FOR narrowed IN SELECT * FROM (VALUES
        ('books', 'open_window'),
        ('accounts', 'debits_pending, debits_posted, credits_pending, credits_posted'),
        ('chains', 'sequence, head_hash, proven_sequence'),
        ('quotas', 'posted_micros, voided_micros, status, in_use_at_us'),
        ('quota_requests', ''),
        ('audit_heads', 'position, head'),
        ('payments', ''),
        -- Proven; and, of what stood in a window's clearing, what people released or took back.
        ('batches', 'proven, clearing_micros'),
        ('parked_lines', ''),
        ('parked_batches', ''),
        -- Only locked. (A lock wants the right to change something: a number drawn anew is a register that no claim names, as verify says.)
        ('registers', 'id'),
        ('claims', 'register_to, net_micros, tax_micros, final, aside, incarnation, sequence, raised_by'),
        ('cases', 'status'),
        ('asides', ''),
        -- The signature follows the transaction that wrote the bytes.
        ('directives', 'signature, key_id'),
        ('told', ''),
        ('closings', ''),
        ('outbox', ''),
        ('decisions', 'approved_by, approved_at_us'),
        ('correction_plans', 'approved_by, approved_at_us'),
        ('import_reviews', 'approved_by, approved_at_us'),
        ('batch_keys', 'until_us, revoked_us')
    ) AS n (name, columns)
    LOOP
        EXECUTE format('REVOKE UPDATE ON %I FROM farthing_ledger', narrowed.name);
        IF narrowed.columns <> '' THEN
            EXECUTE format('GRANT UPDATE (%s) ON %I TO farthing_ledger', narrowed.columns, narrowed.name);
        END IF;
    END LOOP;
    -- What was given to nobody: what carried ends left standing, and the numbers that are drawn before their rows are written.
    EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON carried_beyond TO farthing_ledger';
    EXECUTE format('GRANT USAGE ON SEQUENCE %s, %s TO farthing_ledger', pg_get_serial_sequence('postings', 'id'),
        pg_get_serial_sequence('cases', 'id'));
END
$$;
