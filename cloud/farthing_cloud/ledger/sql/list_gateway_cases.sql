SELECT id, gateway_id, incarnation, kind, detail, status, opened_at_us, coalesce(closed_at_us, 0)
FROM gateway_cases
WHERE operator_id = %(operator_id)s AND (NOT %(open_only)s OR status = 'open')
ORDER BY id
