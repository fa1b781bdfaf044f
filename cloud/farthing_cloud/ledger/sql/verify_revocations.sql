-- A gateway that was revoked stays so: what it seals is parked. Nobody is, unless a link says so. (Revocations from before links said so have
-- none: those rows were marked when links began.)
SELECT CASE WHEN r.gateway_id IS NULL THEN format('gateway %%s: it was revoked, and its row is not there', a.name)
    ELSE format('gateway %%s: its row says that it is revoked, and nobody did so', r.gateway_id) END
FROM (SELECT DISTINCT p.subject AS name FROM postings p WHERE p.kind = 'revoked') AS a
FULL JOIN gateway_revocations r ON r.gateway_id = a.name
WHERE r.gateway_id IS NULL OR (a.name IS NULL AND r.linked)
ORDER BY coalesce(a.name, r.gateway_id)
LIMIT 1
