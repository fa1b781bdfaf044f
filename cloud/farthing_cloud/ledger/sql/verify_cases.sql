-- What was set aside is released or voided by people: the posting that did it is there, or the case is open.
SELECT format('case %%s: %%s', coalesce(c.id::text, a.subject),
    CASE
        WHEN c.id IS NULL THEN 'it was decided, and its row is not there'
        WHEN c.status = 'open' THEN 'it was decided, and says that it is open'
        ELSE 'it says that it was ' || c.status || ', and nobody did so'
    END)
FROM cases c
FULL JOIN (SELECT DISTINCT p.subject FROM postings p WHERE p.kind = 'case') AS a ON a.subject = c.id::text
WHERE c.id IS NULL OR (c.status = 'open') <> (a.subject IS NULL)
ORDER BY c.id
LIMIT 1
