SELECT id, operator_id, number, kind, prefix, ordinal, account_id, currency, issued_at_us, person, names_number, root_number,
    exact_micros, rounded_minor, ''::bytea AS content, content_hash
FROM document
WHERE operator_id = %(operator_id)s AND %(account_id)s::text IN ('', account_id)
    AND id > coalesce((SELECT a.id FROM document a WHERE a.operator_id = %(operator_id)s AND a.number = %(after_number)s), 0)
ORDER BY id LIMIT %(limit)s;
