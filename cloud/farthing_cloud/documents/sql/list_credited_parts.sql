SELECT correction_position, position, line, authorization_id, number, net_micros, tax_micros FROM credited_part
WHERE operator_id = %(operator_id)s AND account_id = %(account_id)s
ORDER BY correction_position, position, line, authorization_id;
