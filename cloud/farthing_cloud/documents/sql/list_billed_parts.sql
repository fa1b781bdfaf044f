SELECT position, line, authorization_id, root_number, line_number, net_micros, tax_micros FROM billed_part
WHERE operator_id = %(operator_id)s AND account_id = %(account_id)s ORDER BY position, line, authorization_id;
