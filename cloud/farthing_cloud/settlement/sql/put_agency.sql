INSERT INTO agency (operator_id, agency_id, name) VALUES (%(operator_id)s, %(agency_id)s, %(name)s)
ON CONFLICT (operator_id, agency_id) DO UPDATE SET name = excluded.name;
