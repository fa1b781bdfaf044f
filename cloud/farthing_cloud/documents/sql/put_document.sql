INSERT INTO document (operator_id, number, kind, prefix, ordinal, account_id, currency, issued_at_us, person, names_number,
    root_number, exact_micros, rounded_minor, content, content_hash)
VALUES (%(operator_id)s, %(number)s, %(kind)s, %(prefix)s, %(ordinal)s, %(account_id)s, %(currency)s, %(issued_at_us)s,
    %(person)s, %(names_number)s, %(root_number)s, %(exact_micros)s, %(rounded_minor)s, %(content)s, %(content_hash)s);
