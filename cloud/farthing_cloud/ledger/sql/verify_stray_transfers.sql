SELECT format('transfer %%s: no posting made it', t.id)
FROM transfers t
WHERE NOT EXISTS (SELECT FROM postings p WHERE p.id = t.posting_id)
ORDER BY t.id
LIMIT 1
