SELECT DISTINCT ON (operator_id) operator_id, name, street, city, postcode, country, vat_id, invoice_prefix,
    credit_note_prefix, version
FROM seller WHERE %(operator_id)s::text IN ('', operator_id) ORDER BY operator_id, version DESC;
