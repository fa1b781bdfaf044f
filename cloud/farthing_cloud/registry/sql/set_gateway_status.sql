UPDATE gateway SET status = %(status)s, revision = revision + CASE WHEN %(tell_ledger)s THEN 1 ELSE 0 END
WHERE gateway_id = %(gateway_id)s
