SELECT pg_advisory_xact_lock(hashtextextended('vault/' || %(operator_id)s, 0))
