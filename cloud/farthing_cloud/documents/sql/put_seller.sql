INSERT INTO seller (operator_id, version, name, street, city, postcode, country, vat_id, invoice_prefix, credit_note_prefix,
    person, at_us, ledger_epoch)
VALUES (%(operator_id)s, %(version)s, %(name)s, %(street)s, %(city)s, %(postcode)s, %(country)s, %(vat_id)s,
    %(invoice_prefix)s, %(credit_note_prefix)s, %(person)s, %(at_us)s, %(ledger_epoch)s);
