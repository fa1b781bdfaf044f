-- Which gateways wait for people: one that waits is given nothing. Each link about it in its present incarnation says whether, and why; a new
-- incarnation waits for nobody. (Links from before they did name no gateway: where there are such, a gateway without a newer one is not judged.)
WITH said AS (
    SELECT DISTINCT ON (p.operator_id, split_part(p.subject, '/', 1)) p.operator_id, split_part(p.subject, '/', 1) AS gateway_id,
        split_part(p.subject, '/', 2) AS incarnation, split_part(p.subject, '/', 3) AS hash
    FROM postings p
    WHERE p.kind = 'gateway-case' AND p.subject <> ''
    ORDER BY p.operator_id, split_part(p.subject, '/', 1), p.position DESC
), silent AS (
    SELECT DISTINCT p.operator_id FROM postings p WHERE p.kind = 'gateway-case' AND p.subject = ''
)
SELECT format('gateway %%s: why it waits for people, or that it does not, is not what was posted', g.gateway_id)
FROM gateways g
LEFT JOIN said s ON s.operator_id = g.operator_id AND s.gateway_id = g.gateway_id AND s.incarnation = g.incarnation::text
LEFT JOIN silent o ON o.operator_id = g.operator_id
WHERE (s.hash IS NOT NULL OR o.operator_id IS NULL)
    AND coalesce(s.hash, '') <> CASE WHEN g.waits_because = '' THEN ''
        ELSE encode(sha256(convert_to(g.waits_because || '|' || encode(g.waits_start_id, 'hex'), 'UTF8')), 'hex') END
ORDER BY g.gateway_id
LIMIT 1
