INSERT INTO action (case_id, kind, state, changed_at_us) VALUES (%(case_id)s, 'block-device', 'due', %(at_us)s)
ON CONFLICT (case_id, kind) DO UPDATE
SET state = 'due', wish = action.wish + 1, changed_at_us = excluded.changed_at_us;
