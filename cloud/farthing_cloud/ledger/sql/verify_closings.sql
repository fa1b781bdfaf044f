SELECT format('window %%s of %%s in %%s: %%s', coalesce(c.closed, a.subject), coalesce(c.operator_id, a.operator_id),
    coalesce(c.currency, a.currency),
    CASE
        WHEN c.closed IS NULL THEN 'it was closed, and its row is not there'
        WHEN a.id IS NULL THEN 'no posting closed it'
        ELSE 'the books have it open'
    END)
FROM closings c
FULL JOIN (SELECT p.id, p.operator_id, p.currency, p.subject FROM postings p WHERE p.kind = 'close') AS a
    ON a.id = c.posting_id AND a.operator_id = c.operator_id AND a.currency = c.currency AND a.subject = c.closed
LEFT JOIN books b ON b.operator_id = c.operator_id AND b.currency = c.currency AND b.open_window = c.closed
WHERE c.closed IS NULL OR a.id IS NULL OR b.open_window IS NOT NULL
ORDER BY coalesce(c.posting_id, a.id)
LIMIT 1
