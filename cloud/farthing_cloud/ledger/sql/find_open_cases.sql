SELECT c.authorization_id, c.id
FROM cases c
WHERE c.authorization_id = ANY (%(authorizations)s::bytea[]) AND c.status = 'open' AND c.kind = 'overlap'
    AND EXISTS (SELECT FROM asides s WHERE s.case_id = c.id AND s.gateway_id = %(gateway_id)s)
ORDER BY c.id
FOR NO KEY UPDATE OF c
