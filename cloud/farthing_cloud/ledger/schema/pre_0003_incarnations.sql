-- New incarnations by decision, carried ends, silence, demand. The new `post` takes what an older caller sends: rows it does not name
-- stay as they are.

ALTER TABLE gateways
    -- When it was last heard, business time, and the last batch it said it had sealed: DESIGN 5.6.
    ADD COLUMN contact_at_us   bigint NOT NULL DEFAULT 0,
    ADD COLUMN sealed_sequence bigint NOT NULL DEFAULT 0,
    -- Billed on quotas beyond what was held for them, ever: P1's third exception.
    ADD COLUMN late_micros     numeric(38, 0) NOT NULL DEFAULT 0 CHECK (late_micros >= 0),
    -- Why it waits for a new incarnation, empty when it does not; and the start that did not agree.
    ADD COLUMN waits_because   text NOT NULL DEFAULT '',
    ADD COLUMN waits_start_id  bytea NOT NULL DEFAULT '';

-- Frozen: granted to an incarnation that is over; it still accepts postings.
ALTER TABLE quotas DROP CONSTRAINT quotas_status_check;
ALTER TABLE quotas ADD CONSTRAINT quotas_status_check
    CHECK (status IN ('open', 'recalled', 'stopped', 'frozen', 'closed'));
-- What silence may end, the longest overdue first.
CREATE INDEX quotas_overdue ON quotas (report_until_us) WHERE status <> 'closed';

-- The gateway whose batch raised it, where that is not the one that gave the authorization (a carried end).
ALTER TABLE claims ADD COLUMN raised_by text;
-- What a new incarnation goes on from.
CREATE INDEX claims_open ON claims (gateway_id) WHERE NOT final;

-- What the ledger made of a batch's carried ends: claims it computed itself, as [{authorization_id, gateway_id, register_to, net_micros, tax_micros}].
ALTER TABLE batches ADD COLUMN carried jsonb NOT NULL DEFAULT '[]';

ALTER TABLE cases ADD COLUMN detail text NOT NULL DEFAULT '';

-- Why people have to look at a gateway. One open case of a kind for each incarnation.
CREATE TABLE gateway_cases (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operator_id  text NOT NULL,
    gateway_id   text NOT NULL REFERENCES gateways (gateway_id),
    incarnation  bigint NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('incarnation', 'equivocation')),
    detail       text NOT NULL,
    status       text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'closed')),
    opened_at_us bigint NOT NULL,
    closed_at_us bigint
);
CREATE UNIQUE INDEX gateway_cases_open ON gateway_cases (gateway_id, incarnation, kind) WHERE status = 'open';

-- What one person proposed and another approved. `content` is what both saw, byte for byte; its hash is what was approved.
CREATE TABLE decisions (
    decision_id    text PRIMARY KEY,
    kind           text NOT NULL CHECK (kind IN ('incarnation', 'forced-void')),
    operator_id    text NOT NULL,
    currency       text NOT NULL,
    gateway_id     text NOT NULL REFERENCES gateways (gateway_id),
    incarnation    bigint NOT NULL,
    reason         text NOT NULL,
    content        bytea NOT NULL,
    content_hash   bytea NOT NULL CHECK (content_hash = sha256(content)),
    proposed_by    text NOT NULL,
    proposed_at_us bigint NOT NULL,
    approved_by    text,
    approved_at_us bigint,
    -- Maker and checker are two persons.
    CHECK (approved_by <> proposed_by),
    CHECK ((approved_by IS NULL) = (approved_at_us IS NULL))
);
CREATE FUNCTION refuse_change_of_decision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.approved_by IS NOT NULL
        OR (OLD.decision_id, OLD.kind, OLD.gateway_id, OLD.incarnation, OLD.content, OLD.content_hash, OLD.proposed_by)
            IS DISTINCT FROM
            (NEW.decision_id, NEW.kind, NEW.gateway_id, NEW.incarnation, NEW.content, NEW.content_hash, NEW.proposed_by)
    THEN
        RAISE EXCEPTION 'a decision does not change' USING ERRCODE = 'raise_exception';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER no_change BEFORE UPDATE ON decisions FOR EACH ROW EXECUTE FUNCTION refuse_change_of_decision();
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON decisions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Since when the ledger has been listening without a break, and when it last was, business time: only such time makes a gateway silent.
CREATE TABLE listening (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    since_us bigint NOT NULL,
    last_us  bigint NOT NULL
);
INSERT INTO listening (since_us, last_us) VALUES (0, -9000000000000000000);

-- What an account lately spent at a gateway: a sum that halves with time (core/demand.py).
CREATE TABLE demand (
    gateway_id text NOT NULL REFERENCES gateways (gateway_id),
    account_id text NOT NULL,
    micros     bigint NOT NULL CHECK (micros >= 0),
    at_us      bigint NOT NULL,
    PRIMARY KEY (gateway_id, account_id)
) WITH (fillfactor = 80);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON gateway_cases, decisions, demand, listening TO farthing_ledger');
    END IF;
END
$$;

-- Post one decision: one call, all of it or nothing. The arrays of a group run in parallel.
--
-- Locks: the caller holds books, gateways, registers and payers (in that order, each by id); here follow the other
-- accounts by id and, last and shortest, the head of the audit chain.
CREATE OR REPLACE FUNCTION post(
    p_operator_id text, p_currency text, p_kind text, p_subject text, p_posted_at_us bigint, p_business_at_us bigint,
    p_body bytea, p_digest bytea,
    -- accounts: what each gains
    a_path text[], a_debits_pending bigint[], a_debits_posted bigint[], a_credits_pending bigint[], a_credits_posted bigint[],
    -- transfers: accounts as indexes into a_path, from 1; quota as text, '' for none; line -1 for none
    t_kind text[], t_debit integer[], t_credit integer[], t_amount bigint[], t_quota text[], t_cause text[],
    t_line integer[], t_authorization bytea[],
    -- quotas after
    q_id text[], q_posted bigint[], q_voided bigint[], q_status text[],
    -- claims after
    c_authorization bytea[], c_device text[], c_register text[], c_epoch bigint[], c_from numeric[], c_to numeric[],
    c_net bigint[], c_tax bigint[], c_final boolean[], c_aside boolean[],
    c_gateway text, c_incarnation bigint, c_sequence bigint,
    -- outbox
    e_kind text[], e_key text[], e_value bytea[], e_traceparent text[],
    -- the batch's own bytes, and all rows there are few of, by table
    b_batch bytea, p_rest jsonb
) RETURNS TABLE (posting_id bigint, audit_head bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[];
    v_before bytea;
    v_position bigint;
BEGIN
    -- Accounts that are not there yet; in the order of their names, so that two of us cannot wait for each other.
    INSERT INTO accounts (operator_id, path, currency)
    SELECT p_operator_id, n.path, p_currency
    FROM unnest(a_path) AS n (path)
    WHERE NOT EXISTS (
        SELECT FROM accounts a
        WHERE a.operator_id = p_operator_id AND a.currency = p_currency AND a.path = n.path)
    ORDER BY n.path
    ON CONFLICT DO NOTHING;

    PERFORM 1 FROM accounts a
    WHERE a.operator_id = p_operator_id AND a.currency = p_currency AND a.path = ANY (a_path)
    ORDER BY a.id FOR NO KEY UPDATE;

    UPDATE accounts a
    SET debits_pending  = a.debits_pending + n.debits_pending,
        debits_posted   = a.debits_posted + n.debits_posted,
        credits_pending = a.credits_pending + n.credits_pending,
        credits_posted  = a.credits_posted + n.credits_posted
    FROM unnest(a_path, a_debits_pending, a_debits_posted, a_credits_pending, a_credits_posted)
        AS n (path, debits_pending, debits_posted, credits_pending, credits_posted)
    WHERE a.operator_id = p_operator_id AND a.currency = p_currency AND a.path = n.path;

    SELECT array_agg(a.id ORDER BY n.place) INTO v_ids
    FROM unnest(a_path) WITH ORDINALITY AS n (path, place)
    JOIN accounts a ON a.operator_id = p_operator_id AND a.currency = p_currency AND a.path = n.path;

    posting_id := nextval(pg_get_serial_sequence('postings', 'id'));

    INSERT INTO payers AS p (operator_id, currency, account_id, status, credit_limit_micros, debt_limit_micros, preload_micros)
    SELECT p_operator_id, p_currency, n.account_id, n.status, n.credit_limit_micros, n.debt_limit_micros, n.preload_micros
    FROM jsonb_to_recordset(p_rest -> 'payers') AS n (account_id text, status text, credit_limit_micros bigint,
        debt_limit_micros bigint, preload_micros bigint)
    ON CONFLICT (operator_id, account_id) DO UPDATE
    SET status = excluded.status, credit_limit_micros = excluded.credit_limit_micros,
        debt_limit_micros = excluded.debt_limit_micros, preload_micros = excluded.preload_micros;

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

    INSERT INTO quotas (quota_id, operator_id, currency, gateway_id, incarnation, account_id, amount_micros, status,
        spend_until_us, report_until_us, request_counter)
    SELECT n.quota_id, p_operator_id, p_currency, n.gateway_id, n.incarnation, n.account_id, n.amount_micros, n.status,
        n.spend_until_us, n.report_until_us, n.request_counter
    FROM jsonb_to_recordset(p_rest -> 'quotas') AS n (quota_id text, gateway_id text, incarnation bigint, account_id text,
        amount_micros bigint, status text, spend_until_us bigint, report_until_us bigint, request_counter bigint);

    IF cardinality(t_kind) > 0 THEN
        INSERT INTO transfers (posting_id, debit_id, credit_id, amount_micros, quota, line, kind, cause, authorization_id)
        SELECT post.posting_id, v_ids[t.debit], v_ids[t.credit], t.amount, coalesce(q.id, 0), nullif(t.line, -1),
            t.kind, t.cause, nullif(t.authorization_id, '')
        FROM unnest(t_kind, t_debit, t_credit, t_amount, t_quota, t_cause, t_line, t_authorization) WITH ORDINALITY
            AS t (kind, debit, credit, amount, quota, cause, line, authorization_id, place)
        LEFT JOIN quotas q ON q.quota_id = t.quota AND t.quota <> ''
        ORDER BY t.place;
    END IF;

    IF cardinality(q_id) > 0 THEN
        UPDATE quotas q
        SET posted_micros = n.posted, voided_micros = n.voided, status = n.status
        FROM unnest(q_id, q_posted, q_voided, q_status) AS n (quota_id, posted, voided, status)
        WHERE q.quota_id = n.quota_id;
    END IF;
    UPDATE quotas q SET in_use_at_us = n.at_us
    FROM jsonb_to_recordset(p_rest -> 'in_use') AS n (quota_id text, at_us bigint)
    WHERE q.quota_id = n.quota_id;

    IF cardinality(c_authorization) > 0 THEN
        INSERT INTO claims (authorization_id, register, register_from, register_to, net_micros, tax_micros, final, aside,
            operator_id, gateway_id, incarnation, sequence)
        SELECT c.authorization_id, r.id, c.register_from, c.register_to, c.net, c.tax, c.final, c.aside,
            p_operator_id, c_gateway, c_incarnation, c_sequence
        FROM unnest(c_authorization, c_device, c_register, c_epoch, c_from, c_to, c_net, c_tax, c_final, c_aside)
            AS c (authorization_id, device_id, register_id, register_epoch, register_from, register_to, net, tax, final,
                aside)
        JOIN registers r USING (device_id, register_id, register_epoch)
        ON CONFLICT (authorization_id, gateway_id) DO UPDATE
        SET register_to = excluded.register_to, net_micros = excluded.net_micros, tax_micros = excluded.tax_micros,
            final = excluded.final, aside = excluded.aside, incarnation = excluded.incarnation, sequence = excluded.sequence,
            raised_by = NULL;
    END IF;

    -- Claims on other gateways' authorizations: few.
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

    INSERT INTO demand (gateway_id, account_id, micros, at_us)
    SELECT n.gateway_id, n.account_id, n.micros, n.at_us
    FROM jsonb_to_recordset(p_rest -> 'demand') AS n (gateway_id text, account_id text, micros bigint, at_us bigint)
    ON CONFLICT (gateway_id, account_id) DO UPDATE SET micros = excluded.micros, at_us = excluded.at_us;

    IF cardinality(e_kind) > 0 THEN
        INSERT INTO outbox (kind, key, at_us, value, traceparent)
        SELECT e.kind, e.key, p_posted_at_us, e.value, e.traceparent
        FROM unnest(e_kind, e_key, e_value, e_traceparent) WITH ORDINALITY AS e (kind, key, value, traceparent, place)
        ORDER BY e.place;
    END IF;

    INSERT INTO cases (id, operator_id, currency, kind, site_id, device_id, authorization_id, other_authorization_id,
        missing_micros, opened_at_us, detail)
    OVERRIDING SYSTEM VALUE
    SELECT n.id, p_operator_id, p_currency, n.kind, n.site_id, n.device_id, n.authorization_id, n.other_authorization_id,
        n.missing_micros, p_posted_at_us, coalesce(n.detail, '')
    FROM jsonb_to_recordset(p_rest -> 'cases') AS n (id bigint, kind text, site_id text, device_id text,
        authorization_id bytea, other_authorization_id bytea, missing_micros bigint, detail text);

    INSERT INTO asides (case_id, gateway_id, incarnation, sequence, line, account_id, site_id, rate_ppm, net_micros, tax_micros)
    SELECT n.case_id, n.gateway_id, n.incarnation, n.sequence, n.line, n.account_id, n.site_id, n.rate_ppm, n.net_micros,
        n.tax_micros
    FROM jsonb_to_recordset(p_rest -> 'asides') AS n (case_id bigint, gateway_id text, incarnation bigint, sequence bigint,
        line integer, account_id text, site_id text, rate_ppm integer, net_micros bigint, tax_micros bigint);

    UPDATE cases c SET status = n.status
    FROM jsonb_to_recordset(p_rest -> 'decided') AS n (case_id bigint, status text)
    WHERE c.id = n.case_id;

    UPDATE gateway_cases c SET status = 'closed', closed_at_us = p_posted_at_us
    FROM jsonb_to_recordset(p_rest -> 'gateway_cases_closed') AS n (gateway_id text, incarnation bigint, kind text)
    WHERE (c.gateway_id, c.incarnation, c.kind) = (n.gateway_id, n.incarnation, n.kind) AND c.status = 'open';
    INSERT INTO gateway_cases (operator_id, gateway_id, incarnation, kind, detail, opened_at_us)
    SELECT p_operator_id, n.gateway_id, n.incarnation, n.kind, n.detail, p_posted_at_us
    FROM jsonb_to_recordset(p_rest -> 'gateway_cases') AS n (gateway_id text, incarnation bigint, kind text, detail text)
    ON CONFLICT (gateway_id, incarnation, kind) WHERE status = 'open' DO NOTHING;

    INSERT INTO decisions (decision_id, kind, operator_id, currency, gateway_id, incarnation, reason, content, content_hash,
        proposed_by, proposed_at_us)
    SELECT n.decision_id, n.kind, p_operator_id, p_currency, n.gateway_id, n.incarnation, n.reason, n.content, n.content_hash,
        n.proposed_by, n.proposed_at_us
    FROM jsonb_to_recordset(p_rest -> 'proposed') AS n (decision_id text, kind text, gateway_id text, incarnation bigint,
        reason text, content bytea, content_hash bytea, proposed_by text, proposed_at_us bigint);
    UPDATE decisions d SET approved_by = n.approved_by, approved_at_us = n.approved_at_us
    FROM jsonb_to_recordset(p_rest -> 'approved') AS n (decision_id text, approved_by text, approved_at_us bigint)
    WHERE d.decision_id = n.decision_id;

    INSERT INTO directives (gateway_id, version, previous_hash, body, body_hash, idempotency_key)
    SELECT n.gateway_id, n.version, n.previous_hash, n.body, n.body_hash, n.idempotency_key
    FROM jsonb_to_recordset(p_rest -> 'directives') AS n (gateway_id text, version bigint, previous_hash bytea, body bytea,
        body_hash bytea, idempotency_key text);

    INSERT INTO floors (gateway_id, account_id, spent_micros)
    SELECT n.gateway_id, n.account_id, n.spent_micros
    FROM jsonb_to_recordset(p_rest -> 'floors') AS n (gateway_id text, account_id text, spent_micros bigint)
    ON CONFLICT (gateway_id, account_id) DO UPDATE SET spent_micros = excluded.spent_micros;

    INSERT INTO told (gateway_id, operator_id, account_id)
    SELECT n.gateway_id, p_operator_id, n.account_id
    FROM jsonb_to_recordset(p_rest -> 'told') AS n (gateway_id text, account_id text);

    INSERT INTO quota_requests (gateway_id, incarnation, counter, account_id, wanted_micros, answer, quota_id, amount_micros)
    SELECT n.gateway_id, n.incarnation, n.counter, n.account_id, n.wanted_micros, n.answer, n.quota_id, n.amount_micros
    FROM jsonb_to_recordset(p_rest -> 'requests') AS n (gateway_id text, incarnation bigint, counter numeric, account_id text,
        wanted_micros bigint, answer integer, quota_id text, amount_micros bigint);

    INSERT INTO payments (operator_id, currency, payment_id, account_id, amount_micros, source, posting_id)
    SELECT p_operator_id, p_currency, n.payment_id, n.account_id, n.amount_micros, n.source, post.posting_id
    FROM jsonb_to_recordset(p_rest -> 'payments') AS n (payment_id text, account_id text, amount_micros bigint, source text);

    INSERT INTO closings (operator_id, currency, closed, answer, closed_at_us, posting_id)
    SELECT p_operator_id, p_currency, n.closed, n.answer, p_posted_at_us, post.posting_id
    FROM jsonb_to_recordset(p_rest -> 'closings') AS n (closed text, answer bytea);
    UPDATE books b SET open_window = n.next_window
    FROM jsonb_to_recordset(p_rest -> 'closings') AS n (closed text, next_window text)
    WHERE b.operator_id = p_operator_id AND b.currency = p_currency AND b.open_window = n.closed;

    UPDATE batches b SET clearing_micros = b.clearing_micros + n.net_micros
    FROM (
        SELECT r.gateway_id, r.incarnation, r.sequence, sum(r.net_micros) AS net_micros
        FROM jsonb_to_recordset(p_rest -> 'released') AS r (gateway_id text, incarnation bigint, sequence bigint,
            net_micros bigint)
        GROUP BY r.gateway_id, r.incarnation, r.sequence
    ) AS n
    WHERE (b.gateway_id, b.incarnation, b.sequence) = (n.gateway_id, n.incarnation, n.sequence);

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

    INSERT INTO audit_heads AS h (operator_id, position, head)
    VALUES (p_operator_id, 0, decode(repeat('00', 32), 'hex'))
    ON CONFLICT (operator_id) DO NOTHING;
    SELECT h.position + 1, h.head INTO v_position, v_before
    FROM audit_heads h WHERE h.operator_id = p_operator_id FOR NO KEY UPDATE;
    audit_head := sha256(v_before || p_body);
    UPDATE audit_heads h SET position = v_position, head = audit_head WHERE h.operator_id = p_operator_id;
    INSERT INTO postings (id, operator_id, currency, position, kind, subject, posted_at_us, business_at_us, digest, head)
    OVERRIDING SYSTEM VALUE
    VALUES (posting_id, p_operator_id, p_currency, v_position, p_kind, p_subject, p_posted_at_us, p_business_at_us,
        p_digest, audit_head);

    IF b_batch IS NOT NULL THEN
        WITH added AS (
            INSERT INTO batches (batch_hash, gateway_id, incarnation, sequence, operator_id, currency, site_id, previous_hash,
                batch, signature, key_id, start_id, first_position, last_position, directive_version, sealed_at_us,
                merkle_root, leaf_count, lines, claims, due_micros, net_micros, tax_micros, aside_micros, parked_micros,
                beyond_micros, floor, clearing_micros, posting_id, posted_at_us, ledger_epoch, audit_head, proven, carried)
            SELECT n.batch_hash, n.gateway_id, n.incarnation, n.sequence, p_operator_id, p_currency, n.site_id,
                n.previous_hash, b_batch, n.signature, n.key_id, n.start_id, n.first_position, n.last_position,
                n.directive_version, n.sealed_at_us, n.merkle_root, n.leaf_count, n.lines, n.claims, n.due_micros,
                n.net_micros, n.tax_micros, n.aside_micros, n.parked_micros, n.beyond_micros, n.floor,
                coalesce(n.clearing_micros, n.net_micros), post.posting_id, p_posted_at_us, e.epoch, post.audit_head, n.proven,
                coalesce(n.carried, '[]')
            FROM jsonb_to_record(p_rest -> 'batch') AS n (batch_hash bytea, gateway_id text, incarnation bigint,
                sequence bigint, site_id text, previous_hash bytea, signature bytea, key_id bytea, start_id bytea,
                first_position numeric, last_position numeric, directive_version numeric, sealed_at_us bigint,
                merkle_root bytea, leaf_count bigint, lines integer, claims integer, due_micros bigint,
                net_micros bigint, tax_micros bigint, aside_micros bigint, parked_micros bigint, beyond_micros bigint,
                floor jsonb, proven boolean, clearing_micros bigint, carried jsonb)
            CROSS JOIN epoch e
            RETURNING id
        )
        INSERT INTO parked_lines (batch_id, line, reason, net_micros, tax_micros)
        SELECT added.id, n.line, n.reason, n.net_micros, n.tax_micros
        FROM added
        CROSS JOIN jsonb_to_recordset(p_rest -> 'parked') AS n (line integer, reason text, net_micros bigint,
            tax_micros bigint);
    END IF;
    RETURN NEXT;
END
$$;
