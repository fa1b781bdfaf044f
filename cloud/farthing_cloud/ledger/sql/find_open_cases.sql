SELECT c.authorization_id, c.id
FROM cases c
WHERE c.authorization_id = ANY (%(authorizations)s::bytea[]) AND c.status = 'open' AND c.kind = 'overlap'
