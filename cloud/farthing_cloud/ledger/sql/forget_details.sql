WITH gone AS (
    DELETE FROM details d
    WHERE d.batch_id IN (
        SELECT o.batch_id FROM details o WHERE o.kept_at_us < %(before_us)s ORDER BY o.kept_at_us LIMIT %(limit)s)
    RETURNING 1
)
SELECT count(*) FROM gone
