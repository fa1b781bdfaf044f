SELECT operator_id, agency_id, name FROM agency
WHERE %(operator_id)s::text = '' OR operator_id = %(operator_id)s
ORDER BY operator_id, agency_id;
