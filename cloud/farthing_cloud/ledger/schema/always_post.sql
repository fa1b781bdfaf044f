-- Post decisions: all of one or nothing. The arrays of a group run in parallel.
--
-- Applied at every start where its text has changed. Programs of before and after run side by side: what an older one sends, the newer
-- text takes; other parameters make another function, and the one of before stays until a post_ step drops it.
--
-- One decision is one call of post. Batches that are posted together are one call of post_rows for each, and one of post_rest for all,
-- in one transaction: while PostgreSQL writes the rows of one batch, its caller plans the next.
--
-- Locks: the caller holds books, gateways, registers and payers (in that order, each by id); here follow, when all that can be written
-- without them has been written, the other accounts by id and the head of the audit chain: they are every gateway's, and held shortest.

-- What only this decision has: its transfers and claims, and quotas it grants, which its transfers name. The id of its posting.
CREATE OR REPLACE FUNCTION post_rows(
    p_operator_id text, p_currency text,
    -- accounts that transfers name
    a_path text[],
    -- what else transfers name: sorts, quotas, authorizations
    s_kind text[], s_cause text[], n_quota text[], n_authorization bytea[],
    -- transfers: sort, accounts, quota and authorization are indexes from 1 into the arrays above (0: none); line -1 for none
    t_sort integer[], t_debit integer[], t_credit integer[], t_amount bigint[], t_quota integer[], t_line integer[],
    t_authorization integer[],
    -- claims after; register: registers.id, as the caller has locked it; known: it was there before
    c_authorization bytea[], c_register bigint[], c_from numeric[], c_to numeric[], c_net bigint[], c_tax bigint[],
    c_final boolean[], c_aside boolean[], c_known boolean[], c_gateway text, c_incarnation bigint, c_sequence bigint,
    -- all rows there are few of, by table; a table without rows is not named
    p_rest jsonb
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[];
    v_quotas bigint[];
    v_posting bigint;
BEGIN
    SELECT array_agg(a.id ORDER BY n.place) INTO v_ids
    FROM unnest(a_path) WITH ORDINALITY AS n (path, place)
    -- Each by its name, whatever PostgreSQL knows of the table: OFFSET 0 keeps it from looking through all of an operator's.
    LEFT JOIN LATERAL (
        SELECT o.id FROM accounts o WHERE o.operator_id = p_operator_id AND o.currency = p_currency AND o.path = n.path OFFSET 0
    ) AS a ON true;
    IF array_position(v_ids, NULL) IS NOT NULL THEN
        -- Accounts that are not there yet; in the order of their names, so that two of us cannot wait for each other.
        INSERT INTO accounts (operator_id, path, currency)
        SELECT p_operator_id, n.path, p_currency
        FROM unnest(a_path, v_ids) AS n (path, id)
        WHERE n.id IS NULL
        ORDER BY n.path
        ON CONFLICT DO NOTHING;
        SELECT array_agg(a.id ORDER BY n.place) INTO v_ids
        FROM unnest(a_path) WITH ORDINALITY AS n (path, place)
        CROSS JOIN LATERAL (
            SELECT o.id FROM accounts o WHERE o.operator_id = p_operator_id AND o.currency = p_currency AND o.path = n.path OFFSET 0
        ) AS a;
    END IF;

    v_posting := nextval(pg_get_serial_sequence('postings', 'id'));

    IF p_rest ? 'quotas' THEN
        INSERT INTO quotas (quota_id, operator_id, currency, gateway_id, incarnation, account_id, amount_micros, status,
            spend_until_us, report_until_us, request_counter)
        SELECT n.quota_id, p_operator_id, p_currency, n.gateway_id, n.incarnation, n.account_id, n.amount_micros, n.status,
            n.spend_until_us, n.report_until_us, n.request_counter
        FROM jsonb_to_recordset(p_rest -> 'quotas') AS n (quota_id text, gateway_id text, incarnation bigint, account_id text,
            amount_micros bigint, status text, spend_until_us bigint, report_until_us bigint, request_counter bigint);
    END IF;

    IF cardinality(t_amount) > 0 THEN
        SELECT array_agg(q.id ORDER BY n.place) INTO v_quotas
        FROM unnest(n_quota) WITH ORDINALITY AS n (quota_id, place)
        LEFT JOIN quotas q ON q.quota_id = n.quota_id;
        INSERT INTO transfers (posting_id, debit_id, credit_id, amount_micros, quota, line, kind, cause, authorization_id)
        SELECT v_posting, v_ids[t.debit], v_ids[t.credit], t.amount, coalesce(v_quotas[t.quota], 0), nullif(t.line, -1),
            s_kind[t.sort], s_cause[t.sort], n_authorization[t.authorization_place]
        FROM unnest(t_sort, t_debit, t_credit, t_amount, t_quota, t_line, t_authorization) WITH ORDINALITY
            AS t (sort, debit, credit, amount, quota, line, authorization_place, place)
        ORDER BY t.place;
    END IF;

    IF cardinality(c_authorization) > 0 THEN
        -- Nearly all are new: an insert that looks for a conflict writes half as much again.
        INSERT INTO claims (authorization_id, register, register_from, register_to, net_micros, tax_micros, final, aside,
            operator_id, gateway_id, incarnation, sequence)
        SELECT c.authorization_id, c.register, c.register_from, c.register_to, c.net, c.tax, c.final, c.aside,
            p_operator_id, c_gateway, c_incarnation, c_sequence
        FROM unnest(c_authorization, c_register, c_from, c_to, c_net, c_tax, c_final, c_aside, c_known)
            AS c (authorization_id, register, register_from, register_to, net, tax, final, aside, known)
        WHERE NOT c.known;
        IF true = ANY (c_known) THEN
            UPDATE claims o
            SET register_to = c.register_to, net_micros = c.net, tax_micros = c.tax, final = c.final, aside = c.aside,
                incarnation = c_incarnation, sequence = c_sequence, raised_by = NULL
            FROM unnest(c_authorization, c_to, c_net, c_tax, c_final, c_aside, c_known)
                AS c (authorization_id, register_to, net, tax, final, aside, known)
            WHERE c.known AND o.authorization_id = c.authorization_id AND o.gateway_id = c_gateway;
        END IF;
    END IF;

    -- Claims on other gateways' authorizations: few.
    IF p_rest ? 'carried_claims' THEN
        INSERT INTO claims (authorization_id, register, register_from, register_to, net_micros, tax_micros, final, aside,
            operator_id, gateway_id, incarnation, sequence, raised_by)
        SELECT n.authorization_id, r.id, n.register_from, n.register_to, n.net_micros, n.tax_micros, n.final, n.aside,
            p_operator_id, n.gateway_id, n.incarnation, n.sequence, n.raised_by
        FROM jsonb_to_recordset(p_rest -> 'carried_claims') AS n (authorization_id bytea, device_id text, register_id text,
            register_epoch bigint, register_from numeric, register_to numeric, net_micros bigint, tax_micros bigint, final boolean,
            aside boolean, gateway_id text, incarnation bigint, sequence bigint, raised_by text)
        JOIN registers r USING (device_id, register_id, register_epoch)
        ON CONFLICT (authorization_id, gateway_id) DO UPDATE
        SET register_to = excluded.register_to, net_micros = excluded.net_micros, tax_micros = excluded.tax_micros,
            final = excluded.final, aside = excluded.aside, incarnation = excluded.incarnation, sequence = excluded.sequence,
            raised_by = excluded.raised_by;
    END IF;

    RETURN v_posting;
END
$$;

-- What several decisions of one kind and moment write together, when the rows of each are there: what they leave of every row that they
-- change, each once, and a link of the audit chain for each, in order. The head after each link.
CREATE OR REPLACE FUNCTION post_rest(
    p_operator_id text, p_currency text, p_kind text, p_posted_at_us bigint,
    -- the links
    l_posting bigint[], l_subject text[], l_business_at_us bigint[], l_body bytea[], l_digest bytea[],
    -- accounts: what each gains
    a_path text[], a_debits_pending bigint[], a_debits_posted bigint[], a_credits_pending bigint[], a_credits_posted bigint[],
    -- quotas after
    q_id text[], q_posted bigint[], q_voided bigint[], q_status text[],
    -- demand after
    d_gateway text[], d_account text[], d_micros bigint[], d_at_us bigint[],
    -- outbox
    e_kind text[], e_key text[], e_value bytea[], e_traceparent text[],
    -- the batches' own bytes, in the order of the links; and all rows there are few of, by table; a table without rows is not named.
    -- Only who posts one decision names rows that carry its posting, or that none of several could share.
    b_batch bytea[], p_rest jsonb
) RETURNS bytea[]
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[];
    v_heads bytea[] := '{}';
    v_head bytea;
    v_position bigint;
BEGIN
    IF p_rest ? 'payers' THEN
        INSERT INTO payers AS p (operator_id, currency, account_id, status, credit_limit_micros, debt_limit_micros, preload_micros)
        SELECT p_operator_id, p_currency, n.account_id, n.status, n.credit_limit_micros, n.debt_limit_micros, n.preload_micros
        FROM jsonb_to_recordset(p_rest -> 'payers') AS n (account_id text, status text, credit_limit_micros bigint,
            debt_limit_micros bigint, preload_micros bigint)
        ON CONFLICT (operator_id, account_id) DO UPDATE
        SET status = excluded.status, credit_limit_micros = excluded.credit_limit_micros,
            debt_limit_micros = excluded.debt_limit_micros, preload_micros = excluded.preload_micros;
    END IF;

    INSERT INTO gateways AS g (gateway_id, operator_id, site_id, currency, exposure_micros, beyond_micros, floor_micros,
        incarnation, adopted, quarantined, directive_version, directive_hash, time_zone, batch_key, grant_key,
        witness_start_id, witness_position, contact_at_us, sealed_sequence, late_micros, waits_because, waits_start_id)
    SELECT n.gateway_id, n.operator_id, n.site_id, n.currency, n.exposure_micros, n.beyond_micros, n.floor_micros,
        n.incarnation, n.adopted, n.quarantined, n.directive_version, n.directive_hash, n.time_zone, n.batch_key,
        n.grant_key, n.witness_start_id, n.witness_position, coalesce(n.contact_at_us, b.contact_at_us, 0),
        coalesce(n.sealed_sequence, b.sealed_sequence, 0), coalesce(n.late_micros, b.late_micros, 0),
        coalesce(n.waits_because, b.waits_because, ''), coalesce(n.waits_start_id, b.waits_start_id, '')
    FROM jsonb_to_recordset(p_rest -> 'gateways') AS n (gateway_id text, operator_id text, site_id text, currency text,
        exposure_micros bigint, beyond_micros numeric, floor_micros bigint, incarnation bigint, adopted boolean,
        quarantined boolean, directive_version bigint, directive_hash bytea, time_zone text, batch_key bytea,
        grant_key bytea, witness_start_id bytea, witness_position bigint, contact_at_us bigint, sealed_sequence bigint,
        late_micros numeric, waits_because text, waits_start_id bytea)
    LEFT JOIN gateways b ON b.gateway_id = n.gateway_id
    ON CONFLICT (gateway_id) DO UPDATE
    SET exposure_micros = excluded.exposure_micros, beyond_micros = excluded.beyond_micros,
        floor_micros = excluded.floor_micros, incarnation = excluded.incarnation, adopted = excluded.adopted,
        quarantined = excluded.quarantined, directive_version = excluded.directive_version,
        directive_hash = excluded.directive_hash, time_zone = excluded.time_zone, batch_key = excluded.batch_key,
        grant_key = excluded.grant_key, witness_start_id = excluded.witness_start_id,
        witness_position = excluded.witness_position, contact_at_us = excluded.contact_at_us,
        sealed_sequence = excluded.sealed_sequence, late_micros = excluded.late_micros,
        waits_because = excluded.waits_because, waits_start_id = excluded.waits_start_id;

    INSERT INTO chains (gateway_id, incarnation, sequence, head_hash, proven_sequence)
    SELECT n.gateway_id, n.incarnation, n.sequence, n.head_hash, n.proven_sequence
    FROM jsonb_to_recordset(p_rest -> 'chains') AS n (gateway_id text, incarnation bigint, sequence bigint, head_hash bytea,
        proven_sequence bigint)
    ON CONFLICT (gateway_id, incarnation) DO UPDATE
    SET sequence = excluded.sequence, head_hash = excluded.head_hash, proven_sequence = excluded.proven_sequence;

    IF cardinality(d_account) > 0 THEN
        INSERT INTO demand (gateway_id, account_id, micros, at_us)
        SELECT d.gateway_id, d.account_id, d.micros, d.at_us
        FROM unnest(d_gateway, d_account, d_micros, d_at_us) AS d (gateway_id, account_id, micros, at_us)
        ON CONFLICT (gateway_id, account_id) DO UPDATE SET micros = excluded.micros, at_us = excluded.at_us;
    END IF;

    IF cardinality(e_kind) > 0 THEN
        INSERT INTO outbox (kind, key, at_us, value, traceparent)
        SELECT e.kind, e.key, p_posted_at_us, e.value, e.traceparent
        FROM unnest(e_kind, e_key, e_value, e_traceparent) WITH ORDINALITY AS e (kind, key, value, traceparent, place)
        ORDER BY e.place;
    END IF;

    IF p_rest ? 'cases' THEN
        INSERT INTO cases (id, operator_id, currency, kind, site_id, device_id, authorization_id, other_authorization_id,
            missing_micros, opened_at_us, detail)
        OVERRIDING SYSTEM VALUE
        SELECT n.id, p_operator_id, p_currency, n.kind, n.site_id, n.device_id, n.authorization_id, n.other_authorization_id,
            n.missing_micros, p_posted_at_us, coalesce(n.detail, '')
        FROM jsonb_to_recordset(p_rest -> 'cases') AS n (id bigint, kind text, site_id text, device_id text,
            authorization_id bytea, other_authorization_id bytea, missing_micros bigint, detail text);
    END IF;

    IF p_rest ? 'asides' THEN
        INSERT INTO asides (case_id, gateway_id, incarnation, sequence, line, account_id, site_id, rate_ppm, net_micros, tax_micros)
        SELECT n.case_id, n.gateway_id, n.incarnation, n.sequence, n.line, n.account_id, n.site_id, n.rate_ppm, n.net_micros,
            n.tax_micros
        FROM jsonb_to_recordset(p_rest -> 'asides') AS n (case_id bigint, gateway_id text, incarnation bigint, sequence bigint,
            line integer, account_id text, site_id text, rate_ppm integer, net_micros bigint, tax_micros bigint);
    END IF;

    IF p_rest ? 'decided' THEN
        UPDATE cases c SET status = n.status
        FROM jsonb_to_recordset(p_rest -> 'decided') AS n (case_id bigint, status text)
        WHERE c.id = n.case_id;
    END IF;

    IF p_rest ? 'gateway_cases_closed' THEN
        UPDATE gateway_cases c SET status = 'closed', closed_at_us = p_posted_at_us
        FROM jsonb_to_recordset(p_rest -> 'gateway_cases_closed') AS n (gateway_id text, incarnation bigint, kind text)
        WHERE (c.gateway_id, c.incarnation, c.kind) = (n.gateway_id, n.incarnation, n.kind) AND c.status = 'open';
    END IF;
    IF p_rest ? 'gateway_cases' THEN
        INSERT INTO gateway_cases (operator_id, gateway_id, incarnation, kind, detail, opened_at_us)
        SELECT p_operator_id, n.gateway_id, n.incarnation, n.kind, n.detail, p_posted_at_us
        FROM jsonb_to_recordset(p_rest -> 'gateway_cases') AS n (gateway_id text, incarnation bigint, kind text, detail text)
        ON CONFLICT (gateway_id, incarnation, kind) WHERE status = 'open' DO NOTHING;
    END IF;

    IF p_rest ? 'proposed' THEN
        INSERT INTO decisions (decision_id, kind, operator_id, currency, gateway_id, incarnation, reason, content, content_hash,
            proposed_by, proposed_at_us)
        SELECT n.decision_id, n.kind, p_operator_id, p_currency, n.gateway_id, n.incarnation, n.reason, n.content, n.content_hash,
            n.proposed_by, n.proposed_at_us
        FROM jsonb_to_recordset(p_rest -> 'proposed') AS n (decision_id text, kind text, gateway_id text, incarnation bigint,
            reason text, content bytea, content_hash bytea, proposed_by text, proposed_at_us bigint);
    END IF;
    IF p_rest ? 'approved' THEN
        UPDATE decisions d SET approved_by = n.approved_by, approved_at_us = n.approved_at_us
        FROM jsonb_to_recordset(p_rest -> 'approved') AS n (decision_id text, approved_by text, approved_at_us bigint)
        WHERE d.decision_id = n.decision_id;
    END IF;

    IF p_rest ? 'directives' THEN
        INSERT INTO directives (gateway_id, version, previous_hash, body, body_hash, idempotency_key)
        SELECT n.gateway_id, n.version, n.previous_hash, n.body, n.body_hash, n.idempotency_key
        FROM jsonb_to_recordset(p_rest -> 'directives') AS n (gateway_id text, version bigint, previous_hash bytea, body bytea,
            body_hash bytea, idempotency_key text);
    END IF;

    IF p_rest ? 'floors' THEN
        INSERT INTO floors (gateway_id, account_id, spent_micros)
        SELECT n.gateway_id, n.account_id, n.spent_micros
        FROM jsonb_to_recordset(p_rest -> 'floors') AS n (gateway_id text, account_id text, spent_micros bigint)
        ON CONFLICT (gateway_id, account_id) DO UPDATE SET spent_micros = excluded.spent_micros;
    END IF;

    IF p_rest ? 'told' THEN
        INSERT INTO told (gateway_id, operator_id, account_id)
        SELECT n.gateway_id, p_operator_id, n.account_id
        FROM jsonb_to_recordset(p_rest -> 'told') AS n (gateway_id text, account_id text);
    END IF;

    IF p_rest ? 'requests' THEN
        INSERT INTO quota_requests (gateway_id, incarnation, counter, account_id, wanted_micros, answer, quota_id, amount_micros)
        SELECT n.gateway_id, n.incarnation, n.counter, n.account_id, n.wanted_micros, n.answer, n.quota_id, n.amount_micros
        FROM jsonb_to_recordset(p_rest -> 'requests') AS n (gateway_id text, incarnation bigint, counter numeric, account_id text,
            wanted_micros bigint, answer integer, quota_id text, amount_micros bigint);
    END IF;

    IF p_rest ? 'payments' THEN
        INSERT INTO payments (operator_id, currency, payment_id, account_id, amount_micros, source, posting_id)
        SELECT p_operator_id, p_currency, n.payment_id, n.account_id, n.amount_micros, n.source, l_posting[1]
        FROM jsonb_to_recordset(p_rest -> 'payments') AS n (payment_id text, account_id text, amount_micros bigint, source text);
    END IF;

    IF p_rest ? 'closings' THEN
        INSERT INTO closings (operator_id, currency, closed, answer, closed_at_us, posting_id)
        SELECT p_operator_id, p_currency, n.closed, n.answer, p_posted_at_us, l_posting[1]
        FROM jsonb_to_recordset(p_rest -> 'closings') AS n (closed text, answer bytea);
        UPDATE books b SET open_window = n.next_window
        FROM jsonb_to_recordset(p_rest -> 'closings') AS n (closed text, next_window text)
        WHERE b.operator_id = p_operator_id AND b.currency = p_currency AND b.open_window = n.closed;
    END IF;

    IF p_rest ? 'released' THEN
        UPDATE batches b SET clearing_micros = b.clearing_micros + n.net_micros
        FROM (
            SELECT r.gateway_id, r.incarnation, r.sequence, sum(r.net_micros) AS net_micros
            FROM jsonb_to_recordset(p_rest -> 'released') AS r (gateway_id text, incarnation bigint, sequence bigint,
                net_micros bigint)
            GROUP BY r.gateway_id, r.incarnation, r.sequence
        ) AS n
        WHERE (b.gateway_id, b.incarnation, b.sequence) = (n.gateway_id, n.incarnation, n.sequence);
    END IF;

    IF p_rest ? 'proven' THEN
        UPDATE batches b SET proven = true
        FROM jsonb_to_recordset(p_rest -> 'proven') AS n (gateway_id text, incarnation bigint, sequence bigint)
        WHERE (b.gateway_id, b.incarnation, b.sequence) = (n.gateway_id, n.incarnation, n.sequence);
        UPDATE chains c
        SET proven_sequence = coalesce(
            (SELECT min(b.sequence) - 1 FROM batches b
             WHERE b.gateway_id = c.gateway_id AND b.incarnation = c.incarnation AND b.sequence > c.proven_sequence
                 AND NOT b.proven),
            c.sequence)
        FROM jsonb_to_recordset(p_rest -> 'proven') AS n (gateway_id text, incarnation bigint)
        WHERE (c.gateway_id, c.incarnation) = (n.gateway_id, n.incarnation);
    END IF;

    SELECT array_agg(a.id ORDER BY n.place) INTO v_ids
    FROM unnest(a_path) WITH ORDINALITY AS n (path, place)
    CROSS JOIN LATERAL (
        SELECT o.id FROM accounts o WHERE o.operator_id = p_operator_id AND o.currency = p_currency AND o.path = n.path OFFSET 0
    ) AS a;
    PERFORM 1 FROM accounts a WHERE a.id = ANY (v_ids) ORDER BY a.id FOR NO KEY UPDATE;
    UPDATE accounts a
    SET debits_pending  = a.debits_pending + n.debits_pending,
        debits_posted   = a.debits_posted + n.debits_posted,
        credits_pending = a.credits_pending + n.credits_pending,
        credits_posted  = a.credits_posted + n.credits_posted
    FROM unnest(v_ids, a_debits_pending, a_debits_posted, a_credits_pending, a_credits_posted)
        AS n (id, debits_pending, debits_posted, credits_pending, credits_posted)
    WHERE a.id = n.id;

    IF cardinality(q_id) > 0 THEN
        UPDATE quotas q
        SET posted_micros = n.posted, voided_micros = n.voided, status = n.status
        FROM unnest(q_id, q_posted, q_voided, q_status) AS n (quota_id, posted, voided, status)
        WHERE q.quota_id = n.quota_id;
    END IF;
    IF p_rest ? 'in_use' THEN
        UPDATE quotas q SET in_use_at_us = n.at_us
        FROM jsonb_to_recordset(p_rest -> 'in_use') AS n (quota_id text, at_us bigint)
        WHERE q.quota_id = n.quota_id;
    END IF;

    INSERT INTO audit_heads AS h (operator_id, position, head)
    VALUES (p_operator_id, 0, decode(repeat('00', 32), 'hex'))
    ON CONFLICT (operator_id) DO NOTHING;
    SELECT h.position, h.head INTO v_position, v_head
    FROM audit_heads h WHERE h.operator_id = p_operator_id FOR NO KEY UPDATE;
    FOR v_link IN 1 .. cardinality(l_posting) LOOP
        v_head := sha256(v_head || l_body[v_link]);
        v_heads := v_heads || v_head;
    END LOOP;
    UPDATE audit_heads h SET position = v_position + cardinality(l_posting), head = v_head WHERE h.operator_id = p_operator_id;
    INSERT INTO postings (id, operator_id, currency, position, kind, subject, posted_at_us, business_at_us, digest, head)
    OVERRIDING SYSTEM VALUE
    SELECT l.posting_id, p_operator_id, p_currency, v_position + l.place, p_kind, l.subject, p_posted_at_us, l.business_at_us,
        l.digest, l.head
    FROM unnest(l_posting, l_subject, l_business_at_us, l_digest, v_heads) WITH ORDINALITY
        AS l (posting_id, subject, business_at_us, digest, head, place);

    IF cardinality(b_batch) > 0 THEN
        WITH added AS (
            INSERT INTO batches (batch_hash, gateway_id, incarnation, sequence, operator_id, currency, site_id, previous_hash,
                batch, signature, key_id, start_id, first_position, last_position, directive_version, sealed_at_us,
                merkle_root, leaf_count, lines, claims, due_micros, net_micros, tax_micros, aside_micros, parked_micros,
                beyond_micros, floor, clearing_micros, posting_id, posted_at_us, ledger_epoch, audit_head, proven, carried,
                parked_statements)
            SELECT n.batch_hash, n.gateway_id, n.incarnation, n.sequence, p_operator_id, p_currency, n.site_id,
                n.previous_hash, b_batch[n.place], n.signature, n.key_id, n.start_id, n.first_position, n.last_position,
                n.directive_version, n.sealed_at_us, n.merkle_root, n.leaf_count, n.lines, n.claims, n.due_micros,
                n.net_micros, n.tax_micros, n.aside_micros, n.parked_micros, n.beyond_micros, n.floor,
                coalesce(n.clearing_micros, n.net_micros), l_posting[n.place], p_posted_at_us, e.epoch, v_heads[n.place], n.proven,
                coalesce(n.carried, '[]'), coalesce(n.parked_statements, 0)
            FROM jsonb_to_recordset(p_rest -> 'batches') AS n (place integer, batch_hash bytea, gateway_id text, incarnation bigint,
                sequence bigint, site_id text, previous_hash bytea, signature bytea, key_id bytea, start_id bytea,
                first_position numeric, last_position numeric, directive_version numeric, sealed_at_us bigint,
                merkle_root bytea, leaf_count bigint, lines integer, claims integer, due_micros bigint,
                net_micros bigint, tax_micros bigint, aside_micros bigint, parked_micros bigint, beyond_micros bigint,
                floor jsonb, proven boolean, clearing_micros bigint, carried jsonb,
                parked_statements integer)
            CROSS JOIN epoch e
            ORDER BY n.place
            RETURNING id, posting_id
        )
        INSERT INTO parked_lines (batch_id, line, reason, net_micros, tax_micros)
        SELECT added.id, n.line, n.reason, n.net_micros, n.tax_micros
        FROM added
        JOIN jsonb_to_recordset(p_rest -> 'parked') AS n (place integer, line integer, reason text, net_micros bigint,
            tax_micros bigint) ON l_posting[n.place] = added.posting_id;
    END IF;
    RETURN v_heads;
END
$$;

-- One decision.
CREATE OR REPLACE FUNCTION post(
    p_operator_id text, p_currency text, p_kind text, p_subject text, p_posted_at_us bigint, p_business_at_us bigint,
    p_body bytea, p_digest bytea,
    -- accounts: what each gains
    a_path text[], a_debits_pending bigint[], a_debits_posted bigint[], a_credits_pending bigint[], a_credits_posted bigint[],
    -- what transfers name: sorts, quotas, authorizations
    s_kind text[], s_cause text[], n_quota text[], n_authorization bytea[],
    -- transfers: sort, accounts, quota and authorization are indexes from 1 into the arrays above (0: none); line -1 for none
    t_sort integer[], t_debit integer[], t_credit integer[], t_amount bigint[], t_quota integer[], t_line integer[],
    t_authorization integer[],
    -- quotas after
    q_id text[], q_posted bigint[], q_voided bigint[], q_status text[],
    -- claims after; register: registers.id, as the caller has locked it; known: it was there before
    c_authorization bytea[], c_register bigint[], c_from numeric[], c_to numeric[], c_net bigint[], c_tax bigint[],
    c_final boolean[], c_aside boolean[], c_known boolean[], c_gateway text, c_incarnation bigint, c_sequence bigint,
    -- demand after
    d_gateway text[], d_account text[], d_micros bigint[], d_at_us bigint[],
    -- outbox
    e_kind text[], e_key text[], e_value bytea[], e_traceparent text[],
    -- the batch's own bytes, and all rows there are few of, by table; a table without rows is not named
    b_batch bytea, p_rest jsonb
) RETURNS TABLE (posting_id bigint, audit_head bytea)
LANGUAGE plpgsql AS $$
DECLARE
    -- The same, as rows of several batches are told apart.
    v_rest jsonb := p_rest;
BEGIN
    posting_id := post_rows(p_operator_id, p_currency, a_path, s_kind, s_cause, n_quota, n_authorization, t_sort, t_debit, t_credit,
        t_amount, t_quota, t_line, t_authorization, c_authorization, c_register, c_from, c_to, c_net, c_tax, c_final, c_aside, c_known,
        c_gateway, c_incarnation, c_sequence, p_rest);
    IF b_batch IS NOT NULL THEN
        v_rest := v_rest
            || jsonb_build_object('batches', jsonb_build_array(p_rest -> 'batch' || '{"place": 1}'))
            || jsonb_build_object('parked', (
                SELECT coalesce(jsonb_agg(n.parked || '{"place": 1}'), '[]')
                FROM jsonb_array_elements(p_rest -> 'parked') AS n (parked)));
    END IF;
    audit_head := (post_rest(p_operator_id, p_currency, p_kind, p_posted_at_us,
        ARRAY[posting_id], ARRAY[p_subject], ARRAY[p_business_at_us], ARRAY[p_body], ARRAY[p_digest],
        a_path, a_debits_pending, a_debits_posted, a_credits_pending, a_credits_posted, q_id, q_posted, q_voided, q_status,
        d_gateway, d_account, d_micros, d_at_us, e_kind, e_key, e_value, e_traceparent,
        CASE WHEN b_batch IS NULL THEN '{}' ELSE ARRAY[b_batch] END, v_rest))[1];
    RETURN NEXT;
END
$$;
