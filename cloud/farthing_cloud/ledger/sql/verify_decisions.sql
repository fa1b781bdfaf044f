-- What two persons decided: each row's content and persons are those of its links, and each link has its row.
WITH decided AS (
    SELECT 'decision' AS what, d.decision_id AS id, d.content, d.content_hash, d.proposed_by, d.approved_by FROM decisions d
    UNION ALL
    SELECT 'review', r.review_id, r.content, r.content_hash, r.proposed_by, r.approved_by FROM import_reviews r
), said AS (
    SELECT d.what, d.id, d.content, d.content_hash, d.id || '/' || encode(d.content_hash, 'hex') || '/' || by.person AS subject
    FROM decided d
    CROSS JOIN LATERAL (VALUES (d.proposed_by), (d.approved_by)) AS by (person)
    WHERE by.person IS NOT NULL
)
SELECT format('%%s %%s: %%s', coalesce(s.what, a.kind), coalesce(s.id, split_part(a.subject, '/', 1)),
    CASE
        WHEN s.id IS NULL THEN 'it was posted, and what was decided is not there'
        WHEN a.subject IS NULL THEN 'no posting says that this person proposed or approved it'
        ELSE 'its content is not what its hash says'
    END)
FROM said s
FULL JOIN (
    SELECT DISTINCT p.kind, p.subject FROM postings p
    WHERE p.kind IN ('propose', 'incarnation', 'forced-void', 'epoch', 'given-up', 'import-review') AND p.subject LIKE '%%/%%/%%'
) AS a ON a.subject = s.subject
WHERE s.id IS NULL OR a.subject IS NULL OR s.content_hash <> sha256(s.content)
ORDER BY coalesce(s.id, a.subject)
LIMIT 1
