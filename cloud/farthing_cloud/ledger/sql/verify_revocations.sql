-- A gateway that was revoked stays so: what it seals is parked. (Revocations from before links said so have none.)
SELECT format('gateway %%s: it was revoked, and its row is not there', a.name)
FROM (SELECT DISTINCT p.subject AS name FROM postings p WHERE p.kind = 'revoked') AS a
LEFT JOIN gateway_revocations r ON r.gateway_id = a.name
WHERE r.gateway_id IS NULL
ORDER BY a.name
LIMIT 1
