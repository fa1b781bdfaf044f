WITH old AS (
    SELECT operator_id, authorization_id, gateway_id FROM session WHERE last_at_us < %(before_us)s
    ORDER BY last_at_us LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM session s USING old
    WHERE (s.operator_id, s.authorization_id, s.gateway_id) = (old.operator_id, old.authorization_id, old.gateway_id)
    RETURNING 1
)
SELECT count(*) FROM gone;
