-- The last place before anything that was posted at or after an instant.
SELECT coalesce(
    (SELECT p.position - 1 FROM postings p
     WHERE p.operator_id = %(operator_id)s AND p.posted_at_us >= %(at_us)s
     ORDER BY p.position LIMIT 1),
    (SELECT h.position FROM audit_heads h WHERE h.operator_id = %(operator_id)s),
    0)
