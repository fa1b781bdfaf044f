SELECT kind, state, attempts, last_error, outcome, changed_at_us FROM action WHERE case_id = %(case_id)s ORDER BY kind;
