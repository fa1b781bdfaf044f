SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '/wish/' || %(gateway_id)s, 0))
