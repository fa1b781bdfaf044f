-- Mass corrections: plans that people approve, and which corrections executed them.

CREATE TABLE correction_plans (
    plan_id        text PRIMARY KEY,
    operator_id    text NOT NULL,
    currency       text NOT NULL,
    -- CorrectionPlanContent (ledger.proto), byte for byte as it was approved.
    content        bytea NOT NULL,
    content_hash   bytea NOT NULL CHECK (content_hash = sha256(content)),
    items          bigint NOT NULL,
    refunds        bigint NOT NULL,
    back_micros    numeric(38, 0) NOT NULL CHECK (back_micros >= 0),
    planned_by     text NOT NULL,
    planned_at_us  bigint NOT NULL,
    approved_by    text,
    approved_at_us bigint,
    CHECK ((approved_by IS NULL) = (approved_at_us IS NULL)),
    -- Maker and checker are two persons.
    CHECK (approved_by <> planned_by)
);
CREATE INDEX correction_plans_in_order ON correction_plans (operator_id, planned_at_us);

CREATE FUNCTION refuse_change_of_plan() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.approved_by IS NOT NULL
        OR (OLD.plan_id, OLD.operator_id, OLD.currency, OLD.content, OLD.items, OLD.refunds, OLD.back_micros, OLD.planned_by,
            OLD.planned_at_us)
        IS DISTINCT FROM
            (NEW.plan_id, NEW.operator_id, NEW.currency, NEW.content, NEW.items, NEW.refunds, NEW.back_micros, NEW.planned_by,
            NEW.planned_at_us) THEN
        RAISE EXCEPTION 'a plan does not change' USING ERRCODE = 'raise_exception';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER no_change BEFORE UPDATE ON correction_plans FOR EACH ROW EXECUTE FUNCTION refuse_change_of_plan();
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON correction_plans
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The plan that a correction executes; empty for one that a person asked for by itself.
ALTER TABLE corrections ADD COLUMN plan_id text NOT NULL DEFAULT '';
CREATE INDEX corrections_of_plan ON corrections (plan_id, posting_id) WHERE plan_id <> '';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON correction_plans TO farthing_ledger');
    END IF;
END
$$;
