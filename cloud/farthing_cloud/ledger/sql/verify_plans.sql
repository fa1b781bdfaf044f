SELECT format('plan %%s: %%s', coalesce(p.plan_id, split_part(a.subject, '/', 1)),
    CASE
        WHEN p.plan_id IS NULL THEN 'it was posted, and what was planned is not there'
        WHEN a.subject IS NULL THEN 'no posting made or approved it'
        WHEN p.content_hash <> sha256(p.content) THEN 'its content is not what its hash says'
        ELSE 'a correction executes it, and nobody approved it'
    END)
FROM (
    SELECT n.plan_id, n.content, n.content_hash, n.plan_id || '/' || encode(n.content_hash, 'hex') || '/' || by.person AS subject,
        (by.person IS DISTINCT FROM n.planned_by) AS approves, n.approved_by
    FROM correction_plans n
    CROSS JOIN LATERAL (VALUES (n.planned_by), (n.approved_by)) AS by (person)
    WHERE by.person IS NOT NULL
) AS p
FULL JOIN (SELECT o.subject FROM postings o WHERE o.kind = 'correction-plan') AS a ON a.subject = p.subject
WHERE p.plan_id IS NULL
    OR a.subject IS NULL
    OR p.content_hash <> sha256(p.content)
    OR (p.approved_by IS NULL AND EXISTS (SELECT FROM corrections c WHERE c.plan_id = p.plan_id AND c.plan_id <> ''))
ORDER BY coalesce(p.plan_id, a.subject)
LIMIT 1
