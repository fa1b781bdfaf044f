SELECT name FROM agency WHERE operator_id = %(operator_id)s AND agency_id = %(agency_id)s;
