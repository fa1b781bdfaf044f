SELECT operator_id, name, street, city, postcode, country, vat_id, invoice_prefix, credit_note_prefix, version
FROM seller WHERE operator_id = %(operator_id)s ORDER BY version DESC LIMIT 1;
