-- From the beginning, up to what the reader furthest back has passed, and up to the first row that is not old: what is gone is all up to one
-- place. Nothing while a reader that is waited for has never said how far it is.
WITH passed AS (
    SELECT r.transaction_id, r.sequence
    FROM outbox_readers r
    WHERE (SELECT count(*) FROM outbox_readers k WHERE k.reader = ANY (%(readers)s::text[])) = cardinality(%(readers)s::text[])
    ORDER BY r.transaction_id, r.sequence
    LIMIT 1
), first AS (
    SELECT o.transaction_id, o.sequence, o.at_us
    FROM outbox o
    CROSS JOIN passed p
    WHERE (o.transaction_id, o.sequence) <= (p.transaction_id, p.sequence)
        -- What is still under way may write before what it has passed: no reader has seen further than this.
        AND o.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY o.transaction_id, o.sequence
    LIMIT %(limit)s
), dated AS (
    SELECT f.transaction_id, f.sequence,
        bool_and(f.at_us < %(before_us)s) OVER (ORDER BY f.transaction_id, f.sequence) AS old
    FROM first f
), gone AS (
    DELETE FROM outbox o
    USING dated d
    WHERE d.old AND o.transaction_id = d.transaction_id AND o.sequence = d.sequence
    RETURNING o.transaction_id, o.sequence
), marked AS (
    INSERT INTO outbox_pruned (transaction_id, sequence)
    SELECT g.transaction_id, g.sequence FROM gone g ORDER BY g.transaction_id DESC, g.sequence DESC LIMIT 1
    ON CONFLICT (only_row) DO UPDATE SET transaction_id = excluded.transaction_id, sequence = excluded.sequence
)
SELECT count(*) FROM gone
