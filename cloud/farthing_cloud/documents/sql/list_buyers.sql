SELECT operator_id, account_id, name, street, city, postcode, country, vat_id
FROM buyer WHERE operator_id = %(operator_id)s AND %(account_id)s::text IN ('', account_id) ORDER BY account_id;
