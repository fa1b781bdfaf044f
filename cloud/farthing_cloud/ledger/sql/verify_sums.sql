SELECT format('operator %%s in %%s: debits and credits do not sum to zero', a.operator_id, a.currency)
FROM accounts a
GROUP BY a.operator_id, a.currency
HAVING sum(a.debits_posted) <> sum(a.credits_posted) OR sum(a.debits_pending) <> sum(a.credits_pending)
ORDER BY 1
LIMIT 1
