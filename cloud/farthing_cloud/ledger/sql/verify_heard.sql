-- What a gateway's batches have shown of its journal: what is behind that is a copy of it, and is not let in. Its hellos show more, and leave
-- no link: this is the least it can be. (While it waits for people, batches are no witness: one that ever did, in this incarnation, is not judged
-- by positions.)
WITH shown AS (
    SELECT b.gateway_id, b.incarnation, max(b.last_position) AS position, max(b.sequence) AS sequence
    FROM batches b
    GROUP BY b.gateway_id, b.incarnation
), heard AS (
    SELECT b.gateway_id, max(b.posted_at_us) AS at_us FROM batches b GROUP BY b.gateway_id
), waited AS (
    SELECT DISTINCT p.operator_id, split_part(p.subject, '/', 1) AS gateway_id, split_part(p.subject, '/', 2) AS incarnation
    FROM postings p
    WHERE p.kind = 'gateway-case' AND (p.subject = '' OR split_part(p.subject, '/', 3) <> '')
)
SELECT format('gateway %%s: %%s', g.gateway_id,
    CASE
        WHEN NOT g.adopted THEN 'its batches are of this incarnation, and its row says that no journal has begun it'
        WHEN g.sealed_sequence < s.sequence THEN 'more of its batches are posted than its row says it had sealed'
        WHEN g.contact_at_us < h.at_us THEN 'its batches came after the instant at which its row says it was last heard'
        ELSE 'its batches show a later position of its journal than its row'
    END)
FROM gateways g
JOIN heard h ON h.gateway_id = g.gateway_id
LEFT JOIN shown s ON s.gateway_id = g.gateway_id AND s.incarnation = g.incarnation
WHERE g.contact_at_us < h.at_us
    OR (s.gateway_id IS NOT NULL AND (NOT g.adopted OR g.sealed_sequence < s.sequence))
    OR (g.witness_position < s.position AND NOT EXISTS (
        SELECT FROM waited w
        WHERE w.operator_id = g.operator_id AND w.gateway_id IN ('', g.gateway_id) AND w.incarnation IN ('', g.incarnation::text)))
ORDER BY g.gateway_id
LIMIT 1
