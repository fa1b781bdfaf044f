INSERT INTO buyer (operator_id, account_id, name, street, city, postcode, country, vat_id, person, at_us)
VALUES (%(operator_id)s, %(account_id)s, %(name)s, %(street)s, %(city)s, %(postcode)s, %(country)s, %(vat_id)s, %(person)s,
    %(at_us)s)
ON CONFLICT (operator_id, account_id) DO UPDATE SET name = excluded.name, street = excluded.street, city = excluded.city,
    postcode = excluded.postcode, country = excluded.country, vat_id = excluded.vat_id, person = excluded.person,
    at_us = excluded.at_us;
