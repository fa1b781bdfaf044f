SELECT path, sum(planned_micros) AS planned_micros FROM payout_promise
WHERE operator_id = %(operator_id)s GROUP BY path;
