SELECT pg_advisory_xact_lock(hashtextextended('registry/' || %(operator_id)s, 0))
