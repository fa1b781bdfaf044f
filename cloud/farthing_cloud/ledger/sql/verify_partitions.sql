-- Nothing can be said of accounts, quotas and links whose transfers are elsewhere.
SELECT format('the transfers of postings %%s to %%s are not here: their partition was taken out; attach it again to verify',
    o.first_posting, o.last_posting)
FROM transfers_taken_out o
WHERE EXISTS (SELECT FROM postings p WHERE p.id BETWEEN o.first_posting AND o.last_posting)
ORDER BY o.first_posting
LIMIT 1
