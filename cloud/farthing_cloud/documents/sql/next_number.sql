WITH next AS (
    INSERT INTO series AS s (operator_id, prefix, kind, issued) VALUES (%(operator_id)s, %(prefix)s, %(kind)s, 1)
    ON CONFLICT (operator_id, prefix) DO UPDATE SET issued = s.issued + 1
    RETURNING kind, issued
)
SELECT next.kind, next.issued, d.content_hash AS previous_hash
FROM next
LEFT JOIN document d ON d.operator_id = %(operator_id)s AND d.prefix = %(prefix)s AND d.ordinal = next.issued - 1;
