-- What is proven is split and paid out: each has the link of the audit chain that says so. (What bills nothing has nothing to prove.)
SELECT format('batch %%s of %%s, incarnation %%s: %%s', coalesce(b.sequence::text, split_part(a.subject, '/', 3)),
    coalesce(b.gateway_id, split_part(a.subject, '/', 1)), coalesce(b.incarnation::text, split_part(a.subject, '/', 2)),
    CASE WHEN b.proven THEN 'it says that it is proven, and nobody proved it' ELSE 'it was proven, and says that it is not' END)
FROM batches b
FULL JOIN (SELECT DISTINCT p.subject FROM postings p WHERE p.kind = 'proven') AS a
    ON a.subject = b.gateway_id || '/' || b.incarnation || '/' || b.sequence
WHERE (b.proven IS NOT TRUE AND a.subject IS NOT NULL)
    OR (b.proven AND a.subject IS NULL AND NOT (b.leaf_count = 0 AND b.lines = 0))
ORDER BY b.id
LIMIT 1
