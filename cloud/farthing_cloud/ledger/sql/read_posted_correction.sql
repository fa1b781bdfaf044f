SELECT c.correction_id, c.kind, c.content
FROM corrections c
WHERE c.operator_id = %(operator_id)s AND c.correction_id = %(correction_id)s
