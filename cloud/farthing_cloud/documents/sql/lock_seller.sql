-- One at a time takes numbers of a seller, until the end of its transaction.
SELECT pg_advisory_xact_lock(hashtextextended('documents/' || %(operator_id)s, 0));
