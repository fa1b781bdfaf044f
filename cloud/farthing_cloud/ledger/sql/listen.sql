UPDATE listening
SET since_us = CASE WHEN %(now_us)s - last_us BETWEEN 0 AND %(break_us)s THEN since_us ELSE %(now_us)s END,
    last_us = %(now_us)s
RETURNING since_us
