SELECT root_number, line_number FROM billed_part
WHERE operator_id = %(operator_id)s AND account_id = %(account_id)s AND position = %(position)s AND line = %(line)s
    AND authorization_id = %(authorization_id)s;
