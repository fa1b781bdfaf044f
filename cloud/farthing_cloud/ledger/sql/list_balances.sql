SELECT a.path, a.currency, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted
FROM accounts a
WHERE a.operator_id = %(operator_id)s AND starts_with(a.path, %(path_prefix)s)
ORDER BY a.path, a.currency
