-- One change of rules or plans of an operator at a time, until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('settlement/' || %(operator_id)s, 0));
