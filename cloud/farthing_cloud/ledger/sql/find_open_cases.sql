SELECT n.authorization_id, n.gateway_id, c.id
FROM unnest(%(authorizations)s::bytea[], %(claim_gateways)s::text[]) AS n (authorization_id, gateway_id)
JOIN cases c USING (authorization_id)
WHERE c.status = 'open' AND c.kind = 'overlap'
    AND EXISTS (SELECT FROM asides s WHERE s.case_id = c.id AND s.gateway_id = n.gateway_id)
ORDER BY c.id
FOR NO KEY UPDATE OF c
