UPDATE action
SET attempts = attempts + 1, outcome = %(outcome)s, last_error = '', changed_at_us = %(at_us)s,
    state = CASE WHEN wish = %(wish)s THEN 'done' ELSE 'due' END
WHERE case_id = %(case_id)s AND kind = 'block-device';
