-- All documents of an invoice's lines, in the order of issue.
SELECT id, operator_id, number, kind, prefix, ordinal, account_id, currency, issued_at_us, person, names_number, root_number,
    exact_micros, rounded_minor, content, content_hash
FROM document WHERE operator_id = %(operator_id)s AND root_number = %(root_number)s ORDER BY id;
